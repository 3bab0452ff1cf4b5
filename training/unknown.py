"""The key of a table that no version of its type knows, found with its nearest known one.

msgspec can refuse such a key, but neither inside dataclasses nor with what was probably meant.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from msgspec import inspect


def find_unknown(raw: Any, kind: type) -> str | None:
    """Return a part of a sentence that names the first unknown key, None without one."""
    return next(_walk(raw, inspect.type_info(kind), ""), None)


def guess(key: str, known: Iterable[str], inside: str = "") -> str:
    """Return ``<path> (did you mean <nearest>?)``."""
    nearest = get_close_matches(key, sorted(known), n=1, cutoff=0.0)
    hint = f" (did you mean {inside}{nearest[0]}?)" if nearest else ""
    return f"{inside}{key}{hint}"


def _walk(raw: Any, kind: inspect.Type, inside: str) -> Iterator[str]:
    if isinstance(kind, inspect.Metadata | inspect.UnionType):
        kind = _choose(raw, kind)
    if isinstance(raw, Mapping) and isinstance(kind, inspect.StructType | inspect.DataclassType):
        yield from _walk_fields(raw, kind, inside)
    elif isinstance(raw, Mapping) and isinstance(kind, inspect.DictType):
        for key, value in raw.items():
            yield from _walk(value, kind.value_type, f"{inside}{key}.")
    elif isinstance(raw, list) and isinstance(kind, inspect.VarTupleType):
        for number, value in enumerate(raw):
            yield from _walk(value, kind.item_type, f"{inside}{number}.")


def _walk_fields(
    raw: Mapping[str, Any], kind: inspect.StructType | inspect.DataclassType, inside: str
) -> Iterator[str]:
    known = {field.encode_name: field.type for field in kind.fields}
    tag = kind.tag_field if isinstance(kind, inspect.StructType) else None
    for key, value in raw.items():
        if key in known:
            yield from _walk(value, known[key], f"{inside}{key}.")
        elif key != tag:
            yield guess(key, known, inside)


def _choose(raw: Any, kind: inspect.Metadata | inspect.UnionType) -> inspect.Type:
    """Return the type in a union that a value says it is, by its tag where there are several."""
    if isinstance(kind, inspect.Metadata):
        return kind.type
    tables = [
        one for one in kind.types if isinstance(one, inspect.StructType | inspect.DataclassType)
    ]
    for one in tables:
        if isinstance(one, inspect.StructType) and _says(raw, one):
            return one
    return tables[0] if len(tables) == 1 else inspect.AnyType()


def _says(raw: Any, kind: inspect.StructType) -> bool:
    tagged = kind.tag_field is not None and isinstance(raw, Mapping)
    return tagged and raw.get(kind.tag_field) == kind.tag

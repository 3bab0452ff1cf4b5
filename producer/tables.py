"""Operations on Arrow tables that hold for columns of every type, where Arrow's own do not."""

import contextlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Types that Arrow's operations often do not know, and those that they stand for.
VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def pick_rows(table: pa.Table, places: NDArray[np.int64]) -> pa.Table:
    """Return the rows at these places, in this order. Shape of ``places``: ``(rows,)``.

    By slices, since Arrow's ``take`` and ``filter`` know no string views.
    """
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1) if len(places) else []
    return pa.concat_tables([table.slice(0, 0), *(table.slice(run[0], len(run)) for run in runs)])


def compact(table: pa.Table) -> pa.Table:
    """Drop what no row of a slice uses: dictionary entries and buffers of views go with it."""
    for index, field in enumerate(table.schema):
        plain = _plain(field.type)
        if plain != field.type:
            # A dictionary may be too small for all files' entries together: then it stays as it is.
            with contextlib.suppress(pa.ArrowInvalid):
                chunks = table.column(index).cast(plain).chunks
                # Joined with nothing, since a single slice of lists keeps the lists around it.
                column = pa.concat_arrays([*chunks, pa.array([], plain)]).cast(field.type)
                table = table.set_column(index, field, column)
    return table


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type without dictionaries and views, at any depth."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field))
    if pa.types.is_nested(kind):
        return _plain_list(kind)
    return VIEWS.get(kind, kind)


def _plain_list(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    return pa.list_(_plain_field(kind.value_field)) if pa.types.is_list(kind) else kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain(field.type))

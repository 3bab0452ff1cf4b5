"""The bytes of each value of a column of any type, as they count towards a batch's bound.

A value has the same size wherever a column is cut into chunks: batches follow from it.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from producer.tables import VIEWS

Sizes = NDArray[np.int64]


def measure_rows(column: pa.ChunkedArray) -> Sizes:
    """Return the bytes of each value. Shape: ``(rows,)``.

    A dictionary's entry counts in every row that has it.
    """
    return np.concatenate([np.zeros(0, np.int64), *map(_measure, column.chunks)])


def _measure(array: pa.Array) -> Sizes:
    if isinstance(array.type, pa.BaseExtensionType):
        return _measure(array.storage)
    if pa.types.is_dictionary(array.type):
        sizes = np.append(_measure(array.dictionary), 0)
        null = len(sizes) - 1
        return _pick(sizes, array.indices.cast(pa.int64()).fill_null(null))
    return _measure_nested(array) if pa.types.is_nested(array.type) else _measure_flat(array)


def _measure_nested(array: pa.Array) -> Sizes:
    if pa.types.is_struct(array.type):
        parts = [_measure(part) for part in array.flatten()]
        whole: Sizes = np.sum([np.zeros(len(array), np.int64), *parts], axis=0, dtype=np.int64)
        return whole
    if pa.types.is_map(array.type):
        ends = np.append(0, np.cumsum(_measure(array.keys) + _measure(array.items)))
        return np.diff(_pick(ends, array.offsets))
    ends = np.append(0, np.cumsum(_measure(array.flatten())))
    lasts = np.cumsum(_lengths(pc.list_value_length(array)))
    return np.diff(_pick(ends, pa.array(np.append(0, lasts))))


def _measure_flat(array: pa.Array) -> Sizes:
    kind, types = array.type, pa.types
    if kind in VIEWS:
        return _measure_flat(array.cast(VIEWS[kind]))
    if types.is_string(kind) or types.is_large_string(kind):
        return _lengths(pc.binary_length(array))
    if types.is_binary(kind) or types.is_large_binary(kind):
        return _lengths(pc.binary_length(array))
    bits = 0 if types.is_null(kind) else kind.bit_width
    return np.full(len(array), -(-bits // 8), np.int64)


def _pick(sizes: Sizes, places: pa.Array) -> Sizes:
    picked: Sizes = np.take(sizes, places.to_numpy())
    return picked


def _lengths(found: pa.Array) -> Sizes:
    return np.asarray(found.cast(pa.int64()).fill_null(0).to_numpy(), np.int64)

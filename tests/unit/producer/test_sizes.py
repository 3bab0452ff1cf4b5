"""Sizes of values: by what they hold, for every type, wherever a column is cut."""

from typing import Any

import pyarrow as pa
import pytest

from producer.sizes import measure_rows
from tests.making import typed_columns

TYPED = typed_columns()


def measure(array: pa.Array) -> list[int]:
    return measure_rows(pa.chunked_array([array])).tolist()


@pytest.mark.parametrize("name", TYPED)
def test_a_value_has_one_size_wherever_its_column_is_cut(name: str) -> None:
    array = TYPED[name]
    whole = measure(array)
    assert len(whole) == len(array)
    assert [measure(array.slice(row, 1))[0] for row in range(len(array))] == whole
    pieces = pa.chunked_array([array.slice(0, 2), array.slice(2)])
    assert measure_rows(pieces).tolist() == whole


def test_no_rows_have_no_sizes() -> None:
    assert measure_rows(pa.chunked_array([], pa.string())).tolist() == []


@pytest.mark.parametrize(
    ("values", "kind", "sizes"),
    [
        (["a", "ç", None, ""], pa.string(), [1, 2, 0, 0]),
        (["a" * 40, None], pa.string_view(), [40, 0]),
        (["aa", None, "b", "aa"], pa.dictionary(pa.int8(), pa.string()), [2, 0, 1, 2]),
        ([1, None], pa.int32(), [4, 4]),
        ([True, None], pa.bool_(), [1, 1]),
        ([None, None], pa.null(), [0, 0]),
        ([["a", "bcd"], None, [], ["e"]], pa.list_(pa.string()), [4, 0, 0, 1]),
        ([[[1], [2, 3]], [[]], None], pa.list_(pa.list_(pa.int16())), [6, 0, 0]),
        ([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2), [2, 0, 2]),
        ([[("a", "bc")], None, [("d", None), ("e", "f")]], pa.map_(pa.string(), pa.string()),
         [3, 0, 3]),
        ([{"x": 1, "y": "abc"}, {"x": 2, "y": None}],
         pa.struct([("x", pa.int64()), ("y", pa.string())]), [11, 8]),
    ],
)  # fmt: skip
def test_a_values_size_is_that_of_what_it_holds(
    values: list[Any], kind: pa.DataType, sizes: list[int]
) -> None:
    assert measure(pa.array(values, kind)) == sizes

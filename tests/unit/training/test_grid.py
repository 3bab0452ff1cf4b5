"""Grids: values as they are written, every combination once, each in a folder of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.grid import Axis, combine, parse_axis, shorten
from training.recipe_file import parse_setting
from worker.contracts.errors import UsageError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.rate=1e-5,2e-5", ("1e-5", "2e-5")),
        ("a.rate=1e-5", ("1e-5",)),
        ("a.start=step:one, step:two", ("step:one", "step:two")),
        ("a.rows=['x','y'],['z']", ("['x','y']", "['z']")),
        ("a.weights={ hard = 1, x = 2 },{ x = 1 }", ("{ hard = 1, x = 2 }", "{ x = 1 }")),
        ("a.word=\"one, two\",'three'", ('"one, two"', "'three'")),
        ("a.word='[',']'", ("'['", "']'")),
    ],
)  # fmt: skip
def test_commas_part_values_but_not_within_them(text: str, values: tuple[str, ...]) -> None:
    axis = parse_axis(text)
    assert axis == Axis(text.partition("=")[0], values)
    for value in values:
        assert parse_setting(f"{axis.key}={value}")


@pytest.mark.parametrize("text", ["rate", "=1,2", "a.rate=", "a.rate=1,,2", "a.rate=1,2,1"])
def test_what_is_no_axis_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="--over") as caught:
        parse_axis(text)
    assert "\n" not in str(caught.value)


def test_a_grid_has_every_combination_once_and_each_its_folder() -> None:
    made = combine([Axis("steps.a.rate", ("1e-5", "2e-5")), Axis("steps.a.seed", ("1", "2"))])
    assert [one.name for one in made] == [
        "rate=1e-5,seed=1", "rate=1e-5,seed=2", "rate=2e-5,seed=1", "rate=2e-5,seed=2",
    ]  # fmt: skip
    assert made[1].settings == ("steps.a.rate=1e-5", "steps.a.seed=2")


def test_keys_are_as_short_as_they_can_be_told_apart() -> None:
    keys = ["steps.a.schedule.seed", "steps.b.schedule.seed", "data.b.rows", "seed"]
    assert shorten(keys) == {
        "steps.a.schedule.seed": "a.schedule.seed",
        "steps.b.schedule.seed": "b.schedule.seed",
        "data.b.rows": "rows",
        "seed": "seed",
    }


@pytest.mark.parametrize(
    ("axes", "named"), [([], "at least one key"), ([Axis("a", ("1",))] * 2, "gives a key twice")]
)
def test_no_key_or_one_key_twice_is_refused(axes: list[Axis], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        combine(axes)


@given(st.lists(st.text(min_size=1, max_size=130), min_size=1, max_size=6, unique=True))
def test_every_value_has_a_folder_of_its_own_that_any_disk_takes(values: list[str]) -> None:
    names = [one.name for one in combine([Axis("steps.a.start", tuple(values))])]
    assert len(set(names)) == len(values)
    assert all(len(name) <= 110 and name.startswith("start=") for name in names)
    assert not any(set("/\\\0\n ") & set(name) for name in names)

"""Recipes: every key known or refused in a sentence, every value settable, no name led astray."""

from pathlib import Path

import pytest

from training.lesson import Weights
from training.recipe import (
    Distill,
    FineTune,
    Pack,
    Paraphrased,
    list_files,
    list_needed,
    list_paraphrases,
    parse_start,
)
from training.recipe_file import find_recipe, parse_setting, read_recipe
from worker.contracts.errors import UsageError

RECIPE = """
name = "mine"
encoder = { name = "somebody/encoder", licence = "MIT" }

[held_out]
files = ["a"]
share = 0.1

[data]
a = { licence = "MIT" }
b = { licence = "MIT", rows = 10, seed = 3 }
idle = { licence = "MIT" }

[augment]
hard = { how = "nearest", of = ["a"], rows = 5 }

[mixtures]
all = ["a", "b", "hard"]

[steps.idle]
kind = "finetune"
stages = [{ rows = ["idle"] }]

[steps.first]
kind = "finetune"
stages = [{ rows = ["all"] }, { rows = ["a"], epochs = 2 }]
schedule = { learning_rate = 2e-4, batch_windows = 16 }

[steps.small]
kind = "distill"
start = "step:first"
teachers = ["step:first", "bundle:some/bundle"]
weights = { soft = 1 }
materials = [{ pairs = ["b"] }]

[steps.bundle]
kind = "bundle"
start = "step:small"

[card]
licence = "MIT"
summary = "Nonsense, for tests."
limits = []
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "mine.toml").write_text(RECIPE)
    return str(tmp_path / "mine.toml")


def _refuse(recipe: str, setting: str) -> str:
    with pytest.raises(UsageError) as caught:
        read_recipe(recipe, [setting])
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_recipe_is_what_its_file_says(recipe: str) -> None:
    written = read_recipe(recipe)
    assert written.text == RECIPE
    first, small, bundle = (written.recipe.steps[name] for name in ("first", "small", "bundle"))
    assert isinstance(first, FineTune)
    assert (first.start, first.schedule.learning_rate) == ("encoder", 2e-4)
    assert [(one.rows, one.epochs) for one in first.stages] == [(("all",), 1), (("a",), 2)]
    assert isinstance(small, Distill)
    assert small.weights == Weights(soft=1.0)
    assert isinstance(bundle, Pack)


def test_only_what_the_last_step_stands_on_is_needed(recipe: str) -> None:
    assert list_needed(read_recipe(recipe).recipe) == ["first", "small", "bundle"]
    begun = read_recipe(
        recipe, ["steps.small.start=checkpoint:x", "steps.small.teachers=['encoder']"]
    )
    assert list_needed(begun.recipe) == ["small", "bundle"]


def test_a_step_before_the_last_can_end_a_run(recipe: str) -> None:
    found = read_recipe(recipe).recipe
    assert list_needed(found, "first") == ["first"]
    with pytest.raises(UsageError, match=r"no step frist \(did you mean first\?\)"):
        list_needed(found, "frist")


def test_paraphrases_are_found_behind_other_names(recipe: str) -> None:
    setting = "augment.hard={how='paraphrase',of=['a'],rows=5,share=0.5,parts=['noun'],senses=2}"
    found = read_recipe(recipe, [setting]).recipe
    made = found.augment["hard"]
    assert isinstance(made, Paraphrased)
    assert (made.share, made.parts, made.senses, made.seed) == (0.5, ("noun",), 2, 0)
    assert list_paraphrases(found, ["all", "a"]) == ["hard"]
    assert list_paraphrases(read_recipe(recipe).recipe, ["all"]) == []


def test_names_of_rows_lead_to_files(recipe: str) -> None:
    found = read_recipe(recipe).recipe
    assert list_files(found, ["all"]) == ["a", "b"]
    assert list_files(found, ["hard", "idle"]) == ["a", "idle"]


def test_every_value_can_be_set(recipe: str) -> None:
    found = read_recipe(
        recipe,
        [
            "steps.first.schedule.learning_rate=3e-5",
            "steps.first.stages.1.epochs=4",
            "steps.small.start=bundle:a path/with=signs",
            'encoder.name="other/encoder"',
            "mixtures.all=['a']",
            "held_out.judge_rows=7",
            "windows.max_window_tokens=256",
        ],
    )
    first, small = found.recipe.steps["first"], found.recipe.steps["small"]
    assert isinstance(first, FineTune)
    assert (first.schedule.learning_rate, first.schedule.batch_windows) == (3e-5, 16)
    assert [stage.epochs for stage in first.stages] == [1, 4]
    assert parse_start(small.start).name == "a path/with=signs"
    assert found.recipe.encoder is not None
    assert found.recipe.encoder.name == "other/encoder"
    assert found.recipe.mixtures == {"all": ("a",)}
    assert found.recipe.held_out.judge_rows == 7
    assert found.recipe.windows.max_window_tokens == 256
    assert found.settings[1] == "steps.first.stages.1.epochs=4"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("nam=x", "no key nam (did you mean name?)"),
        ("steps.first.shedule.seed=1", "steps.first.shedule (did you mean steps.first.schedule?)"),
        ("steps.first.schedule.learning_rat=1", "mean steps.first.schedule.learning_rate?)"),
        ("steps.small.weights.softt=1", "(did you mean steps.small.weights.soft?)"),
        ("steps.small.epochs=1", "no key steps.small.epochs"),
        ("steps.first.stages.0.row=['a']", "steps.first.stages.0.row (did you mean"),
        ("data.a.licens=x", "data.a.licens (did you mean data.a.licence?)"),
        ("steps.frst.schedule.seed=1", "steps.frst (did you mean steps.first?)"),
        ("data.c.licence=x", "data.c"),
        ("held_out.files=['ab']", "ab (did you mean b?)"),
        ("held_out.unread={of='ab',rows=9}", "held_out.unread.of names ab (did you mean b?)"),
        ("held_out.unread={of='all',rows=9}", "which is no table of [data]: name one"),
        ("steps.first.stages.0.rows=['al']", "steps.first names the rows al (did you mean all?)"),
        ("augment.hard.of=['c']", "augment.hard names the rows c"),
        ("augment.hard.share=0.5", "no key augment.hard.share"),
        ("augment.hard={how='paraphrase',of=['a'],rows=5,par=[]}", "mean augment.hard.par"),
        ("held_out.unanswerable.of=['a']", "no key held_out.unanswerable.of"),
        ("steps.first.schedule.language=es", "say the language on the card alone"),
        ("steps.small.start=step:bundle", "bundle (did you mean"),
        ("steps.small.start=step:small", "no earlier step"),
        ("steps.small.teachers=['somebody']", "nothing to start from"),
        ("steps.small.start=encoder:x", "nothing to start from"),
        ("mixtures.all=['all']", "stands on itself"),
        ("augment.hard.of=['all']", "stands on itself"),
        ("mixtures.a=['b']", "mixtures.a"),
    ],
)  # fmt: skip
def test_a_name_that_leads_nowhere_is_one_sentence(setting: str, named: str, recipe: str) -> None:
    assert named in _refuse(recipe, setting)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("steps.first.schedule.batch_windows=0", "`int` >= 1"),
        ("steps.first.schedule.patience=-1", "`int` >= 1"),
        ("steps.first.schedule.precision=fp8", "fp8"),
        ("steps.first.schedule.precision=fp16", "fp16"),
        ("steps.first.schedule.learning_rate=fast", "learning_rate"),
        *(
            (f"steps.first.schedule.{name}={value}", f".schedule.{name}")
            for name in ("learning_rate", "weight_decay", "max_gradient_norm", "decay_power")
            for value in ("-1.0", "nan", "inf")
        ),
        ("steps.first.schedule.learning_rate=0", "`float` > 0.0"),
        ("steps.first.schedule.dropout=nan", "dropout"),
        ("steps.first.stages=[]", "stages"),
        ("steps.first.stages.0.rows=[]", "rows"),
        ("steps.small.materials=[]", "materials"),
        ("steps.small.teachers=[]", "teachers"),
        ("held_out.files=[]", "files"),
        ("augment.hard.of=[]", ".of"),
        ("steps.first.stages.0.epochs=0", "`int` >= 1"),
        ("steps.first.kind=fine", "fine"),
        ("held_out.share=1", "share"),
        ("augment.hard.how=nearst", "nearst"),
        ("augment.hard={how='paraphrase',of=['a'],rows=5,share=0}", "share"),
        ("augment.hard={how='paraphrase',of=['a'],rows=5,parts=['article']}", "article"),
        ("augment.hard={how='paraphrase',of=['a'],rows=5,parts=[]}", "parts"),
        ("held_out.unanswerable={how='paraphrase',rows=5}", "paraphrase"),
        ("steps.first.schedule.keep=worst", "worst"),
        ("windows.max_window_tokens=100", "max_window_tokens is 100"),
        ("steps.first.stages.7.epochs=1", "count from 0"),
        ("steps.bundle.mode=fp16", "mode"),
        ("just words", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_sentence(setting: str, named: str, recipe: str) -> None:
    assert named in _refuse(recipe, setting)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[steps.small]", "[steps.'small one']", "cannot be named"),
        ("all = [", "b = [", "b is the name of two sets"),
        ('encoder = { name = "somebody/encoder", licence = "MIT" }', "", "add [encoder]"),
        ("[card]", "[card", "cannot be read as TOML"),
        ("limits = []", "", "limits"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_sentence(
    old: str, new: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(UsageError) as caught:
        read_recipe(str(tmp_path / "mine.toml"))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value).replace("\\n", "")


def test_a_recipe_of_the_package_is_found_by_its_name_and_another_is_not() -> None:
    assert find_recipe("default").name == "default.toml"
    with pytest.raises(UsageError, match=r"no recipe defualt: .* default"):
        find_recipe("defualt")


def test_every_recipe_of_the_package_can_be_read() -> None:
    for path in find_recipe("default").parent.glob("*.toml"):
        assert read_recipe(str(path)).recipe.name == path.stem


def test_a_setting_that_is_no_toml_is_taken_as_text() -> None:
    assert parse_setting("a.b=step:first") == {"a": {"b": "step:first"}}
    assert parse_setting("a.b=2") == {"a": {"b": 2}}
    assert parse_setting('a."b.c"=true') == {"a": {"b.c": True}}

"""The package's recipes, whole, on tiny models of their families: losses fall, bundles answer."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForQuestionAnswering

from tests.small_wordnet import write_wordnet
from tests.tiny import Tiny, make_tokenizer, write_checkpoint
from tests.towns import ENGLISH, SPANISH, write_towns
from training.data import Labelled
from training.evaluate import read_rows
from training.follow import follow
from training.recipe import Pack
from training.recipe_file import read_recipe
from training.rows import Rows
from training.workspace import Place
from worker.contracts.bundle import Bundle, load_bundle
from worker.contracts.errors import UsageError
from worker.opening import graph_of

pytestmark = pytest.mark.timeout(900)
#: Small windows, and rates and warmups for some dozens of steps.
_WINDOWS = (
    "windows.max_window_tokens=96",
    "windows.overlap_tokens=16",
    "windows.max_question_tokens=32",
    "held_out.share=0.25",
)
_QUICK = {"learning_rate": "2e-3", "batch_windows": "8", "precision": "no", "average_decay": "0.9"}


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What makes a recipe small: its encoder, its models, values of its own."""

    encoder: Callable[[Tiny, Path], Path] | None
    settings: tuple[str, ...]
    steps: tuple[str, ...]
    text: str = ENGLISH
    made: dict[str, Callable[[Tiny, Path], Path]] = field(default_factory=dict)


def _deep(family: str, layers: int) -> Callable[[Tiny, Path], Path]:
    def write(_tiny: Tiny, folder: Path) -> Path:
        path = folder / f"{family}-{layers}"
        if not path.exists():
            write_checkpoint(family, path, layers=layers, seed=3)
        return path

    return write


RECIPES = {
    "distilbert-wordnet": Shrunk(
        encoder=lambda tiny, _: tiny.checkpoint("distilbert"),
        settings=(
            "steps.tuned.stages.0.epochs=4",
            "steps.tuned.schedule.warmup_steps=3",
            "augment.synonyms.wordnet={wordnet}",
        ),
        steps=("tuned",),
        made={"wordnet": lambda _, folder: folder / "wordnet"},
    ),
    "spanish-tiny-roberta": Shrunk(
        encoder=_deep("roberta", 6),
        settings=(
            "steps.teacher.schedule.accumulation=1",
            "steps.teacher.stages.0.epochs=3",
            "steps.student.layers=[3,6]",
            "steps.student.materials.0.epochs=6",
        ),
        steps=("teacher", "student"),
        text=SPANISH,
    ),
    "mobilebert-squad2": Shrunk(
        encoder=_deep("mobilebert", 4),
        settings=(
            "steps.teacher.stages.0.epochs=2",
            "steps.transfer.layers=[2,4]",
            "steps.transfer.materials.0.epochs=4",
            "steps.student.materials.0.epochs=3",
        ),
        steps=("teacher", "transfer", "student"),
    ),
    "minilm-relations": Shrunk(
        encoder=lambda tiny, _: tiny.checkpoint("minilm"),
        settings=(
            "steps.relations.relation_heads=16",
            "steps.relations.relation_layer=3",
            "steps.relations.materials.0.epochs=4",
            "steps.relations.teachers=['checkpoint:{teacher}']",
            "steps.answers.materials.0.epochs=4",
            "steps.answers.teachers=['checkpoint:{teacher}']",
        ),
        steps=("relations", "answers"),
        made={"teacher": _deep("bert", 4)},
    ),
    "domain-transfer": Shrunk(
        encoder=None,
        settings=("steps.tuned.start=bundle:{bundle}", "steps.tuned.stages.0.epochs=5"),
        steps=("tuned",),
        made={"bundle": lambda tiny, _: tiny.bundle("bert")},
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with data and a WordNet; models are added where they are needed."""
    folder = tmp_path_factory.mktemp("recipes")
    write_towns(folder / "data")
    write_wordnet(folder / "wordnet")
    return folder


def _settings(name: str, tiny: Tiny, home: Path) -> list[str]:
    """Return what ``--set`` would be given."""
    shrunk = RECIPES[name]
    places = {one: make(tiny, home) for one, make in shrunk.made.items()}
    steps = read_recipe(name).recipe.steps
    quick = [
        f"steps.{step}.schedule.{key}={value}"
        for step, table in steps.items()
        if not isinstance(table, Pack)
        for key, value in _QUICK.items()
    ]
    return [*_WINDOWS, *quick, *(one.format(**places) for one in shrunk.settings)]


def _place(name: str, tiny: Tiny, home: Path, out: Path) -> Place:
    encoder = RECIPES[name].encoder
    given = None if encoder is None else str(encoder(tiny, home))
    return Place(out=out, data=home / "data", encoder=given)


def _follow(name: str, tiny: Tiny, home: Path, out: Path, *more: str) -> Path:
    written = read_recipe(name, [*_settings(name, tiny, home), *more])
    return follow(written, _place(name, tiny, home, out), lambda _: None)


def _read_losses(folder: Path) -> tuple[float, float]:
    """Return the mean loss of a step's first epoch, and of its last."""
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    of_epochs: dict[int, list[float]] = {}
    for line in lines:
        if "loss" in line:
            of_epochs.setdefault(line["epoch"], []).append(line["loss"])
    means = [sum(one) / len(one) for one in of_epochs.values()]
    return means[0], means[-1]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_learns_and_ends_in_a_bundle_that_answers(
    name: str, tiny: Tiny, home: Path, tmp_path: Path
) -> None:
    shrunk = RECIPES[name]
    bundle = load_bundle(_follow(name, tiny, home, tmp_path / "out"))
    for step in shrunk.steps:
        first, last = _read_losses(tmp_path / "out" / step)
        assert last < 0.9 * first, step
    context = shrunk.text.format(town=7, year=1707, name="Ruiz")
    read = read_rows(graph_of(bundle), [Labelled("0", "Who?", context, ())], 1)
    best = read.answers[0].best
    assert best is not None
    assert best.text in context
    language = read_recipe(name).recipe.card.language
    assert bundle.manifest.language == read.language == language
    steered = json.loads((tmp_path / "out" / shrunk.steps[0] / "best/progress.json").read_text())
    assert steered["settings"]["language"] == language
    _check_card(name, bundle)


def _check_card(name: str, bundle: Bundle) -> None:
    card = bundle.manifest.card
    assert card["origin"]["recipe"].startswith("# ")
    assert tuple(one["step"] for one in card["origin"]["steps"]) == RECIPES[name].steps
    told = {one["name"] for one in card["data"]}
    assert ("WordNet" in told) == (name == "distilbert-wordnet")
    assert ("made unanswerable" in card["origin"]["held_out"]) == (
        name in ("spanish-tiny-roberta", "domain-transfer")
    )


def test_paraphrases_are_rows_of_the_recipe(tiny: Tiny, home: Path) -> None:
    written = read_recipe("distilbert-wordnet", _settings("distilbert-wordnet", tiny, home))
    rows = Rows(written.recipe, home / "data")
    plain = {row.id: row for row in rows.get(["squad"])}
    made = rows.get(["synonyms"])
    assert len(made) == len(plain)
    for row in made:
        before = plain[row.id.removesuffix("-paraphrase")]
        assert row.context != before.context
        assert [gold.text for gold in row.answers] == [gold.text for gold in before.answers]
        for gold in row.answers:
            assert row.context[gold.start_char :].startswith(gold.text)
    held = {row.context for row in rows.held_out}
    assert not {row.context for row in made} & held


def test_only_the_parts_of_speech_that_are_asked_for_give_way(tiny: Tiny, home: Path) -> None:
    settings = _settings("distilbert-wordnet", tiny, home)
    only = ["augment.synonyms.parts=['noun']", "augment.synonyms.share=1.0"]
    written = read_recipe("distilbert-wordnet", [*settings, *only])
    made = Rows(written.recipe, home / "data").get(["synonyms"])
    assert all("old grinder" in row.context and "was built" in row.context for row in made)


def test_an_inverted_bottleneck_teaches_feature_maps_and_attention(
    tiny: Tiny, home: Path, tmp_path: Path
) -> None:
    """As in the MobileBERT paper: within its blocks the teacher is wider than between them."""
    tokenizer = make_tokenizer("mobilebert")
    config = AutoConfig.for_model(
        "mobilebert", vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=4,
        intermediate_size=64, num_attention_heads=4, embedding_size=16, intra_bottleneck_size=48,
        num_feedforward_networks=1, normalization_type="layer_norm", initializer_range=0.2,
    )  # fmt: skip
    teacher = tmp_path / "inverted"
    AutoModelForQuestionAnswering.from_config(config).save_pretrained(teacher)
    tokenizer.save(str(teacher / "tokenizer.json"))
    settings = [
        f"steps.transfer.teachers=['checkpoint:{teacher}']",
        "steps.transfer.start=encoder",
        "steps.transfer.new_head=true",
        "steps.transfer.layers=[1,2,3,4]",
        "steps.transfer.schedule.checkpoint_every_steps=3",
        "steps.bundle.start=step:transfer",
    ]
    _follow("mobilebert-squad2", tiny, home, tmp_path / "out", *settings)
    first, last = _read_losses(tmp_path / "out" / "transfer")
    assert last < 0.9 * first
    assert not (tmp_path / "out" / "teacher").exists()
    latest, best = (tmp_path / "out" / "transfer" / one for one in ("latest", "best"))
    assert latest.resolve() == best.resolve()


@pytest.mark.parametrize(
    ("name", "setting", "named"),
    [
        ("minilm-relations", "steps.answers.teachers=['checkpoint:nobody/gone']", "nobody/gone"),
        ("minilm-relations", "steps.answers.teachers=['checkpoint:{roberta}']", "other tokens"),
        ("minilm-relations", "steps.answers.teachers=['checkpoint:{headless}']", "fine-tune it"),
        ("minilm-relations", "steps.relations.relation_layer=9", "no layer 9"),
        ("spanish-tiny-roberta", "steps.student.layers=[3,7]", "has 6: name layers"),
        ("spanish-tiny-roberta", "steps.student.layer_step=4", "would imitate layer 8"),
        ("spanish-tiny-roberta", "steps.student.weights.soft=-1", "weight of soft"),
        (
            "mobilebert-squad2",
            "steps.transfer.teachers=['checkpoint:{bert}']",
            "cannot be imitated",
        ),
        ("mobilebert-squad2", "steps.transfer.teachers=['bundle:{bundle}']", "from a bundle"),
        ("domain-transfer", "windows.max_window_tokens=600", "reads 512 tokens"),
        ("distilbert-wordnet", "augment.synonyms.wordnet=nowhere", "no WordNet database"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_anything_is_trained(
    name: str,
    setting: str,
    named: str,
    tiny: Tiny,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = {
        "roberta": _deep("roberta", 6)(tiny, home),
        "bert": _deep("tinybert", 4)(tiny, home),
        "bundle": tiny.bundle("mobilebert"),
        "headless": tmp_path / "headless",
    }
    shutil.copytree(tiny.checkpoint("bert"), places["headless"])
    weights = load_file(places["headless"] / "model.safetensors")
    kept = {key: one for key, one in weights.items() if not key.startswith("qa_outputs")}
    save_file(kept, places["headless"] / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=named) as caught:
        _follow(name, tiny, home, tmp_path / "out", setting.format(**places))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("metrics.jsonl"))

"""From a tiny checkpoint to a bundle: everything on its card, and whole or not at all."""

import json
import resource
from pathlib import Path

import pytest

from tests.tiny import CALIBRATION, NULL_THRESHOLD, PASSAGES, QUESTIONS, SIZES, Tiny
from training.bundle import Description, pack_bundle, strip_tokenizer
from training.calibration_record import read_record
from training.card import Origin, describe_data, read_texts
from training.data import Gold, Labelled
from training.fence import Fence, StoppedError, Wish, take_fence
from training.holds import Holder, name_self
from training.layers import take_layers
from training.quantize import Mode
from training.ship import Order, ship
from training.thaw import thaw
from worker.contracts.bundle import Bundle, load_bundle
from worker.contracts.errors import InputError, JobError, WorldError

TEXTS = """
name = "tiny"
language = "en"
licence = "Apache-2.0"
summary = "Nonsense, for tests."
limits = ["It knows nothing."]
[licences]
rows = "CC0-1.0"
"""


def _rows(count: int) -> tuple[Labelled, ...]:
    return tuple(
        Labelled(
            id=str(number),
            question=QUESTIONS[number % 3],
            context=f"{PASSAGES[number % 3]} ({number})",
            answers=(Gold("mill", 4),) if number % 2 else (),
        )
        for number in range(count)
    )


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("ship")
    (folder / "texts.toml").write_text(TEXTS)
    (folder / "rows.jsonl").write_text("{}")
    texts = read_texts(folder / "texts.toml")
    order = Order(
        checkpoint=str(tiny.checkpoint("bert")),
        held_out=_rows(30),
        ranges=_rows(6),
        reports={"all answered": _rows(40)[1::2], "both": _rows(20)},
        mode=Mode.STATIC,
        sizes=SIZES,
        processes=1,
        record=folder / "calibration.json",
    )
    origin = Origin("steps = 1", "abc", {"held-out": 1}, None, None, "0" * 64, "30 rows")
    data = describe_data({folder / "rows.jsonl": "training"}, texts)
    return ship(order, origin, data, texts, folder / "bundle", lambda _: None)


def test_a_shipped_bundle_loads_and_holds_nothing_else(made: Bundle) -> None:
    assert load_bundle(made.folder) == made
    names = {path.name for path in made.folder.iterdir()}
    assert names == {"bundle.json", "model.onnx", "tokenizer.json"}
    assert [path.name for path in made.folder.parent.glob(".*")] == []


def test_a_card_says_how_it_was_made_what_it_scores_and_where_it_fails(made: Bundle) -> None:
    card = made.manifest.card
    assert card["origin"]["recipe"] == "steps = 1"
    assert card["data"][0]["licence"] == "CC0-1.0"
    assert len(card["data"][0]["sha256"]) == 64
    assert card["limits"] == ["It knows nothing."]
    settings = {(score["data"], score["setting"].split(" ")[0]) for score in card["scores"]}
    assert {name for name, setting in settings if setting == "always"} == {"all answered"}
    assert {setting for name, setting in settings if name == "both"} == {
        "stored", "threshold", "best",
    }  # fmt: skip
    for score in card["scores"]:
        assert score["f1"]["low"] <= score["f1"]["value"] <= score["f1"]["high"]
    assert card["graph"]["graph_bytes"] == made.model.stat().st_size
    assert card["quantization"]["mode"] == "static"
    assert card["speed"]["window_384_tokens_ms"] > 0
    assert 0 <= card["calibration"]["expected_error"] <= 1


def test_what_calibration_saw_is_kept_for_plots(made: Bundle) -> None:
    record = read_record(made.folder.parent / "calibration.json")
    assert record is not None
    assert record.null_threshold == made.manifest.null_threshold
    assert list(record.sets) == ["held-out", "all answered", "both"]
    assert record.sets["all answered"].sweep == ()
    stored = {one["data"]: one["f1"]["value"] for one in made.manifest.card["scores"]
              if one["setting"] == "stored threshold"}  # fmt: skip
    for name in ("held-out", "both"):
        at = {one.threshold: one.f1 for one in record.sets[name].sweep}
        assert at[record.null_threshold] == pytest.approx(stored[name], rel=1e-3)


def test_the_stored_threshold_is_the_one_that_the_card_scores(made: Bundle) -> None:
    stored = [one for one in made.manifest.card["scores"] if one["setting"] == "stored threshold"]
    assert stored
    for score in stored:
        assert score["threshold"] == pytest.approx(made.manifest.null_threshold, rel=1e-3)


def test_a_bundle_that_cannot_be_made_leaves_the_old_one(tiny: Tiny, tmp_path: Path) -> None:
    source = tiny.bundle("bert")
    described = Description(
        "x", "bert", "en", SIZES, NULL_THRESHOLD, CALIBRATION, "none", "Apache-2.0"
    )
    out = tmp_path / "bundle"
    first = pack_bundle(out, source / "model.onnx", source / "tokenizer.json", described)
    with pytest.raises(JobError, match="has no span"):
        pack_bundle(
            out, source / "model.onnx", source / "tokenizer.json", described, [("Who?", "")]
        )
    assert load_bundle(out) == first
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_is_replaced_as_a_whole(tiny: Tiny, tmp_path: Path) -> None:
    source = tiny.bundle("bert")
    for name in ("first", "second"):
        described = Description(
            name, "bert", "en", SIZES, NULL_THRESHOLD, CALIBRATION, "none", "Apache-2.0"
        )
        pack_bundle(tmp_path / "out", source / "model.onnx", source / "tokenizer.json", described)
        assert load_bundle(tmp_path / "out").manifest.name == name
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_tokenizer_is_shipped_without_truncation_and_padding(tiny: Tiny, tmp_path: Path) -> None:
    settings = json.loads((tiny.checkpoint("bert") / "tokenizer.json").read_text())
    padding = {
        "strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    cut = {"direction": "Right", "max_length": 128, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "t.json").write_text(json.dumps(settings | {"padding": padding, "truncation": cut}))
    stripped = json.loads(strip_tokenizer(tmp_path / "t.json"))
    assert stripped == settings | {"padding": None, "truncation": None}


def test_data_without_a_licence_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.toml").write_text(TEXTS)
    (tmp_path / "other.jsonl").write_text("{}")
    texts = read_texts(tmp_path / "texts.toml")
    with pytest.raises(InputError, match="no licence for other"):
        describe_data({tmp_path / "other.jsonl": "training"}, texts)


def test_texts_with_an_unknown_key_are_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.toml").write_text("colour = 'red'\n" + TEXTS)
    with pytest.raises(InputError, match="colour"):
        read_texts(tmp_path / "texts.toml")


def _order(tiny: Tiny, processes: int = 1) -> Order:
    return Order(
        checkpoint=str(tiny.checkpoint("bert")), held_out=_rows(30), ranges=_rows(6), reports={},
        mode=Mode.DYNAMIC, sizes=SIZES, processes=processes,
    )  # fmt: skip


ORIGIN = Origin("steps = 1", "abc", {"held-out": 1}, None, None, "0" * 64, "30 rows")


def test_a_full_disk_pauses_the_making_of_a_bundle(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "texts.toml").write_text(TEXTS)
    texts = read_texts(tmp_path / "texts.toml")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(WorldError, match="make room"):
            ship(_order(tiny), ORIGIN, (), texts, tmp_path / "made" / "bundle", lambda _: None)
        with pytest.raises(WorldError, match="make room"):
            take_layers(tiny.checkpoint("bert"), [1], tmp_path / "student")
        with pytest.raises(WorldError, match="make room"):
            thaw(load_bundle(tiny.bundle("bert")), tmp_path / "thawed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "made").iterdir())


def test_a_bundle_in_the_making_stops_when_the_run_is_cancelled(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "texts.toml").write_text(TEXTS)
    texts = read_texts(tmp_path / "texts.toml")
    said: list[str] = []
    asked = take_fence(
        tmp_path, Holder(who="me", process=name_self()), lambda: Wish.CANCEL if said else None
    )
    assert isinstance(asked, Fence)
    with asked, pytest.raises(StoppedError, match="was cancelled"):
        ship(_order(tiny), ORIGIN, (), texts, tmp_path / "bundle", said.append)
    assert len(said) == 1
    assert not (tmp_path / "bundle").exists()

"""The page of a run: whole while the run is not, made of its folder alone, for day and night."""

import json
import logging
import os
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from training import report as module
from training import run_view
from training.cli import training
from training.pictures import COLOURS
from training.progress import LOGGER
from training.recipe_file import read_recipe
from training.report import showing, write_page
from training.run_plot import thin
from training.run_state import Order, RunFolder
from training.run_view import look_at, note_revision
from worker.contracts.errors import UsageError

RECIPE = """
name = "Towns <b>& mills</b>"
encoder = { name = "nobody/no-such-encoder", licence = "CC0-1.0" }
held_out = { files = ["towns"], share = 0.3 }
data = { towns = { licence = "CC0-1.0 <i>" } }
reports = { mills = { file = "mills", licence = "MIT" } }

[steps.first]
kind = "finetune"
stages = [{ rows = ["towns"] }]

[steps.second]
kind = "finetune"
start = "step:first"
stages = [{ rows = ["towns"] }]

[steps.bundle]
kind = "bundle"
start = "step:second"

[card]
licence = "CC0-1.0"
summary = "Nonsense, for tests."
limits = []
"""


def _write_metrics(folder: Path, steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, steps + 1):
        losses = {"hard": 3.0 / step, "so$ft$": 1.0 / step}
        lines.append(
            {
                "step": step, "steps": 40, "epoch": 1, "loss": sum(losses.values()),
                "losses": losses, "lr": 1e-4, "examples_per_second": 25.0,
            }
        )  # fmt: skip
        if step % 10 == 0:
            scores = {"best_f1": 50.0 + step, "answerable_f1": 60.0 + step, "rows": 30}
            lines.append({"step": step, "score": 55.0 + step, "held_out": scores})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Give the folder of a run whose first step is done, and whose second is on its way."""
    (tmp_path / "towns.toml").write_text(RECIPE)
    out = tmp_path / "run"
    out.mkdir()
    written = read_recipe(str(tmp_path / "towns.toml"))
    files = {"towns": "a" * 64, "report mills": "b" * 64, "encoder": "c" * 64}
    claim = {"recipe": json.loads(msgspec.json.encode(written.recipe)), "files": files}
    (out / "run.json").write_text(json.dumps(claim))
    (out / "recipe.toml").write_text(RECIPE)
    done = {"step": "first", "kind": "finetune", "start": "encoder"}
    digests = {"start_sha256": "c" * 64, "sha256": "d" * 64}
    (out / "first.done.json").write_text(json.dumps(done | digests))
    _write_metrics(out / "first", 40)
    _write_metrics(out / "second", 20)
    return out


class _Reader(HTMLParser):
    """Takes a page apart, and sees that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1
        if tag != "meta":
            self._open.append(tag)
        for name, value in attrs:
            assert value is not None
            if name == "id":
                self.ids[value] += 1
            elif name.endswith(("href", "src", "srcset", "data")):
                self.links.append(value)
            self.links += re.findall(r"url\(([^)]*)\)", value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_run_on_its_way_shows_its_curves_and_how_far_it_is(run: Path) -> None:
    said = CliRunner().invoke(training, ["report", str(run)], catch_exceptions=False)
    assert said.output == f"{run / 'index.html'}\n"
    page = _Reader((run / "index.html").read_text())
    assert page.names["svg"] == 6
    assert "step 20 of 40 in second" in page.text
    assert "held-out F1 of first's best checkpoint, at step 40" in page.text
    assert "best held-out F1" not in page.text, "the best by F1 alone may be another checkpoint"
    assert "to come" in page.text
    assert "Scores" not in page.text
    names = {f"{step}-{name}" for step in ("first", "second") for name in ("loss", "f1", "rate")}
    made = {path.name for path in (run / "plots").iterdir()}
    assert made == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert (run / "plots" / "first-f1.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_needs_nothing_else_and_its_names_are_its_own(run: Path) -> None:
    page = _Reader(write_page(run).read_text())
    assert not set(page.names) & {"script", "link", "img", "iframe", "object", "embed", "image"}
    assert page.links, "pictures refer to parts of themselves"
    assert all(link.startswith("#") for link in page.links)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert max(page.ids.values()) == 1
    assert "@import" not in page.text


def test_what_others_wrote_is_shown_as_text(run: Path) -> None:
    page = _Reader(write_page(run).read_text())
    assert "Towns <b>& mills</b>" in page.text
    assert "CC0-1.0 <i>" in page.text
    assert "so$ft$" in page.text
    assert page.names["b"] == 2, "the numbers of the two tiles"
    assert page.names["i"] == 0


def test_pictures_take_the_pages_colours_for_day_and_night(run: Path) -> None:
    text = write_page(run).read_text()
    css, _, rest = text.partition("</style>")
    day, _, night = css.partition("prefers-color-scheme: dark")
    drawn = rest[rest.index("<svg") : rest.rindex("</svg>")]
    assert not [colour for colour in COLOURS if colour in drawn]
    used = set(re.findall(r"var\(--(\w+)\)", text))
    assert {"c0", "c1", "paper", "rule"} <= used
    for name in used:
        assert f"--{name}:" in day
        assert f"--{name}:" in night
    assert (run / "plots" / "first-loss.svg").read_text().count(COLOURS[0]) > 0


def test_only_pictures_older_than_their_numbers_are_drawn_again(run: Path) -> None:
    write_page(run)
    pictures = sorted((run / "plots").iterdir())
    for path in pictures:
        os.utime(path, (2e9, 2e9))
    os.utime(run / "second" / "metrics.jsonl", (3e9, 3e9))
    write_page(run, afresh=False)
    kept = [path.name for path in pictures if path.stat().st_mtime == 2e9]
    assert kept == [path.name for path in pictures if path.name.startswith("first")]
    before = {path: path.read_bytes() for path in pictures}
    write_page(run)
    assert {path: path.read_bytes() for path in pictures} == before
    assert not [path for path in pictures if path.stat().st_mtime == 2e9]


def test_one_fine_tuning_alone_has_a_page_too(tmp_path: Path) -> None:
    _write_metrics(tmp_path / "tuned", 10)
    page = _Reader(write_page(tmp_path / "tuned").read_text())
    assert page.names["svg"] == 3
    assert "step 10 of 40 in tuned" in page.text
    assert "How to make it again" not in page.text


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", None, "holds no run"),
        ("run.json", "{", "run.json is damaged"),
        ("run.json", '{"recipe": {}, "files": {}}', "run.json is damaged"),
        ("first.done.json", "{}", "first.done.json is damaged"),
        ("revisions.json", "[1]", "revisions.json is damaged"),
        ("first/metrics.jsonl", '{"loss": 1}\n', "no training wrote"),
        ("bundle.calibration.json", "[]", "no record of a calibration"),
        ("bundle/bundle.json", "{}", "is not a bundle's manifest"),
    ],
)
def test_a_folder_that_holds_no_whole_run_is_refused_in_a_sentence(
    file: str, text: str | None, message: str, run: Path
) -> None:
    (run / file).parent.mkdir(exist_ok=True)
    if text is None:
        (run / file).unlink()
    else:
        (run / file).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        write_page(run)
    assert "\n" not in str(caught.value)


def test_the_page_is_written_at_checkpoints_that_are_far_apart(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    told = {"metrics": {"step": 20, "score": 1.0, "held_out": {}}}
    with showing(run, said.append):
        LOGGER.info("metrics", extra=told)
        assert not (run / "index.html").exists(), "the last page is no minute old"
        monkeypatch.setattr(module, "SECONDS_BETWEEN", 0.0)
        LOGGER.info("metrics", extra={"metrics": {"step": 20, "loss": 1.0}})
        assert not (run / "index.html").exists(), "a step is no checkpoint"
        LOGGER.info("metrics", extra=told)
    assert (run / "index.html").exists()
    assert said == []
    assert not [one for one in LOGGER.handlers if isinstance(one, logging.Handler)]


def test_a_page_that_cannot_be_written_is_told_and_ends_no_run(run: Path) -> None:
    (run / "plots").write_text("a file where the folder should be")
    said: list[str] = []
    with showing(run, said.append) as refresh:
        refresh()
    (line,) = said
    assert line.startswith("the page of the run was not written: the pictures in")


def test_a_page_that_breaks_in_a_new_way_ends_no_run_either(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "plot_history", break_down)
    said: list[str] = []
    with showing(run, said.append) as refresh:
        refresh()
    (line,) = said
    assert line.startswith("the page of the run was not written (unexpected ZeroDivisionError)")


def test_every_revision_that_took_steps_is_noted_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for revision in ("one", "one", "two (with changes)", "one"):
        monkeypatch.setattr(run_view, "read_revision", lambda _, now=revision: now)
        note_revision(run)
    assert [one.revision for one in look_at(run).revisions] == ["one", "two (with changes)", "one"]
    assert "revision, from 20" in write_page(run).read_text()


def test_a_long_way_is_thinned_to_means_between_its_percentiles() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 5_003)
    mean, low, high = thin(values, 50)
    assert len(mean) == len(low) == len(high) == 50
    assert mean.mean() == pytest.approx(values.mean(), abs=0.01)
    assert (low < mean).all()
    assert (mean < high).all()
    few = np.array([3.0, 1.0, 2.0])
    assert all(np.array_equal(one, few) for one in thin(few, 50))


def test_a_run_that_was_to_end_before_its_recipe_is_finished_there(run: Path) -> None:
    order = Order(
        text="", settings=(), steps=("first",), data="/data", encoder=None, processes=None, cwd="/"
    )
    assert not look_at(run).finished
    RunFolder(run).put_order(order)
    assert look_at(run).finished
    assert "finished · " in write_page(run).read_text()

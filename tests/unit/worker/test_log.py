"""The log: one line an event, for people or for programs."""

import io
import json

import pytest

from tests.making import make_answer, make_stats
from worker.events import Event, Level
from worker.log import Log, LogFormat

ANSWERS = [make_answer(row) for row in range(4)]
EVENT = Event(
    "batch",
    job="a-job",
    batch=7,
    attempt=2,
    outcome="answered",
    duration_seconds=0.25,
    stats=make_stats(7, ANSWERS),
    facts={"path": "/a b"},
    pid=123,
    at=1_800_000_000.5,
)


def write(log: Log, stream: io.StringIO) -> str:
    log.write(EVENT)
    (line,) = stream.getvalue().splitlines()
    return line


def test_a_line_in_json_says_who_when_and_what() -> None:
    stream = io.StringIO()
    origin = {"host": "mill", "worker": "mill-1"}
    line = json.loads(write(Log(LogFormat.JSON, origin, stream), stream))
    assert line["time"] == "2027-01-15T08:00:00.500Z"
    stats = make_stats(7, ANSWERS)
    assert {name: line[name] for name in ("level", "event", "host", "worker", "pid", "job")} == {
        "level": "info", "event": "batch", "host": "mill", "worker": "mill-1", "pid": 123,
        "job": "a-job",
    }  # fmt: skip
    assert (line["batch"], line["attempt"], line["outcome"]) == (7, 2, "answered")
    assert (line["rows"], line["duration_ms"]) == (stats.rows, 250.0)
    assert line["inference_ms"] == round(stats.inference_ms, 1)
    assert "message" not in line


def test_a_line_of_text_has_the_same_as_pairs() -> None:
    stream = io.StringIO()
    line = write(Log(LogFormat.TEXT, {"host": "mill"}, stream), stream)
    assert line.startswith(
        "2027-01-15T08:00:00.500Z info batch pid=123 job=a-job batch=7 attempt=2"
    )
    assert ' path="/a b"' in line


@pytest.mark.parametrize("text", ["two\nlines", 'a "quote"', "a=b", "", "\x1b[2J"])
def test_no_value_can_look_like_another_pair_or_line(text: str) -> None:
    stream = io.StringIO()
    Log(LogFormat.TEXT, stream=stream).write(Event("x", facts={"reason": text}))
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(f"reason={json.dumps(text)}")


def test_sentences_for_people_are_events_for_programs() -> None:
    stream = io.StringIO()
    Log(stream=stream).tell(Event("warning", Level.WARNING, "no rows"))
    Log(stream=stream).tell(Event("stopped", message="stopped"))
    Log(stream=stream).note(Event("job-begun"))
    assert stream.getvalue() == "spanmill: warning: no rows\nspanmill: stopped\n"
    programs = io.StringIO()
    log = Log(LogFormat.JSON, stream=programs)
    log.tell(Event("warning", Level.WARNING, "no rows"))
    log.note(Event("job-begun"))
    lines = [json.loads(line) for line in programs.getvalue().splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("warning", "warning"), ("info", "job-begun"),
    ]  # fmt: skip


def test_a_message_is_one_line_too() -> None:
    stream = io.StringIO()
    Log(stream=stream).write(Event("x", message="two\nlines"))
    assert len(stream.getvalue().splitlines()) == 1


def test_a_log_that_nobody_reads_stops_nobody() -> None:
    stream = io.StringIO()
    stream.close()
    Log(stream=stream).write(EVENT)

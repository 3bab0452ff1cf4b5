"""The message of a batch is what version 1 says, and nothing else is taken for one."""

from typing import Any

import msgspec
import pytest

from worker.contracts.queue import POLICY, Message, name_queue, read_message

GOLDEN = {"job": "mill-1", "batch": 7, "attempt": 2, "published_at": 1.5, "version": 1}


def test_a_message_of_version_1_stays_what_it_is() -> None:
    message = Message(job="mill-1", batch=7, attempt=2, published_at=1.5, version=1)
    assert msgspec.to_builtins(message) == GOLDEN
    assert read_message(GOLDEN) == message
    assert name_queue("default") == "spanmill-default-v1"


@pytest.mark.parametrize(
    "kwargs",
    [
        None, [], {}, "garbage", {"x": "y"}, {**GOLDEN, "version": 2}, {**GOLDEN, "batch": -1},
        {**GOLDEN, "batch": "7"}, {**GOLDEN, "job": "../../etc"}, {**GOLDEN, "job": ""},
        {**GOLDEN, "job": "a" * 65}, {**GOLDEN, "published_at": "now"},
        {name: value for name, value in GOLDEN.items() if name != "job"},
    ],
)  # fmt: skip
def test_what_is_no_message_is_none(kwargs: Any) -> None:
    assert read_message(kwargs) is None


def test_nothing_but_json_is_ever_read() -> None:
    assert POLICY["accept_content"] == POLICY["result_accept_content"] == ["json"]
    assert POLICY["task_serializer"] == "json"

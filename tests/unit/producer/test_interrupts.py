"""Signals: first a wish, then an end, then nothing more."""

import signal
from collections.abc import Iterator

import pytest

from producer.interrupts import Interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _same_handlers_after_as_before() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_wish_while_somebody_listens(number: signal.Signals) -> None:
    with Interrupts() as interrupts, interrupts.listening():
        assert not interrupts.asked()
        signal.raise_signal(number)
        assert interrupts.asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)  # and who goes on pressing sees no traceback


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_what_asks_nobody(number: signal.Signals) -> None:
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert not interrupts.asked()
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_IGN


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_what_was_there_before_is_there_after() -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with Interrupts():
        assert [signal.getsignal(one) for one in SIGNALS] != before
    assert [signal.getsignal(one) for one in SIGNALS] == before

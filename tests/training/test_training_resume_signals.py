"""Signals wait until a run is saved, or its error is told."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from types import FrameType

import pytest

from training.__main__ import main
from training.errors import TrainingError
from training.resume import signals_put_off


@pytest.fixture
def sigterm_interrupts() -> Iterator[None]:
    with interrupting(signal.SIGTERM):
        yield


@contextmanager
def interrupting(number: signal.Signals) -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    yield
    signal.signal(number, before)


@pytest.mark.usefixtures("sigterm_interrupts")
def test_a_second_signal_does_not_wait_where_it_is_of_someone_impatient() -> None:
    waited = False
    with suppress(KeyboardInterrupt), signals_put_off() as told_to_stop:
        signal.raise_signal(signal.SIGINT)
        waited = told_to_stop()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert waited


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_sigterm_waits_as_the_first(number: signal.Signals) -> None:
    """A service manager sends one to torchrun and to its processes, and torchrun hands its own on to them."""
    waited = False

    def save_while_they_come() -> None:
        nonlocal waited
        with signals_put_off() as told_to_stop:
            for _ in range(2):
                signal.raise_signal(number)
            waited = told_to_stop()

    with interrupting(number):
        with pytest.raises(KeyboardInterrupt):
            save_while_they_come()
        assert waited
        with pytest.raises(KeyboardInterrupt):  # the handler is put back
            signal.raise_signal(number)


def test_a_signal_that_is_ignored_does_not_end_a_run() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for what it runs in the background
    try:
        with signals_put_off() as told_to_stop:
            signal.raise_signal(signal.SIGINT)
            assert not told_to_stop()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigterm_interrupts")
def test_an_error_is_told_although_a_signal_waits() -> None:
    """When a process is lost, the others notice it at the same time as torchrun stops them."""

    def lose_another() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise TrainingError("another process was lost")

    with pytest.raises(TrainingError, match="another process was lost"), signals_put_off():
        lose_another()
    signal.raise_signal(signal.SIGTERM)  # nor does one that comes a moment later


@pytest.mark.usefixtures("sigterm_interrupts")
def test_a_signal_while_an_error_is_told_does_not_cut_it_short(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(StringIO):
        def write(self, text: str) -> int:
            signal.raise_signal(signal.SIGTERM)
            return super().write(text)

    told = Interrupted()
    monkeypatch.setattr(sys, "stderr", told)
    assert main(["--data", "nowhere"]) == 1
    assert "nowhere" in told.getvalue()

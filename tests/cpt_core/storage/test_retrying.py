"""Bounded repetition with full jitter."""

import pytest

from cpt_core.storage import retrying
from cpt_core.storage.retrying import retried


@pytest.fixture
def waits(monkeypatch) -> list[tuple[float, float]]:
    """The range from which each wait is drawn; nothing is waited for."""
    ranges: list[tuple[float, float]] = []
    monkeypatch.setattr(retrying.random, "uniform", lambda low, high: ranges.append((low, high)) or high)
    monkeypatch.setattr(retrying.time, "sleep", lambda seconds: None)
    return ranges


def failing(times: int, error: Exception):
    """An operation that succeeds after some failures, and the list of its calls."""
    calls: list[int] = []

    def operation() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "done"

    return operation, calls


def test_what_passes_by_itself_is_repeated_with_growing_random_waits(waits):
    """Each wait is drawn between nothing and a bound that doubles."""
    operation, _ = failing(5, TimeoutError())
    assert retried(operation, lambda error: True) == "done"
    assert waits == [(0, 0.2), (0, 0.4), (0, 0.8), (0, 1.6), (0, 3.2)]


def test_the_last_error_is_raised_after_the_last_attempt(waits):
    """Six attempts and no more."""
    operation, calls = failing(99, TimeoutError("still"))
    with pytest.raises(TimeoutError, match="still"):
        retried(operation, lambda error: True)
    assert len(calls) == 6


def test_what_stays_is_not_repeated(waits):
    """A wrong password does not become right."""
    operation, calls = failing(99, PermissionError())
    with pytest.raises(PermissionError):
        retried(operation, lambda error: isinstance(error, TimeoutError))
    assert (len(calls), waits) == (1, [(0, 0.2)])


def test_attempts_end_with_the_time(waits, monkeypatch):
    """Attempts that each take a minute are not made six times."""
    now = iter(range(0, 9999, 60))
    monkeypatch.setattr(retrying.time, "monotonic", lambda: next(now))
    operation, calls = failing(99, TimeoutError())
    with pytest.raises(TimeoutError):
        retried(operation, lambda error: True)
    assert len(calls) == 2

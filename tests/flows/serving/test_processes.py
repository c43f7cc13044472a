"""Telling processes apart."""

import os
from dataclasses import replace
from pathlib import Path

from flows.serving.processes import ProcessId
from flows.serving.state import ServingState, read_state, remove_state, write_state


def test_a_reused_pid_is_another_process() -> None:
    """The same pid with another creation time is not the process that was meant."""
    own = ProcessId.of(os.getpid())
    assert own.process() is not None
    assert replace(own, created=own.created - 100).process() is None


def test_the_state_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    """A state is read as it was written, and forgotten when removed."""
    state = ServingState(port=4200, supervisor=ProcessId(1, 2.5), server=ProcessId(3, 4.5))
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    remove_state(tmp_path)
    assert read_state(tmp_path) is None

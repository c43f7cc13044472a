"""One warm process for all fault tests of a session."""

from collections.abc import Iterator

import pytest

from tests.faults.runs import Runs, open_runs


@pytest.fixture(scope="session")
def runs() -> Iterator[Runs]:
    """Runs of the data stages, milliseconds each."""
    with open_runs() as opened:
        yield opened

"""The library's log in the log of the run, a bounded number of lines."""

import logging

import pytest

from tasks import run_log
from tasks.run_log import LINES_A_MINUTE, library_log_in_run


@pytest.fixture
def told():
    """Lines that came out, outside of a run on Prefect's own logger."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} {record.getMessage()}")

    collector, logger = Collector(), logging.getLogger("prefect.cpt")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(collector)
    yield lines
    logger.removeHandler(collector)
    logger.setLevel(before)


def test_our_lines_are_passed_on_and_others_are_not(told):
    """The library's and the tasks'; a library that quotes what it read is not heard."""
    with library_log_in_run():
        logging.getLogger("cpt_core.artifacts").warning("%s is set aside", "a")
        logging.getLogger("tasks.computing").info("engine")
        logging.getLogger("pyarrow").warning("a document")
    logging.getLogger("cpt_core.artifacts").warning("after the run")
    assert told == ["WARNING a is set aside", "INFO engine"]


def test_a_flood_is_cut_and_counted(told, monkeypatch):
    """So many lines a minute; the first line of the next minute says how many are missing."""
    now = [60.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    with library_log_in_run():
        for number in range(LINES_A_MINUTE + 7):
            logging.getLogger("cpt_core").info("line %d", number)
        now[0] = 120.0
        logging.getLogger("cpt_core").info("a minute later")
    assert len(told) == LINES_A_MINUTE + 2
    assert told[-2:] == ["WARNING 7 lines of the log were left out", "INFO a minute later"]

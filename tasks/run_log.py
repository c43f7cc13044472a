"""The log of the library in the log of the run, where the Prefect UI shows it.

In: what ``cpt_core`` and the tasks log, worker processes included.
Out: the same lines in the log of the task run, or of the flow run, that they were written in.
Promise: at most LINES_A_MINUTE lines; the number of those left out is told; none is lost with its worker process.
Never: passes on what other libraries log: that may quote documents.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogHandler

LINES_A_MINUTE = 120
_OURS = ("cpt_core", "tasks")


class RunLogHandler(logging.Handler):
    """Hands records on to the logger of the run."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._counting = threading.Lock()
        self._minute, self._lines = 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """One record, unless there have been too many in this minute."""
        left_out = self._left_out()
        if left_out is None:
            return
        try:
            log = get_run_logger()
        except MissingContextError:
            log = logging.getLogger("prefect.cpt")
        if left_out:
            log.warning("%d lines of the log were left out", left_out)
        log.log(record.levelno, "%s", record.getMessage())

    def _left_out(self) -> int | None:
        """None when this line is one too many; else how many were, in the minute that ended with it."""
        with self._counting:
            minute, before = int(time.monotonic() // 60), max(0, self._lines - LINES_A_MINUTE)
            if minute != self._minute:
                self._minute, self._lines = minute, 1
                return before
            self._lines += 1
            return None if self._lines > LINES_A_MINUTE else 0


@contextmanager
def library_log_in_run() -> Iterator[None]:
    """For the ``with`` block, at whose end its lines are sent: Ray ends its workers with the run, seconds too early for
    Prefect to do that by itself.
    """
    handler = RunLogHandler()
    loggers = [logging.getLogger(name) for name in _OURS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False  # the run's log reaches the console too
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        APILogHandler().flush()

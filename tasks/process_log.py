"""What the first process of a job prints, told while it grows.

In: the folder of the job's attempts, each with a log of every process.
Out: lines, for the log of the run.
Promise: at most LINES_AT_ONCE lines every two seconds, and not what was there before; the rest is counted.
Never: fails the job that it watches.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from cpt_core.printable import printable
from cpt_core.redaction import redacted
from tasks.background import repeatedly

SECONDS_BETWEEN_LOOKS = 2.0
LINES_AT_ONCE = 20
LINE_CHARACTERS = 300
LOG_NAME = "rank-00000.log"


def process_log_told(attempts: Path, tell: Callable[[str], object]) -> AbstractContextManager[None]:
    """Tell new lines for the ``with`` block, and what is left of them at its end."""
    log = GrowingLogs(attempts)

    def look() -> None:
        for line in log.new_lines():
            tell(line)

    return repeatedly(look, SECONDS_BETWEEN_LOOKS, "cpt-process-log")


class GrowingLogs:
    """The logs below a folder, each read from where it ended before."""

    def __init__(self, attempts: Path) -> None:
        self._attempts = attempts
        self._read_bytes = {log: log.stat().st_size for log in self._logs()}

    def new_lines(self) -> list[str]:
        """Whole lines that have come since the last call."""
        lines = [line for log in self._logs() for line in self._grown(log)]
        if (left_out := len(lines) - LINES_AT_ONCE) > 0:
            lines = [*lines[:LINES_AT_ONCE], f"… and {left_out:,} lines more in {self._attempts}"]
        return lines

    def _logs(self) -> list[Path]:
        return sorted(self._attempts.glob(f"*/{LOG_NAME}"))

    def _grown(self, log: Path) -> list[str]:
        position = self._read_bytes.get(log, 0)
        try:
            with log.open("rb") as stream:
                stream.seek(position)
                content = stream.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read_bytes[log] = position + len(whole)
        texts = (line.decode(errors="replace").strip() for line in whole.splitlines())
        return [printable(redacted(text[:LINE_CHARACTERS])) for text in texts if text]

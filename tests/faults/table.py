"""The table of promises: printed, and written into docs/promises.md between its marks."""

import os
import platform
import re
import sys

from tests.conftest import REPOSITORY
from tests.faults.row import Row

PAGE = REPOSITORY / "docs" / "promises.md"
END = "<!-- end -->"
PROBLEMS_SHOWN = 10


def table(rows: list[Row], seconds: float) -> str:
    """Promise by promise, tried and held; then the machine and how long it took."""
    lines = ["| promise | tried | held | reproduced by |", "|---|---:|---:|---|", *map(_line, rows)]
    return "\n".join([*lines, "", f"{machine()}; {seconds / 60:.1f} minutes."])


def machine() -> str:
    """Where it was tried."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def write_block(begin: str, text: str) -> None:
    """Replace the block of the page that starts with this mark, and nothing else."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def write_rows(begin: str, rows: list[Row]) -> None:
    """Replace the lines of these promises in the block that starts with this mark, or add them; the others stay.

    How long everything took is not told any more then.
    """
    block = PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(END)[0]
    lines = re.sub(r"; [\d.]+ minutes\.$", ".", block.strip()).splitlines()
    for row in rows:
        same = [number for number, line in enumerate(lines) if line.endswith(f"| `{row.command}` |")]
        first, end = (same[0], same[0] + 1) if same else (lines.index(""),) * 2
        lines[first:end] = [_line(row)]
    write_block(begin, "\n".join(lines))


def _line(row: Row) -> str:
    return f"| {row.promise} | {row.tried:,} | {row.held:,} | `{row.command}` |"


def print_problems(rows: list[Row]) -> None:
    """What broke a promise, on stderr."""
    for row in rows:
        for problem in row.problems[:PROBLEMS_SHOWN]:
            print(f"\nNOT HELD: {row.promise}\n{problem}", file=sys.stderr)
        if len(row.problems) > PROBLEMS_SHOWN:
            print(f"\n... and {len(row.problems) - PROBLEMS_SHOWN} more", file=sys.stderr)

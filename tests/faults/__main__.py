"""The long form of the fault tests: prints one table, promise by promise, tried and held.

``python -m tests.faults`` tries everything; ``--times N`` at most N attempts each, ``--only NAME …`` some promises,
``--write`` puts the table, or the lines of these promises, into docs/promises.md. Exit code 1 when one did not hold.
"""

import argparse
import signal
import sys
import time

from tests.conftest import REPOSITORY
from tests.faults.promises import ALL
from tests.faults.runs import open_runs
from tests.faults.table import PAGE, print_problems, table, write_block, write_rows

BEGIN = "<!-- begin: written by `make torture` -->"


def main() -> int:
    """Try, print, and say by the exit code whether all promises held."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the folder in memory is removed first
    started = time.perf_counter()
    rows = []
    with open_runs() as runs:
        for promise, times in ALL.items():
            if not arguments.only or promise.__name__ in arguments.only:
                print(f"{promise.__name__} in {runs.folder} ...", file=sys.stderr, flush=True)
                rows.append(promise(runs, min(times, arguments.times or times)))
    printed = table(rows, time.perf_counter() - started)
    print(printed)
    print_problems(rows)
    if arguments.write:
        write_rows(BEGIN, rows) if arguments.only else write_block(BEGIN, printed)
    return int(any(row.problems for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Try to break the promises of the data stages.")
    parser.add_argument("--only", nargs="+", choices=[promise.__name__ for promise in ALL], help="some promises")
    parser.add_argument("--times", type=int, help="at most so many attempts each")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.relative_to(REPOSITORY)}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

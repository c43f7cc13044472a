"""Runs corpora of many tiny shards and counts the rows that the server has of them: ``python -m tests.many_shards``.

``--write`` puts the table into docs/run_page.md; numbers as arguments are other sizes.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path

from tests.benchmarks.many_shards import seconds_of_command, task_runs, write_many_shards
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "run_page.md"
BEGIN, END = "<!-- begin: written by `python -m tests.many_shards --write` -->", "<!-- end -->"
SIZES = (1_000, 20_000)
NEW_FILES = 3


def main() -> None:
    """Run, count, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.many_shards")
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = [row for size in options.sizes for row in measured(size)]
    table = "\n".join(
        [
            "| shards | run | CPU s, server included | task runs | without a final state |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
    print(table)
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def measured(shards: int) -> list[str]:
    """An empty store, then three new files."""
    with tempfile.TemporaryDirectory(prefix="cpt-many-shards-") as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        seconds_of_command(write_many_shards(folder / "one", 1), home)  # builds the database's schema
        config = write_many_shards(folder / "many", shards)
        cold = row(shards, "everything is computed", config, home)
        for number in range(NEW_FILES):
            document = json.dumps({"text": f"new {number}"})
            (folder / "many" / "corpus" / f"{shards + number:05d}.jsonl").write_text(document + "\n")
        return [cold, row(shards, f"{NEW_FILES} new files", config, home)]


def row(shards: int, what: str, config: Path, home: Path) -> str:
    """One run of the command, as a line of the table."""
    runs_before, _ = task_runs(home)
    before = cpu_seconds()
    seconds_of_command(config, home)
    cpu = cpu_seconds() - before
    runs, unfinished = task_runs(home)
    return f"| {shards:,} | {what} | {cpu:.1f} | {runs - runs_before} | {unfinished} |"


def cpu_seconds() -> float:
    """Of all ended child processes, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

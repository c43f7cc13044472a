"""Whole tables of which the suite runs a part: ``python -m tests.matrix``, or ``make test-matrix``.

Runs every test that is marked ``matrix``, prints how many cells of each table passed, and writes that with the date into
docs/promises.md. Exit code 1 when a cell did not pass; then nothing is written.
"""

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.faults.table import machine, write_block

BEGIN = "<!-- begin: matrix, written by `make test-matrix` -->"


def main() -> int:
    """Run, print, write."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cpt-matrix-") as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-m", "matrix", f"--junitxml={report}", *sys.argv[1:]]
        exit_code = subprocess.run(command, cwd=REPOSITORY).returncode
        printed = table(report.read_text(encoding="utf-8"), time.perf_counter() - started)
    print(printed)
    if exit_code == 0 and not sys.argv[1:]:
        write_block(BEGIN, printed)
    return exit_code


def table(report: str, seconds: float) -> str:
    """Table by table: cells tried and passed; then the day, the machine and how long it took."""
    tried, passed = Counter[str](), Counter[str]()
    for case in ET.fromstring(report).iter("testcase"):
        test = f"{case.attrib['classname'].removeprefix('tests.')}.{case.attrib['name'].partition('[')[0]}"
        tried[test] += 1
        passed[test] += all(child.tag not in ("failure", "error", "skipped") for child in case)
    lines = ["| test, cells that `make test` leaves out | tried | passed |", "|---|---:|---:|"]
    lines += [f"| `{test}` | {tried[test]:,} | {passed[test]:,} |" for test in sorted(tried)]
    return "\n".join([*lines, "", f"{datetime.now(UTC):%Y-%m-%d}; {machine()}; {seconds / 60:.1f} minutes."])


if __name__ == "__main__":
    sys.exit(main())

"""Real disks that are too small: ``python -m tests.faults.small_disks TIMES``, in a mount namespace of its own.

Prints one JSON object for each disk: its size, and what went wrong, if anything.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.faults.row import Row
from tests.faults.runs import Runs, contents, open_runs, torn_files, visible_files

ENOUGH = "10m"
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_MESSAGE = (
    r"{store}\S*: cannot be written: the disk is full; about [\d,]+ bytes are needed, [\d,]+ bytes are free at {store}; "
    "free space, then run again. What is committed is intact and the unfinished file is removed"
)


def namespace() -> list[str]:
    """What a command is put behind so that it may mount: other processes see none of it, and it ends with the command."""
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def why_not() -> str:
    """Why this user cannot mount even there, in one line; empty when it works."""
    tried = [*namespace(), "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(tried, capture_output=True, text=True, check=False).stderr.strip()


def full_disks(_: Runs, times: int) -> Row:
    """Runs on disks of so many sizes, each too small."""
    row = Row(
        "A run on a real disk (tmpfs) that is too small, of any size up to one page less than all files need, ends with"
        " one line that tells the bytes needed and free, nothing torn and nothing in staging; with more room the next run"
        " ends with the bytes of an undisturbed one",
        "python -m tests.faults --only full_disks",
    )
    command = [*namespace(), sys.executable, "-m", "tests.faults.small_disks", str(times)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        tried = json.loads(line)
        row.note(f"a disk of {tried['size_bytes']:,} bytes", tried["problem"])
    if done.returncode:
        row.note("disks", done.stderr.strip()[-500:])
    return row


def main(times: int) -> None:
    """Sizes are spread evenly over all that are too small."""
    with open_runs() as runs:
        pages = _pages_needed(runs)
        for number in range(1, min(times, pages - 1) + 1):
            size_bytes = (pages - 1) * number // min(times, pages - 1) * _PAGE_BYTES
            with disk(runs.folder / f"disk-{number}", size_bytes) as folder:
                problem = _problem_on(folder, runs)
            print(json.dumps({"size_bytes": size_bytes, "problem": problem}), flush=True)


def _pages_needed(runs: Runs) -> int:
    store = runs.new_store()
    runs.run(store)
    return sum(-(-path.stat().st_size // _PAGE_BYTES) for path in visible_files(store))


@contextmanager
def disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of this size."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _problem_on(folder: Path, runs: Runs) -> str:
    """Empty when the run failed as it should and the next one, with room, did not."""
    store = folder / "store"
    outcome = runs.run(store)
    if outcome.status != "error" or not re.fullmatch(_MESSAGE.format(store=re.escape(str(store))), outcome.message):
        return f"{outcome.status}: {outcome.message}"
    if torn := torn_files(store):
        return f"visible and torn: {torn}"
    if staged := [path.name for path in store.glob(".tmp/*")]:
        return f"left in staging: {staged}"
    if not contents(store).items() < runs.reference.items():
        return "holds what an undisturbed run does not"
    subprocess.run(["mount", "-o", f"remount,size={ENOUGH}", folder], check=True)
    return runs.problem_after(store)


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""Many tiny files in a process that may open few: ``python -m tests.faults.tiny_files FOLDER NUMBER``.

Prints what it took, as one JSON object.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cpt_core.config import DiscoveryConfig
from cpt_core.discovery import discover_sources
from cpt_core.storage import Store
from tests.benchmarks.many_shards import write_many_shards
from tests.conftest import REPOSITORY
from tests.faults.commands import PROGRAM
from tests.memory import peak_rss_bytes

OPEN_FILES = 64
OPEN_FILES_OF_A_COMMAND = 128
"""Each of its processes may have so many, the server's included."""
FILES_IN_FOLDER = 1000
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Peak:
    """The most that a command held at any look: memory of all its processes together, open files of one of them."""

    files: int
    rss_bytes: int
    open_files: int


def prepared(folder: Path, number: int, home: Path) -> Peak:
    """``cpt prepare`` of so many files of one document, by worker processes, with few open files.

    Raises:
        subprocess.CalledProcessError: when it fails.
    """
    config = write_many_shards(folder, number)
    with_limit = ["bash", "-c", f'ulimit -n {OPEN_FILES_OF_A_COMMAND}; exec "$@"', "-"]
    said = folder / "said.json"  # a file, because it is longer than a pipe holds while nobody reads
    with said.open("wb") as stdout:
        command = subprocess.Popen(
            [*with_limit, sys.executable, "-c", PROGRAM, "prepare", str(config), "--json"],
            env=os.environ | {"CPT_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
            stdout=stdout,
        )
    seen = [(0, 0)]
    while command.poll() is None:
        with suppress(psutil.Error):
            process = psutil.Process(command.pid)
            family = [process, *process.children(recursive=True)]
            seen.append((sum(each.memory_info().rss for each in family), max(each.num_fds() for each in family)))
        time.sleep(LOOK_SECONDS)
    if command.returncode:
        raise subprocess.CalledProcessError(command.returncode, "cpt prepare", said.read_text())
    assert json.loads(said.read_bytes())["documents_out"] == number
    return Peak(number, max(rss for rss, _ in seen), max(files for _, files in seen))


def discovered(folder: Path, number: int) -> dict[str, Any]:
    """Discovery of so many files, in a process of its own."""
    command = [sys.executable, "-m", "tests.faults.tiny_files", str(folder), str(number)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1800, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {"problem": done.stderr.strip()[-500:]}


def main(folder: Path, number: int) -> None:
    """Write, find, cut and identify them."""
    for file in range(number):
        path = folder / f"corpus/{file // FILES_IN_FOLDER:03d}/{file:06d}.jsonl"
        if file % FILES_IN_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b'{"text": "%d"}\n' % file)
    config = DiscoveryConfig.model_validate({"sources": [{"name": "a", "uris": [str(folder / "corpus")]}]})
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    before = peak_rss_bytes()
    manifest = discover_sources(config, 256_000_000, store=Store(str(folder / "store")), workers=2)
    after = peak_rss_bytes()
    assert len({shard.identity["sha256"] for shard in manifest.shards}) == number
    shutil.rmtree(folder / "corpus")
    print(json.dumps({"shards": len(manifest.shards), "rss_bytes": after, "grown_bytes": after - before}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

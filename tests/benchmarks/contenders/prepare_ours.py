"""This project's whole data half, as a user runs it: the command `cpt prepare` in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cpt_core.config_file import load_config
from cpt_core.storage import Store
from cpt_core.tokenization import choose_backend, load_tokenizer
from tests.benchmarks.materials import FOLDER, tokenizer_folder
from tests.benchmarks.measure import tell


def main(arguments: dict[str, Any]) -> None:
    """Prepare as often as asked, each time into an empty store."""
    scratch = Path(arguments["scratch"])
    config_file, store_folder = scratch / "growth.yaml", scratch / "growth-store"
    config = {
        "name": "growth",
        "store_uri": str(store_folder),
        "discovery": {"sources": [{"name": "growth", "uris": [arguments["corpus"]]}]},
        "tokenization": {"tokenizer": str(tokenizer_folder()), "shard_size_bytes": arguments["shard_size_bytes"]},
        "orchestration": {"workers": arguments["workers"]},
    }
    config_file.write_text(json.dumps(config), encoding="utf-8")
    size_bytes = Path(arguments["corpus"]).stat().st_size
    seconds = []
    for _ in range(arguments["repeats"]):
        shutil.rmtree(store_folder, ignore_errors=True)
        _remember_verdict(str(config_file), store_folder)
        started = time.perf_counter()
        summary = _prepare(config_file)
        seconds.append(time.perf_counter() - started)
    tell(
        [size_bytes / 1e6 / each for each in seconds],
        size_mb=round(size_bytes / 1e6),
        seconds=round(sorted(seconds)[len(seconds) // 2], 1),
        tokens=summary["tokens"],
        padding=f"{summary['padding_fraction']:.3%}",
    )


def _prepare(config_file: Path) -> dict[str, Any]:
    command = [str(Path(sys.executable).parent / "cpt"), "prepare", str(config_file), "--json"]
    environment = os.environ | {"CPT_HOME": str(FOLDER / "cpt-home")}
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(finished.stdout))


def _remember_verdict(config_file: str, store_folder: Path) -> None:
    """The check of the engine runs once a store; here it is taken over from the benchmarks' own."""
    config = load_config(config_file).tokenization
    own = Store(str(FOLDER / "store"))
    choose_backend(load_tokenizer(config), config, 10**9, store=own)
    shutil.copytree(FOLDER / "store" / "parity", store_folder / "parity")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

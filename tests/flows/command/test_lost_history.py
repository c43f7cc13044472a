"""What Prefect remembers is no truth: with its databases deleted or damaged, a run serves what the store has."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import write_jsonl
from tests.flows.homes import new_home


def prepare(folder: Path, home: Path) -> dict:
    """``cpt prepare`` with a home; its summary."""
    done = subprocess.run(
        [sys.executable, "-c", "from flows.command import main; main()", "prepare", "config.yaml", "--json"],
        cwd=folder,
        env=os.environ | {"CPT_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_without_prefects_memory_computes_only_what_is_new(home_with_schema, tmp_path, make_config):
    """The history of the first run is overwritten with rubbish, a file is added: one shard is computed, two served."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["one", "two"])
    write_jsonl(tmp_path / "corpus/2.jsonl", ["three"])
    (tmp_path / "config.yaml").write_text(make_config().model_dump_json(), encoding="utf-8")
    home = new_home(home_with_schema, tmp_path / "home")
    first = prepare(tmp_path, home)
    rubbish = [path for path in (home / "embedded").rglob("*") if path.is_file()]
    for path in rubbish:
        path.write_bytes(b"rubbish")
    assert any(path.suffix == ".db" for path in rubbish)
    write_jsonl(tmp_path / "corpus/3.jsonl", ["four"])
    second = prepare(tmp_path, home)
    assert (first["shards_computed"], second["shards_computed"], second["shards_cached"]) == (2, 1, 2)
    assert second["artifacts"]["tokens"][:2] == first["artifacts"]["tokens"]
    assert second["documents_out"] == 4

"""The text of documents stays in the store: no log, no screen and no database repeats it."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.flows.homes import new_home

CANARY = "the canary sings at 7319"
LOUD = {
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG",
    "PREFECT_SERVER_LOGGING_LEVEL": "DEBUG",
}
BAD_LINES = [
    f'{{"text": "{CANARY}',
    f'{{"text": "{CANARY}", "text": "{CANARY}"}}',
    f'{{"{CANARY}": 1, "{CANARY}": 2, "text": "{CANARY}"}}',
    f'{{"{CANARY}": "{CANARY}"}}',
    f'["{CANARY}"]',
    f'{{"text": ["{CANARY}"]}}',
    f'{{"text": "{CANARY} \\ud800"}}',
    f'{{"text": "{CANARY} \udcff"}}',
]


@pytest.fixture
def corpus(tmp_path, make_config) -> Path:
    """A canary in good lines and in every kind of bad one; its configuration is config.yaml."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    good = [json.dumps({"text": f"{CANARY} {number} {CANARY}", CANARY: CANARY}) for number in range(20)]
    lines = "".join(f"{line}\n" for line in good + BAD_LINES).encode(errors="surrogateescape")
    (folder / "lines.jsonl").write_bytes(lines)
    pq.write_table(pa.table({"text": [CANARY, None, ""], "other": [CANARY] * 3}), folder / "table.parquet")
    (tmp_path / "config.yaml").write_text(make_config().model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture
def prepare(home_with_schema, tmp_path, corpus):
    """Run ``cpt prepare`` with every logger at its loudest; all that it wrote outside of the store."""
    home = new_home(home_with_schema, tmp_path / "home")
    cpt = str(Path(sys.executable).parent / "cpt")

    def run(max_bad_fraction: float) -> tuple[int, dict[str, bytes]]:
        command = [cpt, "prepare", "config.yaml", "--set", f"tokenization.max_bad_fraction={max_bad_fraction}"]
        environment = os.environ | LOUD | {"CPT_HOME": str(home)}
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False)
        written = {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
        return result.returncode, {"stdout": result.stdout, "stderr": result.stderr, **written}

    return run


def test_no_log_repeats_a_document(prepare, corpus):
    """Neither when lines are rejected, nor when a shard or the whole run fails."""
    lines_without_text = [json.dumps({CANARY: 1, "body": CANARY}) for _ in range(1000)]
    (corpus / "no_text.jsonl").write_text("\n".join(lines_without_text) + "\n", encoding="utf-8")
    (corpus / "torn.jsonl.gz").write_bytes(gzip.compress(f'{{"text": "{CANARY}"}}\n'.encode() * 1000)[:-3])
    code, failed = prepare(1.0)
    assert code == 1
    assert b"torn.jsonl.gz: gzip data is truncated or corrupt" in failed["stderr"]
    assert b"did you mean 'body'?" in failed["stderr"]

    (corpus / "no_text.jsonl").unlink()
    (corpus / "torn.jsonl.gz").unlink()
    code, passed = prepare(1.0)
    assert code == 0
    assert b"31 in = 21 out + 10 quarantined" in passed["stdout"]
    code, refused = prepare(0.0)
    assert code == 1

    databases = [name for name in passed if ".db" in name]
    assert any(b"tokenize a-00000" in passed[name] for name in databases), "the databases are where runs are kept"
    assert b"DEBUG" in passed["stderr"]
    for written in (failed, passed, refused):
        assert [name for name, content in written.items() if b"canary" in content] == []

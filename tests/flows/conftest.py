"""Real Prefect servers: homes that have the schema already, a served home, and an embedded server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["DO_NOT_TRACK"] = "1"  # before Prefect is imported
os.environ.pop("PREFECT_API_URL", None)

from cpt_core.config import PipelineConfig
from flows.serving.embedded import embedded_server
from flows.serving.operation import down, up
from flows.serving.overview import ServingStatus
from flows.serving.prefect_server import free_port
from tests.flows.homes import new_home

HOLD_A_SERVER = """
import sys
from pathlib import Path
from flows.serving.embedded import embedded_server
with embedded_server(Path(sys.argv[1])) as api_url:
    print(api_url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def hold_a_server() -> str:
    """A program that has an embedded server until its stdin ends."""
    return HOLD_A_SERVER


@pytest.fixture(scope="session")
def home_with_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Building the schema takes 12 to 20 s, so it is done once, as in a user's home."""
    home = tmp_path_factory.mktemp("schema")
    command = [sys.executable, "-c", HOLD_A_SERVER, str(home)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=400)
    return home


@pytest.fixture
def home(home_with_schema: Path, tmp_path: Path) -> Iterator[Path]:
    """A home of its own; whatever a failed test leaves running is stopped."""
    home = new_home(home_with_schema, tmp_path / "home")
    yield home
    down(home)


@pytest.fixture(scope="session")
def served_config(tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    """One document, and a training section so that every kind of field reaches the server."""
    folder = tmp_path_factory.mktemp("served-data")
    (folder / "a.jsonl").write_text('{"text": "ab"}\n', encoding="utf-8")
    return PipelineConfig.model_validate(
        {
            "name": "served",
            "store_uri": str(folder / "store"),
            "discovery": {"sources": [{"name": "a", "uris": [str(folder)]}]},
            "tokenization": {"tokenizer": str(folder / "tokenizer"), "shard_size_bytes": "1MB"},
            "training": {"model": str(folder / "model")},
        }
    )


@pytest.fixture(scope="session")
def served(
    home_with_schema: Path, tmp_path_factory: pytest.TempPathFactory, served_config: PipelineConfig
) -> Iterator[tuple[Path, ServingStatus]]:
    """A home where `up` has run, and what it returned."""
    home = new_home(home_with_schema, tmp_path_factory.mktemp("served") / "home")
    try:
        yield home, up(served_config, home=home, port=free_port())
    finally:
        down(home)


@pytest.fixture(scope="module")
def prefect_api(home_with_schema: Path) -> Iterator[str]:
    """The URL of a server that lives as long as the tests of one module."""
    with embedded_server(home_with_schema) as api_url:
        yield api_url

"""Hosts and a Slurm for the tests of this folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpt_core.launching.environment import free_port
from tests.cluster import slurm
from tests.cluster.hosts import Hosts, can_be_made, missing_programs, two_hosts
from tests.cluster.slurm import Slurm
from tests.cpt_core.training.conftest import (
    commit_rows,
    config_only_folder,
    llama_config,
    tokenizer_folder,
    training_command,
)
from tests.flows.conftest import home_with_schema

__all__ = [
    "commit_rows",
    "config_only_folder",
    "home_with_schema",
    "llama_config",
    "tokenizer_folder",
    "training_command",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are of the same kind."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Two hosts for all tests of a session."""
    assert not missing_programs(), f"install first: {', '.join(missing_programs())}"
    if not can_be_made():
        pytest.skip("network namespaces cannot be made here: they need root and the right to administer the system")
    with two_hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm for all tests of a session."""
    assert os.geteuid() == 0, "a Slurm of one's own needs root"
    assert not slurm.missing_programs(), f"install first: {', '.join(slurm.missing_programs())}"
    with slurm.slurm(tmp_path_factory.mktemp("slurm"), [free_port() for _ in range(4)]) as made:
        yield made


@pytest.fixture(scope="session")
def search_path() -> str:
    """PYTHONPATH of programs that these tests start."""
    return os.pathsep.join([str(Path(__file__).parent.parent.parent), os.environ.get("PYTHONPATH", "")])

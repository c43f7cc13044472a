"""Environments of processes, and the compiler that must be there."""

import os
from pathlib import Path

import pytest

from cpt_core.config import LauncherConfig
from cpt_core.errors import ConfigError
from cpt_core.launching.compiler import extension_is_built, extension_is_needed, require_compiler
from cpt_core.launching.environment import cluster_environments, local_environments

CLUSTER = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
TWO_NODES = LauncherConfig(kind="env", num_nodes=2, processes_per_node=2)
RANK_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


def _rank_variables(environment: dict[str, str]) -> list[str]:
    return [environment[name] for name in RANK_NAMES]


def test_local_ranks() -> None:
    """Two local processes share the cores and meet on the loopback interface."""
    found = local_environments(LauncherConfig(processes_per_node=2), {"PATH": "/bin"}, port=1234, num_cores=5)
    assert [_rank_variables(environment) for environment in found] == [
        ["0", "0", "2", "2", "127.0.0.1", "1234", "2"],
        ["1", "1", "2", "2", "127.0.0.1", "1234", "2"],
    ]


def test_cluster_ranks() -> None:
    """The second node of two with two processes each starts the global ranks 2 and 3."""
    found = cluster_environments(TWO_NODES, CLUSTER, num_cores=1)
    assert [_rank_variables(environment) for environment in found] == [
        ["2", "0", "4", "2", "node0", "29500", "1"],
        ["3", "1", "4", "2", "node0", "29500", "1"],
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"WORLD_SIZE": "", "MASTER_PORT": "http"},
            "WORLD_SIZE is missing; MASTER_PORT is 'http', expected a whole number",
        ),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4, expected num_nodes = 2"),
        ({"RANK": "2"}, "RANK is 2, expected 0 to 1"),
        ({"TORCHELASTIC_RUN_ID": "7"}, "TORCHELASTIC_RUN_ID is set, so torchrun has started this once a process"),
        ({"RANK": "-1"}, "RANK is '-1', expected a whole number"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is 70000, expected 1 to 65535"),
    ],
)
def test_contradicting_cluster_variables(changed: dict[str, str], message: str) -> None:
    """Every variable that is missing, malformed or contradicts the configuration is named in one line."""
    with pytest.raises(ConfigError) as raised:
        cluster_environments(TWO_NODES, CLUSTER | changed, num_cores=1)
    assert str(raised.value) == (
        f"training.launcher.kind is env: {message}. Start the same command once a node with WORLD_SIZE (number of "
        "nodes), RANK (this node, from 0), MASTER_ADDR and MASTER_PORT, or use kind local"
    )


def test_precedence() -> None:
    """The launcher's own variables win over inherited ones, inherited ones over defaults, ranks over all."""
    launcher = LauncherConfig(environment={"NCCL_DEBUG": "INFO", "RANK": "7"})
    inherited = {"NCCL_DEBUG": "WARN", "OMP_NUM_THREADS": "3", "TORCH_EXTENSIONS_DIR": "/ext"}
    (found,) = local_environments(launcher, inherited, port=1, num_cores=8)
    names = ("NCCL_DEBUG", "OMP_NUM_THREADS", "TORCH_EXTENSIONS_DIR", "RANK")
    assert [found[name] for name in names] == ["INFO", "3", "/ext", "0"]


def test_extension_cache_folder() -> None:
    """What DeepSpeed compiles is kept in one folder a user and a set of versions."""
    (found,) = local_environments(LauncherConfig(), {"XDG_CACHE_HOME": "/caches"}, port=1, num_cores=1)
    folder = found["TORCH_EXTENSIONS_DIR"]
    assert folder.startswith("/caches/cpt/extensions-torch2")
    assert "-deepspeed0." in folder


def test_missing_compiler(tmp_path: Path) -> None:
    """Without a compiler and without a built extension, one line names the Debian package."""
    with pytest.raises(ConfigError) as raised:
        require_compiler(LauncherConfig(), {"PATH": "", "TORCH_EXTENSIONS_DIR": str(tmp_path)})
    assert str(raised.value) == (
        "no C++ compiler: c++ is not in PATH, and DeepSpeed must compile deepspeed_shm_comm once on this machine; "
        "install the Debian package g++, or set CXX"
    )


def test_built_extension_needs_no_compiler(tmp_path: Path) -> None:
    """A built extension is found in the cache, and then no compiler is asked for."""
    built = tmp_path / "deepspeed_shm_comm" / "deepspeed_shm_comm.so"
    built.parent.mkdir()
    built.touch()
    environment = {"PATH": "", "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    require_compiler(LauncherConfig(), environment)
    assert extension_is_built(LauncherConfig(), environment)
    assert extension_is_needed("cpu")
    assert not extension_is_needed("cuda")


def test_lock_of_a_dead_build(tmp_path: Path) -> None:
    """A lock that no process holds open is removed, because torch would wait for it for ever; a live one stays."""
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    (lock.parent / "deepspeed_shm_comm.so").touch()
    environment = {"PATH": "", "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    descriptor = os.open(lock, os.O_CREAT | os.O_EXCL)
    require_compiler(LauncherConfig(), environment)
    assert lock.exists()
    os.close(descriptor)
    require_compiler(LauncherConfig(), environment)
    assert not lock.exists()

"""The environment variables of every process of a job.

In: the launcher's configuration, the variables of this process, the number of cores.
Out: one mapping for each process that this node starts.
Promise: pure functions but for ``current_environment`` and ``free_port``; contradictions are one ``ConfigError``.
Never: imports torch to learn about devices; a worker decides that for itself.
"""

import os
import socket
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from cpt_core.config import LauncherConfig
from cpt_core.errors import ConfigError

LOOPBACK = "127.0.0.1"
CLUSTER_VARIABLES = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")

Environment = Mapping[str, str]


def current_environment() -> Environment:
    """The variables of this process: the only place of this room that reads them."""
    return dict(os.environ)


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def local_environments(
    launcher: LauncherConfig, base: Environment, *, port: int, num_cores: int
) -> list[dict[str, str]]:
    """For launcher kind ``local``: all ranks are on this machine and meet on its loopback interface."""
    here = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    common = {"GLOO_SOCKET_IFNAME": "lo", **common_variables(launcher, base, num_cores=num_cores)}
    return [common | here | ranks for ranks in _ranks(launcher, node=0)]


def cluster_environments(launcher: LauncherConfig, base: Environment, *, num_cores: int) -> list[dict[str, str]]:
    """For launcher kind ``env``: this node's processes, from the four variables that the cluster sets.

    Raises:
        ConfigError: naming every variable that is missing, malformed or contradicts the configuration.
    """
    _require_cluster(launcher, base)
    meeting_point = {name: base[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
    common = common_variables(launcher, base, num_cores=num_cores)
    return [common | meeting_point | ranks for ranks in _ranks(launcher, node=int(base["RANK"]))]


def node_rank(launcher: LauncherConfig, base: Environment) -> int:
    """Which node this is, from 0; always 0 when the launcher starts the whole job from one place.

    Raises:
        ConfigError: when the cluster's variables do not fit the configuration.
    """
    if launcher.kind != "env":
        return 0
    _require_cluster(launcher, base)
    return int(base["RANK"])


def extensions_folder(launcher: LauncherConfig, base: Environment) -> Path:
    """Where DeepSpeed keeps what it compiles: one folder a user and a set of versions, kept between runs."""
    chosen = launcher.environment.get("TORCH_EXTENSIONS_DIR") or base.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen)
    caches = Path(base.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return caches / "cpt" / f"extensions-torch{version('torch')}-deepspeed{version('deepspeed')}-{python}"


def common_variables(launcher: LauncherConfig, base: Environment, *, num_cores: int) -> dict[str, str]:
    """What every process gets; DeepSpeed looks for ninja in PATH, and it lies beside the interpreter."""
    defaults = {
        "OMP_NUM_THREADS": str(max(1, num_cores // launcher.processes_per_node)),
        "PYTHONUNBUFFERED": "1",
    }
    tools = str(Path(sys.executable).parent)
    fixed = {
        "PATH": os.pathsep.join(filter(None, [base.get("PATH", ""), tools])),
        "TORCH_EXTENSIONS_DIR": str(extensions_folder(launcher, base)),
    }
    return defaults | dict(base) | fixed | launcher.environment


def _ranks(launcher: LauncherConfig, node: int) -> list[dict[str, str]]:
    first = node * launcher.processes_per_node
    return [
        {
            "RANK": str(first + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(launcher.world_size),
            "LOCAL_WORLD_SIZE": str(launcher.processes_per_node),
        }
        for local_rank in range(launcher.processes_per_node)
    ]


def _require_cluster(launcher: LauncherConfig, base: Environment) -> None:
    problems = _cluster_problems(launcher, base)
    if problems:
        raise ConfigError(
            f"training.launcher.kind is env: {'; '.join(problems)}. "
            "Start the same command once a node with WORLD_SIZE (number of nodes), RANK (this node, from 0), "
            "MASTER_ADDR and MASTER_PORT, or use kind local"
        )


def _cluster_problems(launcher: LauncherConfig, base: Environment) -> list[str]:
    problems = [f"{name} is missing" for name in CLUSTER_VARIABLES if not base.get(name)]
    numbers: dict[str, int] = {}
    for name in ("WORLD_SIZE", "RANK", "MASTER_PORT"):
        text = base.get(name)
        if text and text.isdecimal():
            numbers[name] = int(text)
        elif text:
            problems.append(f"{name} is {text!r}, expected a whole number")
    nodes = numbers.get("WORLD_SIZE", launcher.num_nodes)
    if nodes != launcher.num_nodes:
        problems.append(f"WORLD_SIZE is {nodes}, expected num_nodes = {launcher.num_nodes}")
    if base.get("TORCHELASTIC_RUN_ID"):
        problems.append("TORCHELASTIC_RUN_ID is set, so torchrun has started this once a process")
    if numbers.get("RANK", 0) >= launcher.num_nodes:
        problems.append(f"RANK is {numbers['RANK']}, expected 0 to {launcher.num_nodes - 1}")
    if not 0 < numbers.get("MASTER_PORT", 1) < 65536:
        problems.append(f"MASTER_PORT is {numbers['MASTER_PORT']}, expected 1 to 65535")
    return problems

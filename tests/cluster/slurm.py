"""A Slurm of three nodes on one machine.

In: root, Debian's slurm-wlm and munge; a folder.
Out: the variables by which its commands find it.
Promise: munged, slurmctld, the slurmds and all they have started are taken down at the end, by process number.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NUM_NODES = 3
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
SETTINGS = """
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=15
KillWait=5
MinJobAge=3600
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=NO
"""
NODE = "NodeName=node{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000 State=UNKNOWN"


class Slurm:
    """A running cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lost: list[str] = []
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}

    def lose_node(self, name: str) -> None:
        """Kill a node's daemon and everything that it has started, as a power cut does."""
        daemon = psutil.Process(int((self._folder / f"slurmd-{name}.pid").read_text()))
        for process in [daemon, *_of_node(name)]:
            with suppress(psutil.Error):
                process.kill()
        self._lost.append(name)

    def bring_back_nodes(self) -> None:
        """Cancel every job, switch lost nodes on again, and wait until all nodes are idle."""
        self.ask("scancel", "--user=root")
        while self._lost:
            self.start_node(self._lost.pop())
        self.wait_until_idle()

    def start_node(self, name: str) -> None:
        """Start its daemon."""
        command = ["slurmd", "-f", self._folder / "slurm.conf", "-N", name]
        subprocess.run(command, env=os.environ | self.variables, check=True, timeout=30)

    def wait_until_idle(self) -> None:
        """Wait until every node can take a job."""
        deadline = time.monotonic() + 60
        while self.ask("sinfo", "--noheader", "--format=%D %T") != f"{NUM_NODES} idle":
            assert time.monotonic() < deadline, self.ask("sinfo", "--Node", "--long")
            time.sleep(0.3)

    def processes(self) -> list[psutil.Process]:
        """What runs on all nodes for jobs."""
        return [process for n in range(NUM_NODES) for process in _of_node(f"node{n}")]

    def ask(self, *command: str) -> str:
        """What a command of Slurm's says."""
        found = subprocess.run(command, env=os.environ | self.variables, capture_output=True, text=True, timeout=30)
        return found.stdout.strip()


@contextmanager
def slurm(folder: Path, ports: list[int]) -> Iterator[Slurm]:
    """Start the cluster, and take it down."""
    _prepare(folder, ports)
    cluster = Slurm(folder)
    variables = os.environ | cluster.variables
    try:
        _start_munged(folder / "munge")
        subprocess.run(["slurmctld", "-f", folder / "slurm.conf", "-c"], env=variables, check=True, timeout=30)
        for n in range(NUM_NODES):
            cluster.start_node(f"node{n}")
        cluster.wait_until_idle()
        yield cluster
    finally:
        cluster.ask("scancel", "--user=root")
        _take_down(folder, cluster.processes())


def missing_programs() -> list[str]:
    """What has to be installed first."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


def _prepare(folder: Path, ports: list[int]) -> None:
    for name in ("state", "munge", *(f"spool-node{n}" for n in range(NUM_NODES))):
        (folder / name).mkdir(parents=True)
    (folder / "munge" / "key").write_bytes(os.urandom(1024))
    (folder / "munge" / "key").chmod(0o600)
    (folder / "munge").chmod(0o711)
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(NODE.format(n=n, host=host, port=port) for n, port in enumerate(ports[1:]))
    (folder / "slurm.conf").write_text(SETTINGS.format(host=host, port=ports[0], folder=folder, nodes=nodes))


def _start_munged(folder: Path) -> None:
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder / name}" for option, name in names.items()]
    subprocess.run(["munged", "--force", "--num-threads=2", *options], check=True, timeout=30)


def _take_down(folder: Path, left: list[psutil.Process]) -> None:
    """Jobs have been cancelled; what is left of their steps goes first, the daemons after it."""
    daemons = []
    for pid_file in [*folder.glob("slurmd-*.pid"), folder / "slurmctld.pid", folder / "munge" / "pid"]:
        with suppress(FileNotFoundError, ValueError, psutil.Error):
            daemons.append(psutil.Process(int(pid_file.read_text())))
    for process in [*left, *daemons]:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(daemons, timeout=10)


def _of_node(name: str) -> list[psutil.Process]:
    """Its tasks, in whose environment Slurm names the node, after the step daemons that would report their ends."""
    tasks = [process for process in psutil.process_iter() if _node_of(process) == name]
    parents = {task.parent() for task in tasks}
    daemons = [parent for parent in parents if parent is not None and parent.name().startswith("slurmstepd")]
    return [*daemons, *tasks]


def _node_of(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        return process.environ().get("SLURMD_NODENAME")
    return None

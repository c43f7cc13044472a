"""Launcher kind ``hostfile``: DeepSpeed's own launcher, with pdsh over ssh.

In: a job, DeepSpeed's hostfile, the variables of this process.
Out: a handle of the launcher, which runs on this machine in a session of its own; logs and status come by the shared
folder.
Promise: every host is tried before anything starts; a connection that is lost ends the launcher within half a minute;
after ``stop`` no process is left on any host that can be reached.
Never: believes the launcher's exit code, lets it signal remote processes by a pattern of their command lines, or
gives it a variable that it would write into one.

DeepSpeed 0.19 trains on this machine alone, with exit code 0, when the hostfile is missing; it tries only the first
host; its pdsh waits for ever for a host that has lost its power; killed, it leaves all remote processes running.
"""

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cpt_core.config import LauncherConfig
from cpt_core.errors import ConfigError, JobFailedError
from cpt_core.launching.guard import GRACE_SECONDS
from cpt_core.launching.job import Job, JobState, last_lines
from cpt_core.launching.process_id import ProcessId
from cpt_core.launching.record import TOLD_NAME, carry_variables
from cpt_core.launching.status import StopRequest

logger = logging.getLogger(__name__)

DEFAULT_PORT = 29500
SSH_OPTIONS = ["-oBatchMode=yes", "-oConnectTimeout=10", "-oServerAliveInterval=5", "-oServerAliveCountMax=3"]
_FORWARDED_BY_DEEPSPEED = ("MLFLOW", "MV2", "UCX")
_SSH_SECONDS = 30.0
_SWEEP_SECONDS = 15.0
"""Together with the wait before it less than the half minute that Prefect gives a cancelled run."""
_NOT_SHARED, _NO_PYTHON, _NO_CONNECTION = 91, 92, 255
_LOST_HOST = re.compile(r"^pdsh@\S+: (\S+): ssh exited with exit code 255", re.MULTILINE)
"""pdsh goes on waiting for the other hosts, whose ranks wait for the lost one."""
_HOST_LINE = re.compile(r"(?P<host>[^\s#]+)\s+slots=(?P<slots>\d+)\s*(#.*)?")


class HostfileLauncher:
    """Handle of DeepSpeed's launcher."""

    seconds_to_stop = 3 * GRACE_SECONDS

    def __init__(
        self, job: Job, hosts: list[str], process: ProcessId, started: "subprocess.Popen[bytes] | None" = None
    ) -> None:
        self._job = job
        self._hosts = hosts
        self._process = process
        self._started = started

    @classmethod
    def start(cls, job: Job, base: Mapping[str, str]) -> "HostfileLauncher":
        """Try every host, then start the launcher."""
        hosts = read_hosts(job.launcher)
        _require_programs(base)
        require_hosts(hosts, job.folder, base)
        carry_variables(job.folder, job.launcher.carried_environment, base)
        with job.launcher_log.open("ab") as log:
            started = subprocess.Popen(
                deepspeed_command(job, hosts),
                cwd=job.folder,
                env=launcher_variables(job.launcher, base),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(job, hosts, ProcessId.of(started.pid), started)

    @classmethod
    def attach(cls, job: Job, identity: dict[str, Any]) -> "HostfileLauncher":
        """The launcher that another process of this machine has started."""
        return cls(job, identity["hosts"], ProcessId(**identity["process"]))

    def identity(self) -> dict[str, Any]:
        """The launcher's process number, and where its ranks are."""
        return {"process": asdict(self._process), "hosts": self._hosts}

    def poll(self) -> JobState:
        """``exited`` once the launcher has ended or lost a host; ranks may be left, which ``stop`` ends."""
        is_running = self._started.poll() is None if self._started else self._process.is_alive()
        return "running" if is_running and not self._lost_hosts() else "exited"

    def stop(self) -> None:
        """Ask all ranks by the shared folder, then end the launcher, then look after ranks that have not ended."""
        if self.poll() == "exited" and not self._unended_hosts():
            return
        is_wanted = self.poll() == "running"
        why = "stopped on request" if is_wanted else "the launcher ended before its ranks"
        with suppress(OSError):  # a full disk or a lost folder is no reason to leave anything running
            self._job.status().ask_to_stop(StopRequest(why, is_wanted=is_wanted))
        deadline = time.monotonic() + GRACE_SECONDS + 3.0
        while (self.poll() == "running" or self._unended_hosts()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._process.send_group(signal.SIGKILL)
        if self._started:
            self._started.wait()
        _sweep(self._unended_hosts(), self._job.folder)

    def trouble(self) -> str:
        """The end of the launcher's log."""
        lost = self._lost_hosts()
        what = f"the connection to {', '.join(lost)} was lost" if lost else "DeepSpeed's launcher ended"
        return f"{what}. Last lines of {self._job.launcher_log.name}:\n{last_lines(self._job.launcher_log)}"

    def _lost_hosts(self) -> list[str]:
        try:
            said = self._job.launcher_log.read_text(encoding="utf-8", errors="replace")
        except OSError:  # what it says now is read later
            return []
        return _LOST_HOST.findall(said)

    def _unended_hosts(self) -> list[str]:
        """Hosts with a rank that has begun and of whose end nothing is known; all, when nothing can be read now."""
        try:
            status = self._job.status()
            ended = status.ends()
            nodes = {sign.node for rank, sign in status.alive().items() if rank not in ended}
        except OSError:
            return self._hosts
        return [host for node, host in enumerate(self._hosts) if node in nodes]


def read_hosts(launcher: LauncherConfig) -> list[str]:
    """The hosts of a job, in the order of their nodes.

    Raises:
        ConfigError: when the hostfile is missing, has a line that is none, or too few hosts or slots.
    """
    path = Path(str(launcher.hostfile))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"training.launcher.hostfile {path}: {error.strerror}; expected a file with lines like `node1 slots=8`"
        ) from None
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        matched = _HOST_LINE.fullmatch(line.strip())
        if matched is None:
            raise ConfigError(f"{path}, line {number}: {line.strip()!r}, expected a line like `node1 slots=8`")
        if matched["host"] in slots:
            raise ConfigError(f"{path}, line {number}: {matched['host']} stands there twice")
        slots[matched["host"]] = int(matched["slots"])
    _require_enough(path, slots, launcher)
    return list(slots)[: launcher.num_nodes]


def require_hosts(hosts: list[str], folder: Path, base: Mapping[str, str]) -> None:
    """Try every host at the same time.

    Raises:
        JobFailedError: naming every host that cannot be reached, does not see the job's folder, or lacks Python.
    """
    question = (
        f"test -r {shlex.quote(str(folder / TOLD_NAME))} || exit {_NOT_SHARED}; "
        f"test -x {shlex.quote(sys.executable)} || exit {_NO_PYTHON}"
    )
    with ThreadPoolExecutor(len(hosts)) as pool:
        answers = pool.map(lambda host: _problem_of(host, question, folder, base), hosts)
        problems = [f"{host}: {problem}" for host, problem in zip(hosts, answers, strict=True) if problem]
    if problems:
        raise JobFailedError(
            f"{len(problems)} of {len(hosts)} hosts cannot take part, so nothing was started. {'; '.join(problems)}"
        )


def deepspeed_command(job: Job, hosts: list[str]) -> list[str]:
    """What starts one guard for each slot of each host; nothing in it is secret."""
    launcher = job.launcher
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner"),
        *("--hostfile", str(Path(str(launcher.hostfile)).resolve())),
        *("--num_nodes", str(launcher.num_nodes)),
        *("--num_gpus", str(launcher.processes_per_node)),
        *("--master_addr", launcher.environment.get("MASTER_ADDR", hosts[0])),
        *("--master_port", str(launcher.master_port or DEFAULT_PORT)),
        *("--launcher", "pdsh", "--force_multi", "--no_ssh_check"),
        *("--module", "--no_local_rank", "cpt_core.launching.guard", str(job.folder)),
    ]


def launcher_variables(launcher: LauncherConfig, base: Mapping[str, str]) -> dict[str, str]:
    """Variables of DeepSpeed's launcher, which writes some of them, and all of ~/.deepspeed_env, into command lines."""
    kept = {name: value for name, value in base.items() if not name.startswith(_FORWARDED_BY_DEEPSPEED)}
    accelerator = launcher.environment.get("DS_ACCELERATOR")
    ssh_options = " ".join(filter(None, [base.get("PDSH_SSH_ARGS_APPEND"), *SSH_OPTIONS]))
    return (
        kept
        | {"PDSH_SSH_ARGS_APPEND": ssh_options, "DS_ENV_FILE": os.devnull}
        | ({"DS_ACCELERATOR": accelerator} if accelerator else {})
    )


def _require_enough(path: Path, slots: dict[str, int], launcher: LauncherConfig) -> None:
    if len(slots) < launcher.num_nodes:
        raise ConfigError(f"{path} has {len(slots)} hosts, expected at least num_nodes = {launcher.num_nodes}")
    for host in list(slots)[: launcher.num_nodes]:
        if slots[host] < launcher.processes_per_node:
            raise ConfigError(
                f"{path}: {host} has slots={slots[host]}, expected at least processes_per_node ="
                f" {launcher.processes_per_node}"
            )


def _require_programs(base: Mapping[str, str]) -> None:
    for program, package in (("pdsh", "pdsh"), ("ssh", "openssh-client")):
        if shutil.which(program, path=base.get("PATH", "")) is None:
            raise ConfigError(
                f"training.launcher.kind is hostfile, but {program} is not in PATH; install Debian's {package}"
            )


def _problem_of(host: str, question: str, folder: Path, base: Mapping[str, str]) -> str | None:
    try:
        answer = _ssh(host, question, base, _SSH_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer by ssh within {_SSH_SECONDS:g} seconds"
    if answer.returncode == _NOT_SHARED:
        return f"{folder} is not there; store_uri or output_dir must be on a file system that all hosts share"
    if answer.returncode == _NO_PYTHON:
        return f"{sys.executable} is not there; install this environment at the same path on every host"
    if answer.returncode == 0:
        return None
    said = answer.stderr.strip().splitlines()[-1:] or [f"exit code {answer.returncode}"]
    return f"ssh says: {said[0]}" if answer.returncode == _NO_CONNECTION else f"a simple command says: {said[0]}"


def _ssh(host: str, command: str, base: Mapping[str, str], seconds: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["ssh", *SSH_OPTIONS, *shlex.split(base.get("PDSH_SSH_ARGS_APPEND", "")), host, command],
        env=dict(base),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def _sweep(hosts: list[str], folder: Path) -> None:
    """End ranks that did not hear of the stop, on all hosts at the same time."""
    if hosts:
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(lambda host: _sweep_host(host, folder), hosts))


def _sweep_host(host: str, folder: Path) -> None:
    search_path = shlex.quote(os.pathsep.join(filter(None, sys.path)))
    sweep = f"PYTHONPATH={search_path} {shlex.quote(sys.executable)} -m cpt_core.launching.sweep ."
    with suppress(subprocess.TimeoutExpired):
        answer = _ssh(host, f"cd {shlex.quote(str(folder))} && {sweep}", os.environ, _SWEEP_SECONDS)
        if answer.returncode == 0:
            return
    logger.warning("%s cannot be reached any more; its ranks end as soon as they notice that by themselves", host)

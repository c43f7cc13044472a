"""The process beside each rank: ``python -m cpt_core.launching.guard JOB_FOLDER``, started by any launcher.

In: what the launcher wrote into the job's folder; RANK and its companions, or Slurm's names for them.
Out: the rank's log; its signs of life, its end and, when it failed, the request that all others end, as files.
Promise: a rank that dies, falls silent or loses its launcher ends the whole job; nothing of a rank outlives its guard,
and no guard outlives its sight of the job's folder for long.
Never: imports torch, or anything that takes long; never starts a rank before the start of the job is on record.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from cpt_core.launching.process_id import ProcessId
from cpt_core.launching.record import FOLLOWED_NAME, TOLD_NAME, RemoteVariables, is_started
from cpt_core.launching.sight import Sight
from cpt_core.launching.status import RankExit, SignOfLife, Status, StopRequest, ask_all_to_stop, read_json
from cpt_core.launching.success import DONE_NAME

TICK_SECONDS = 1.0
SECONDS_BETWEEN_SIGNS = 5.0
GRACE_SECONDS = 5.0
START_SECONDS = 60.0
_DUMP_SECONDS = 0.5
_SECONDS_FOR_THE_CAUSE = 1.0
"""A rank that has lost a companion ends with an error of its own; so much later is early enough to blame it."""
_SILENCES_BEFORE_MEETING = 10
"""A rank that loads its libraries from a busy file system holds its interpreter, and can give no sign meanwhile."""
_STOPPED = "was stopped"
TOLD_TO_END = "was told to end by a signal"


def main() -> None:
    """Guard one rank; the exit code is the rank's, as a shell gives it."""
    folder = Path(sys.argv[1])
    told: dict[str, Any] = json.loads((folder / TOLD_NAME).read_bytes())
    parent = _Parent(told)
    if not _wait_for_start(folder, parent):
        sys.exit(f"{folder}: the launcher ended before it had noted the start; nothing was started")
    environment = RemoteVariables(folder, told).of_this_rank(os.environ) if told["is_remote"] else dict(os.environ)
    end = Guard(folder, told, environment, parent).run()
    code = 1 if end.exit_code is None else end.exit_code
    os._exit(code if code >= 0 else 128 - code)


class _Parent:
    """Whoever started this guard, if the rank must not outlive it."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._launcher = ProcessId(**told["launcher_process"])
        self._is_local = not told["is_remote"]
        self._outlived = told["outlives_launcher"] and self._is_local
        self._parent = os.getppid()

    def is_gone(self) -> bool:
        """Whether the rank has to end for it."""
        return not self._outlived and self.has_ended()

    def has_ended(self) -> bool:
        """Whether it has ended."""
        return not self._launcher.is_alive() if self._is_local else os.getppid() != self._parent


def _wait_for_start(folder: Path, parent: _Parent) -> bool:
    """A job whose start is not on record could be started a second time, so it has not begun."""
    deadline = time.monotonic() + START_SECONDS
    while not is_started(folder):
        if time.monotonic() > deadline or parent.has_ended():
            return is_started(folder)
        time.sleep(0.05)
    return True


class Guard:
    """One rank and the files about it."""

    def __init__(self, folder: Path, told: dict[str, Any], environment: dict[str, str], parent: _Parent) -> None:
        self._folder = folder
        self._told = told
        self._environment = environment
        self._parent = parent
        self._rank = int(environment["RANK"])
        self._node = self._rank // int(told["processes_per_node"])
        self._status = Status.of_run(folder, _run_of(told, environment))
        self._followed: Status | None = None
        self._log = folder / f"rank-{self._rank:05}.log"
        self._sight = Sight(folder, told["silence_seconds"])
        self._signs = 0
        self._meetings = 0
        self._last_sign = time.monotonic()
        self._last_told = 0.0

    def run(self) -> RankExit:
        """Start the rank and stay until it has ended."""
        woken = _wake_on_sigterm()
        signs, theirs = os.pipe()
        worker = self._start(theirs)
        os.close(theirs)
        ended = os.pidfd_open(worker.pid)
        self._sight.require_for(worker.pid)
        self._tell_alive(worker)
        end = self._watch(worker, signs, ended, woken)
        self._tell(lambda status: status.tell_end(end))
        return end

    def _start(self, signs: int) -> "subprocess.Popen[bytes]":
        told = self._told
        shell = [sys.executable, "-m", "cpt_core.launching.rank", str(self._status.refusal_path(self._rank))]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*shell, str(signs), told["module"], told["job_file"]],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[signs],
                start_new_session=True,
            )

    def _watch(self, worker: "subprocess.Popen[bytes]", signs: int, ended: int, woken: int) -> RankExit:
        """Until the rank has ended, by itself or for a reason."""
        heard = [ended, signs, woken]
        while True:
            ready = select.select(heard, [], [], TICK_SECONDS)[0]
            if ended in ready:
                return self._own_end(worker)
            if signs in ready and not self._listen(signs):
                heard.remove(signs)
            end = self._why_to_end(is_told=woken in ready)
            if end is not None:
                request = self._stop_request()
                self._end(worker, ended, dump_stacks=bool(request and request.dump_stacks))
                return self._exit(worker.returncode, end)
            if time.monotonic() - self._last_told > SECONDS_BETWEEN_SIGNS:
                self._tell_alive(worker)

    def _why_to_end(self, *, is_told: bool) -> str | None:
        """Why the rank has to end now, if it has to."""
        if self._stop_request() is not None:
            return _STOPPED
        if is_told:
            return self._fail(TOLD_TO_END)
        if self._parent.is_gone():
            return self._fail("lost the launcher that had started it")
        silence = float(self._told["silence_seconds"]) * (1 if self._meetings else _SILENCES_BEFORE_MEETING)
        if time.monotonic() - self._last_sign > silence:
            return self._fail(f"gave no sign of life for {silence:g} seconds")
        return None

    def _own_end(self, worker: "subprocess.Popen[bytes]") -> RankExit:
        """The rank has ended by itself; a bad end is everybody's end."""
        ended = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        exit_code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        end = replace(self._exit(exit_code), refusal=read_json(self._status.refusal_path(self._rank)))
        if exit_code and not (self._folder / DONE_NAME).exists():
            if exit_code > 0 and end.refusal is None:
                self._wait_for_the_cause()
            self._ask_to_stop(end)
        _signal_group(worker, signal.SIGKILL)  # what it started; the zombie keeps the group's number ours
        worker.wait()
        return end

    def _wait_for_the_cause(self) -> None:
        deadline = time.monotonic() + _SECONDS_FOR_THE_CAUSE
        while self._stop_request() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _exit(self, exit_code: int | None, why: str | None = None) -> RankExit:
        return RankExit(self._rank, self._node, socket.gethostname(), exit_code, str(self._log), why)

    def _fail(self, why: str) -> str:
        failed = self._exit(None, why)
        self._ask_to_stop(failed)
        return why

    def _ask_to_stop(self, failed: RankExit) -> None:
        ask_all_to_stop(self._statuses(), StopRequest(str(failed), failed))

    def _end(self, worker: "subprocess.Popen[bytes]", ended: int, *, dump_stacks: bool) -> None:
        """SIGTERM, and SIGKILL to what is still there after the grace period."""
        if dump_stacks:
            worker.send_signal(signal.SIGUSR1)
            select.select([ended], [], [], _DUMP_SECONDS)
        _signal_group(worker, signal.SIGTERM)
        select.select([ended], [], [], GRACE_SECONDS)
        _signal_group(worker, signal.SIGKILL)
        worker.wait()

    def _listen(self, signs: int) -> bool:
        """Take note of a sign; whether the rank still gives any."""
        lines = os.read(signs, 4096).splitlines()
        if lines:
            self._last_sign = time.monotonic()
            self._signs += len(lines)
            self._meetings = int(lines[-1])
        return bool(lines)

    def _tell_alive(self, worker: "subprocess.Popen[bytes]") -> None:
        self._sight.look()
        self._last_told = time.monotonic()
        sign = SignOfLife(
            self._rank,
            self._node,
            socket.gethostname(),
            str(self._log),
            ProcessId.of(os.getpid()),
            ProcessId.of(worker.pid),
            self._signs,
            self._meetings,
        )
        self._tell(lambda status: status.tell_alive(sign))

    def _stop_request(self) -> StopRequest | None:
        """Of this node's job, or of the first node's job that it has joined."""
        if self._followed is None and (followed := read_json(self._folder / FOLLOWED_NAME)) is not None:
            self._followed = Status.newest(Path(followed["folder"]))
        return self._status.stop_request() or (self._followed.stop_request() if self._followed else None)

    def _tell(self, tell: Any) -> None:
        for status in self._statuses():
            with suppress(OSError):  # the launcher sees this guard's own end, at the latest
                tell(status)

    def _statuses(self) -> list[Status]:
        """The first node's, where it is known, and this node's."""
        return [self._followed, self._status] if self._followed else [self._status]


def _run_of(told: dict[str, Any], environment: Mapping[str, str]) -> int:
    """Slurm may run the same job more than once."""
    is_slurm = told["launcher"]["kind"] == "slurm"
    return int(environment.get("SLURM_RESTART_COUNT") or 0) if is_slurm else 0


def _wake_on_sigterm() -> int:
    """A pipe in which SIGTERM is heard."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def wake(_number: int, _frame: FrameType | None) -> None:
        """The pipe has heard it."""

    signal.signal(signal.SIGTERM, wake)
    signal.signal(signal.SIGINT, wake)
    return heard


def _signal_group(worker: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Signal the rank and all that it started; its group is its own, so nobody else is met."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, number)


if __name__ == "__main__":
    main()

"""A shared folder that cannot be read for a while by the process that follows a job, while the ranks can."""

import errno
import io
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from cpt_core.config import LauncherConfig
from cpt_core.errors import JobInterruptedError
from cpt_core.launching.guard import SECONDS_BETWEEN_SIGNS
from cpt_core.launching.hostfile import HostfileLauncher
from cpt_core.launching.job import Job
from cpt_core.launching.launchers import launch
from cpt_core.launching.process_id import ProcessId
from cpt_core.launching.processes import LocalProcesses
from cpt_core.launching.status import SignOfLife, Status
from cpt_core.launching.waiting import wait_for_job
from cpt_core.launching.watching import SECONDS_BETWEEN_LOOKS, Watch
from tests.cpt_core.launching.conftest import JobMaker

CALLS = ((os, "stat"), (os, "scandir"), (os, "unlink"), (os, "link"), (os, "mkdir"), (io, "open"))


@contextmanager
def out_of_sight(folder: Path, code: int) -> Iterator[Callable[[], None]]:
    """This process gets an error for whatever it asks of a folder, until the block ends or what it gives is called."""

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **options: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path).startswith(str(folder)):
                raise OSError(code, os.strerror(code), os.fspath(path))
            return real(path, *args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in CALLS:
            patch.setattr(module, name, failing(getattr(module, name)))
        yield patch.undo


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_a_bad_moment_of_the_folder_ends_no_job(make_job: JobMaker, code: int) -> None:
    """It lasts over the end of the job; the steps and the success are seen when it has passed."""
    job = make_job(
        """
        with (folder / "metrics.jsonl").open("a") as metrics:
            for step in range(1, 4):
                metrics.write(json.dumps({"attempt": "a1", "step": step}) + "\\n")
        if rank == 0:
            write_done(folder, job["attempt"], {"steps": 3})
        """,
        LauncherConfig(processes_per_node=1, silence_seconds=5),
    )
    seen: list[dict[str, Any]] = []
    handle = launch(job, num_cores=2)
    with out_of_sight(job.folder, code) as heal:
        Timer(3, heal).start()
        report = wait_for_job(job, handle, progress_file=job.folder / "metrics.jsonl", on_progress=seen.append)
    assert report == {"steps": 3}
    assert [line["step"] for line in seen] == [1, 2, 3]


def test_a_folder_that_is_lost_for_good(make_job: JobMaker) -> None:
    """After three silences, when ranks would end for the same reason, the job is interrupted and no rank is left."""
    job = make_job("time.sleep(600)", LauncherConfig(processes_per_node=2, silence_seconds=1))
    handle = launch(job, num_cores=2)
    with ExitStack() as lost:
        Timer(2, lambda: lost.enter_context(out_of_sight(job.folder, errno.ESTALE))).start()
        with pytest.raises(
            JobInterruptedError, match=r"could not be seen for 3 seconds: .*Stale file handle"
        ) as raised:
            wait_for_job(job, handle)
    assert "\n" not in str(raised.value)
    assert handle.poll() == "exited"
    assert sorted(job.status().ends()) == [0, 1]


def test_nobody_is_blamed_for_silence_while_the_folder_could_not_be_read(tmp_path: Path) -> None:
    """The ranks may have lost it too, and give their next sign a little after it is back."""
    job = Job("m", tmp_path / "job.json", tmp_path, LauncherConfig(silence_seconds=1), "a1")
    guard = ProcessId.of(os.getpid())
    Status.of_run(tmp_path, 0).tell_alive(SignOfLife(0, 0, "node0", "rank-00000.log", guard, guard, 1, 1))
    watch = Watch(job, LocalProcesses(job, {}))
    watch.is_over()
    limit = time.monotonic() + job.launcher.silence_seconds + 2 * SECONDS_BETWEEN_SIGNS
    with out_of_sight(tmp_path, errno.EIO):
        while time.monotonic() < limit:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            with pytest.raises(OSError, match="Input/output error"):
                watch.is_over()
    time.sleep(SECONDS_BETWEEN_LOOKS)
    watch.is_over()
    assert job.stop_request() is None


@pytest.fixture
def asked_by_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which an ssh notes whom it is to reach."""
    asked, ssh = tmp_path / "asked", tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f"#!/bin/sh\nfor word; do case $word in node*) echo $word >> {asked};; esac; done\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    return asked


def test_hosts_of_a_lost_folder_are_swept(tmp_path: Path, asked_by_ssh: Path) -> None:
    """A launcher whose log cannot be read runs all the same; stopping it looks after every host."""
    launcher = LauncherConfig(kind="hostfile", num_nodes=2, hostfile="hosts")
    job = Job("m", tmp_path / "job.json", tmp_path / "a1", launcher, "a1")
    job.folder.mkdir()
    started = subprocess.Popen(["sleep", "600"], start_new_session=True)
    handle = HostfileLauncher(job, ["node0", "node1"], ProcessId.of(started.pid), started)
    with out_of_sight(job.folder, errno.EIO):
        assert handle.poll() == "running"
        handle.stop()
        assert handle.poll() == "exited"
    assert sorted(asked_by_ssh.read_text().split()) == ["node0", "node1"]

"""Jobs with real processes: success, failure, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cpt_core.config import LauncherConfig
from cpt_core.errors import ConfigError, JobFailedError, JobInterruptedError
from cpt_core.launching.job import Job
from cpt_core.launching.launchers import attach, launch
from cpt_core.launching.process_id import ProcessId
from cpt_core.launching.success import read_done, write_done
from cpt_core.launching.waiting import ProgressFile, wait_for_job
from tests.cpt_core.launching.conftest import JobMaker


def _run(job: Job, **options: Any) -> dict[str, Any]:
    return wait_for_job(job, launch(job, num_cores=2), **options)


def test_success_is_the_record_and_not_the_exit_code(make_job: JobMaker) -> None:
    """A rank that aborts after rank 0 wrote the record does not make the job fail."""
    job = make_job("""
        if rank == 0:
            write_done(folder, job["attempt"], {"steps": 3})
        else:
            while not (folder / "DONE.json").exists():
                time.sleep(0.01)
            os.abort()
    """)
    assert _run(job) == {"steps": 3}


def test_the_rank_that_died_first_is_named(make_job: JobMaker) -> None:
    """A killed rank is named with its signal and its last lines, although the other one fails in consequence."""
    job = make_job("""
        if rank == 1:
            print("half way", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    """)
    started = time.monotonic()
    with pytest.raises(JobFailedError) as raised:
        _run(job)
    message = str(raised.value)
    assert "rank 1 on node 0 ended with signal 9 (SIGKILL)" in message
    assert message.endswith("Last lines of rank-00001.log:\nhalf way")
    assert str(job.folder) in message
    assert time.monotonic() - started < 30


def test_last_thirty_lines(make_job: JobMaker) -> None:
    """Of a long log the last 30 lines are shown, an exception being the end of them."""
    job = make_job("""
        if rank == 0:
            print(*range(100), sep="\\n")
            raise RuntimeError("broken")
        time.sleep(60)
    """)
    with pytest.raises(JobFailedError, match="rank 0 on node 0 ended with exit code 1") as raised:
        _run(job)
    shown = str(raised.value).splitlines()[1:]
    assert len(shown) == 30
    assert shown[-1] == "RuntimeError: broken"
    assert "99" in shown


def test_an_error_of_ours_keeps_its_class(make_job: JobMaker) -> None:
    """A CptError in a rank reaches the caller as the same one line, without a traceback."""
    job = make_job("""
        if rank == 0:
            raise ConfigError("precision is bf16, which this device does not have")
        time.sleep(60)
    """)
    with pytest.raises(ConfigError) as raised:
        _run(job)
    assert str(raised.value) == "precision is bf16, which this device does not have"


def test_exit_code_zero_without_record(make_job: JobMaker) -> None:
    """Processes that all end with 0 have not succeeded without the record of this attempt."""
    job = make_job("print('nothing to do')")
    write_done(job.folder, "an-older-attempt", {"steps": 3})
    with pytest.raises(JobFailedError, match=r"there is no DONE\.json of attempt a1") as raised:
        _run(job)
    assert str(raised.value).endswith("nothing to do")


def test_ranks_of_a_cluster_node(make_job: JobMaker) -> None:
    """The second node's processes see their global ranks, and succeed by their own record."""
    job = make_job(
        'write_done(folder, job["attempt"], {"rank": rank, "world": os.environ["WORLD_SIZE"]})',
        LauncherConfig(kind="env", num_nodes=2, processes_per_node=1),
    )
    cluster = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
    assert wait_for_job(job, launch(job, num_cores=1, environment=cluster)) == {"rank": 1, "world": "2"}


SECRET = "hf_0123456789abcdef"
LOOK_FOR_THE_SECRET = """
    secret, lines = os.environ["HF_TOKEN"], []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text())
        except OSError:
            pass  # it has ended
    ours = [line for line in lines if "cpt_core.launching." in line and str(folder) in line]
    report = {"characters": len(secret), "ours": len(ours) >= 2, "found": secret in str(lines)}
    write_done(folder, job["attempt"], report)
"""


@pytest.mark.parametrize("kind", ["local", "env"])
def test_a_secret_reaches_the_ranks_and_is_written_nowhere(make_job: JobMaker, kind: str) -> None:
    """Ranks inherit it; no command line of any process has it, and no file of the job."""
    job = make_job(LOOK_FOR_THE_SECRET, LauncherConfig(kind=kind))
    cluster = {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
    handle = launch(job, num_cores=1, environment={**cluster, "HF_TOKEN": SECRET})
    assert wait_for_job(job, handle) == {"characters": len(SECRET), "ours": True, "found": False}
    files = [path for path in job.folder.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_nodes_of_a_cluster_end_together(make_job: JobMaker, tmp_path: Path) -> None:
    """A rank that dies on the second node ends the first node's part too, under its own name and with its own log."""
    launcher = LauncherConfig(kind="env", num_nodes=2, processes_per_node=1)
    job = make_job(
        """
        from cpt_core.launching.job import follow
        first, own = folder / "node-0", folder / f"node-{rank}"
        follow(own, first)
        if rank == 1:
            while not list(first.glob("status-0/alive-00001.json")):
                time.sleep(0.05)
            print("the disk is gone", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
        """,
        launcher,
    )
    cluster = {"WORLD_SIZE": "2", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
    started = []
    for node in range(2):
        (tmp_path / f"node-{node}").mkdir()
        part = replace(job, folder=tmp_path / f"node-{node}")
        started.append((part, launch(part, num_cores=1, environment={**cluster, "RANK": str(node)})))
    for part, handle in started:
        with pytest.raises(JobInterruptedError, match=r"rank 1 on node 1 ended with signal 9 \(SIGKILL\)") as raised:
            wait_for_job(part, handle)
        assert str(raised.value).endswith("Last lines of rank-00001.log:\nthe disk is gone")


def test_stop_leaves_nothing(make_job: JobMaker) -> None:
    """Stopping ends a rank that ignores SIGTERM, and what it started."""
    job = make_job("""
        import subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])
        (folder / f"pids-{rank}").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)
    """)
    handle = launch(job, num_cores=2)
    pids = _pids(job)
    handle.stop()
    assert handle.poll() == "exited"
    _require_gone(pids)


def test_nothing_outlives_the_launcher(make_job: JobMaker) -> None:
    """Killing the launching process ends all ranks."""
    job = make_job("""
        (folder / f"pids-{rank}").write_text(str(os.getpid()))
        time.sleep(600)
    """)
    launcher = _launch_elsewhere(job)
    pids = _pids(job)
    launcher.kill()
    launcher.wait()
    _require_gone(pids)


def test_a_job_that_may_outlive_its_launcher_is_found_again(make_job: JobMaker) -> None:
    """The ranks go on after the launching process was killed; who finds them on record follows them to the end."""
    job = make_job(
        """
        (folder / f"pids-{rank}").write_text(str(os.getpid()))
        while not (folder / "go").exists():
            time.sleep(0.05)
        if rank == 0:
            write_done(folder, job["attempt"], {"steps": 3})
        """,
        outlives_launcher=True,
    )
    launcher = _launch_elsewhere(job)
    pids = _pids(job)
    launcher.kill()
    launcher.wait()
    handle = attach(job)
    assert handle is not None
    assert handle.poll() == "running"
    assert all(psutil.pid_exists(pid) for pid in pids)
    (job.folder / "go").touch()
    assert wait_for_job(job, handle) == {"steps": 3}
    _require_gone(pids)


def test_a_found_job_can_be_stopped_and_its_lost_guard_is_noticed(make_job: JobMaker) -> None:
    """Of a job that another process started, a killed guard counts as the end of its rank, and nothing is left."""
    job = make_job(
        """
        (folder / f"pids-{rank}").write_text(str(os.getpid()))
        time.sleep(600)
        """,
        outlives_launcher=True,
    )
    launcher = _launch_elsewhere(job)
    pids = _pids(job)
    launcher.kill()
    launcher.wait()
    handle = attach(job)
    assert handle is not None
    os.kill(job.status().alive()[1].guard.pid, signal.SIGKILL)
    with pytest.raises(JobInterruptedError, match="rank 1 on node 0 ended unseen"):
        wait_for_job(job, handle)
    _require_gone(pids)


def test_a_start_that_was_not_noted_is_none(make_job: JobMaker, tmp_path: Path) -> None:
    """A launcher that is killed between starting a guard and noting it leaves nothing that trains."""
    job = make_job("(folder / 'began').touch()", outlives_launcher=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    identity = asdict(ProcessId.of(dead.pid))
    dead.wait()
    told = {"is_remote": False, "outlives_launcher": True, "launcher_process": identity}
    (tmp_path / "told.json").write_text(json.dumps(told))
    guard = [sys.executable, "-m", "cpt_core.launching.guard", str(tmp_path)]
    ended = subprocess.run(guard, env=os.environ | job.launcher.environment, capture_output=True, text=True, timeout=30)
    assert ended.stderr.strip() == f"{tmp_path}: the launcher ended before it had noted the start; nothing was started"
    assert attach(job) is None
    assert not (tmp_path / "began").exists()


def test_a_silent_rank(make_job: JobMaker) -> None:
    """A rank that holds its interpreter while it loads is left in peace; stopped after it has met the others, it is
    named and the job ended.
    """
    job = make_job(
        """
        import ctypes
        if rank == 1:
            ctypes.PyDLL(None).sleep(5)
            print("loaded", flush=True)
            note_meeting()
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
        """,
        LauncherConfig(processes_per_node=2, silence_seconds=3),
    )
    with pytest.raises(JobInterruptedError, match="rank 1 on node 0 gave no sign of life for 3 seconds") as raised:
        _run(job)
    assert str(raised.value).endswith("Last lines of rank-00001.log:\nloaded")


def test_a_file_system_that_answers_no_more(make_job: JobMaker) -> None:
    """Guards that wait for ever for the job's folder end their ranks and themselves after three silences."""
    job = make_job(
        """
        (folder / f"pids-{rank}").write_text(f"{os.getpid()} {os.getppid()}")
        time.sleep(600)
        """,
        LauncherConfig(processes_per_node=2, silence_seconds=2),
    )
    handle = launch(job, num_cores=2)
    pids = _pids(job)
    never_answers = job.folder / "status-0" / "stop.json"
    os.mkfifo(never_answers)  # who opens it waits for a writer
    _require_gone(pids)
    assert job.launcher_log.read_text().count("could not be seen for 6 seconds") == 2
    never_answers.unlink()
    handle.stop()


def test_a_rank_that_the_others_wait_for(make_job: JobMaker) -> None:
    """Of ranks that stand still, the one with the fewest meetings is named, and its log shows where it hangs."""
    job = make_job(
        """
        def stuck_in_here():
            time.sleep(600)
        note_meeting()
        if rank == 1:
            stuck_in_here()
        note_meeting()
        time.sleep(600)
        """,
        LauncherConfig(processes_per_node=2, timeout_seconds=5),
    )
    with pytest.raises(JobInterruptedError, match="rank 1 on node 0 was awaited by the others for 4 seconds") as raised:
        _run(job)
    assert "in stuck_in_here" in str(raised.value)


def test_progress_lines(tmp_path: Path) -> None:
    """Whole lines of this attempt are given once; a replaced file is read again from its start."""
    path = tmp_path / "metrics.jsonl"
    progress = ProgressFile(path, "new")
    assert list(progress.new_lines()) == []
    path.write_text('{"attempt": "old", "step": 1}\n{"attempt": "new", "step": 2}\n{"attempt": "new"')
    assert list(progress.new_lines()) == [{"attempt": "new", "step": 2}]
    with path.open("a") as stream:
        stream.write(', "step": 3}\n')
    assert list(progress.new_lines()) == [{"attempt": "new", "step": 3}]
    other = tmp_path / "other"
    other.write_text('{"attempt": "new", "step": 1}\n')
    other.replace(path)
    assert list(progress.new_lines()) == [{"attempt": "new", "step": 1}]


def test_done_record(tmp_path: Path) -> None:
    """Only a whole record of the same attempt counts."""
    assert read_done(tmp_path, "a") is None
    write_done(tmp_path, "a", {"steps": 1})
    assert read_done(tmp_path, "a") == {"steps": 1}
    assert read_done(tmp_path, "b") is None
    (tmp_path / "DONE.json").write_text('{"attempt": "a", "rep')
    assert read_done(tmp_path, "a") is None


def _launch_elsewhere(job: Job) -> "subprocess.Popen[bytes]":
    """A process that launches the job and then does nothing."""
    script = (
        "import pathlib, time; from cpt_core.config import LauncherConfig; from cpt_core.launching.job import Job;"
        "from cpt_core.launching.launchers import launch;"
        f"job = Job('work_of_a_rank', pathlib.Path({str(job.job_file)!r}), pathlib.Path({str(job.folder)!r}),"
        f" LauncherConfig(**{job.launcher.model_dump()!r}), 'a1', {job.outlives_launcher});"
        "handle = launch(job, num_cores=2); time.sleep(600)"
    )
    search_path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": search_path})


def _pids(job: Job) -> list[int]:
    """Process ids that both ranks have noted."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        noted = [path.read_text().split() for path in job.folder.glob("pids-*")]
        if len(noted) == 2 and all(noted):
            return [int(pid) for pids in noted for pid in pids]
        time.sleep(0.05)
    raise AssertionError("the ranks did not start")


def _require_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not alive:
            return
        time.sleep(0.05)
    raise AssertionError(f"still running: {alive}")

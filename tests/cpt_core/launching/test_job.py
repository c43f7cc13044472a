"""Jobs with real processes: success, failure, and nothing left behind."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cpt_core.config import LauncherConfig
from cpt_core.errors import ConfigError, JobFailedError
from cpt_core.launching.job import Job
from cpt_core.launching.launchers import launch
from cpt_core.launching.success import read_done, write_done
from cpt_core.launching.waiting import ProgressFile, wait_for_job

PREAMBLE = """
import json, os, signal, sys, time
from pathlib import Path
from cpt_core.errors import ConfigError
from cpt_core.launching.success import write_done
job = json.loads(Path(sys.argv[1]).read_text())
rank, folder = int(os.environ["RANK"]), Path(job["folder"])
"""

JobMaker = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path) -> JobMaker:
    """Makes a job of two processes that run the given lines."""

    def make(lines: str, launcher: LauncherConfig | None = None) -> Job:
        (tmp_path / "work_of_a_rank.py").write_text(PREAMBLE + textwrap.dedent(lines))
        job_file = tmp_path / "job.json"
        job_file.write_text(json.dumps({"folder": str(tmp_path), "attempt": "a1"}))
        search_path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        chosen = launcher or LauncherConfig(processes_per_node=2)
        values = chosen.model_dump() | {"environment": {"PYTHONPATH": search_path}}
        return Job("work_of_a_rank", job_file, tmp_path, LauncherConfig(**values), "a1")

    return make


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
    assert handle.first_failure is None
    _require_gone(pids)


def test_nothing_outlives_the_launcher(make_job: JobMaker) -> None:
    """Killing the launching process ends all ranks."""
    job = make_job("""
        (folder / f"pids-{rank}").write_text(str(os.getpid()))
        time.sleep(600)
    """)
    script = (
        "import pathlib, time; from cpt_core.config import LauncherConfig; from cpt_core.launching.job import Job;"
        "from cpt_core.launching.launchers import launch;"
        f"job = Job('work_of_a_rank', pathlib.Path({str(job.job_file)!r}), pathlib.Path({str(job.folder)!r}),"
        f" LauncherConfig(**{job.launcher.model_dump()!r}), 'a1'); handle = launch(job, num_cores=2); time.sleep(600)"
    )
    search_path = os.pathsep.join(filter(None, sys.path))
    launcher = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": search_path})
    pids = _pids(job)
    launcher.kill()
    launcher.wait()
    _require_gone(pids)


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

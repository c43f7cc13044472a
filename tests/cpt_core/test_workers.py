"""Processes that compute for this one: what they return, and what their end means."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from cpt_core.errors import InputError, WorkerError
from cpt_core.workers import Worker, WorkerPool


def double(number: int, on_progress) -> int:
    """Says half way where it is."""
    on_progress({"half": number})
    return 2 * number


def refuse(on_progress) -> None:
    """A user's mistake."""
    raise InputError("f: cannot be read")


def stumble(on_progress) -> None:
    """A mistake of ours."""
    raise KeyError("no such thing")


def lose_the_connection(on_progress) -> None:
    """As a library does whose peer went away."""
    raise ConnectionResetError("reset by peer")


def end_by(number: int, on_progress) -> None:
    """As a crash does, or the system when memory runs out."""
    on_progress(None)
    os.kill(os.getpid(), number)


def leave(on_progress) -> None:
    """Without a word."""
    os._exit(3)


def fall_silent(on_progress) -> None:
    """Stopped in its tracks."""
    os.kill(os.getpid(), signal.SIGSTOP)


def end_unless_there(path: str, on_progress) -> str:
    """Ends the first time, succeeds the second."""
    if Path(path).exists():
        return "done"
    Path(path).touch()
    os._exit(1)


def complain(on_progress) -> None:
    """The library logs in the worker, and so does another one."""
    logging.getLogger("cpt_core.storage").warning("set %s aside", "a")
    logging.getLogger("other").warning("not ours")


def process_id(on_progress) -> int:
    """Of the worker."""
    return os.getpid()


def call(function, silence_seconds: float = 60.0, **arguments):
    """One call in a pool of one."""
    with WorkerPool(1, silence_seconds=silence_seconds) as pool:
        return pool.call(function, arguments, on_progress=lambda _: None)


def test_a_result_and_the_way_to_it_come_back():
    """Progress is told while the process computes."""
    seen = []
    with WorkerPool(1, silence_seconds=60) as pool:
        assert pool.call(double, {"number": 21}, seen.append) == 42
    assert seen == [{"half": 21}]


def test_a_process_is_kept_for_the_next_call():
    """What it has loaded is loaded once."""
    with WorkerPool(1, silence_seconds=60) as pool:
        assert len({pool.call(process_id, {}, lambda _: None) for _ in range(3)}) == 1


def test_a_users_mistake_comes_back_as_itself():
    """It ends in one line, like everywhere."""
    with pytest.raises(InputError, match=r"^f: cannot be read$"):
        call(refuse)


def test_our_own_mistake_comes_back_with_its_place():
    """Loud, with the traceback of the process."""
    with pytest.raises(RuntimeError, match=r"in stumble"):
        call(stumble)


def test_a_lost_connection_comes_back_as_what_passes_by_itself():
    """So that the shard is tried again."""
    with pytest.raises(WorkerError, match=r"^ConnectionResetError: reset by peer$") as caught:
        call(lose_the_connection)
    assert caught.value.is_transient


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (end_by, {"number": signal.SIGKILL}, r"killed by signal 9, as the system does when memory runs out.*last held"),
        (end_by, {"number": signal.SIGSEGV}, r"ended by itself \(signal 11\)"),
        (leave, {}, r"ended by itself \(exit code 3\)"),
        (fall_silent, {}, "gave no sign of life for 2 seconds"),
    ],
)
def test_a_process_that_ends_or_falls_silent_is_an_error_that_says_how(function, arguments, message):
    """Tried twice, then named; nothing of it is left."""
    before = set(psutil.Process().children())
    with pytest.raises(WorkerError, match=message):
        call(function, silence_seconds=2.0, **arguments)
    assert set(psutil.Process().children()) == before


def test_a_call_whose_process_ended_is_computed_once_more(tmp_path):
    """By a new process; what the end of the first concerned was this call alone."""
    assert call(end_unless_there, path=str(tmp_path / "seen")) == "done"


def test_the_end_of_one_process_is_not_the_end_of_another():
    """Each has a pipe of its own."""
    with WorkerPool(2, silence_seconds=60) as pool:
        results = []
        threads = [
            threading.Thread(target=lambda n=n: results.append(pool.call(double, {"number": n}, lambda _: None)))
            for n in range(6)
        ]
        for thread in threads[:3]:
            thread.start()
        with pytest.raises(WorkerError):
            pool.call(leave, {}, lambda _: None)
        for thread in threads[3:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [0, 2, 4, 6, 8, 10]


PARENT = """
import os, sys
from cpt_core.workers import Worker
worker = Worker()
print(worker._process.pid, flush=True)
sys.stdin.read()
"""


def test_no_worker_outlives_the_process_that_started_it(until):
    """Even when that is killed."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(parent.stdout.readline()))
    assert worker.is_running()
    parent.kill()
    parent.communicate()
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_a_process_has_a_session_of_its_own():
    """Ctrl-C on a terminal reaches the one in charge, and not those that compute for it."""
    worker = Worker()
    try:
        assert os.getsid(worker.call(process_id, {}, lambda _: None, 60)) != os.getsid(0)
    finally:
        worker.stop()


def test_what_the_library_logs_in_a_worker_is_logged_here(caplog):
    """Under the same name and level; other libraries' words, which may quote documents, are not."""
    with WorkerPool(1, silence_seconds=60) as pool:
        pool.call(complain, {}, on_progress=lambda _: None)
    told = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("cpt_core.storage", "WARNING", "set a aside")]

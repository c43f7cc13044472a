"""The files between ranks and whoever watches them."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cpt_core.launching.process_id import ProcessId
from cpt_core.launching.status import RankExit, SignOfLife, Status, StopRequest
from cpt_core.launching.success import read_done, write_done

END = RankExit(rank=3, node=1, host="node1", exit_code=-9, log="/logs/rank-00003.log")


def test_of_many_failures_one_stays(tmp_path: Path) -> None:
    """Sixteen ranks fail at the same time: one request is there, whole, and the same for every reader."""
    status = Status(tmp_path)

    def fail(rank: int) -> None:
        failed = replace(END, rank=rank)
        status.ask_to_stop(StopRequest(str(failed), failed))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(fail, range(16)))
    first = status.stop_request()
    assert first is not None
    assert first.failed is not None
    assert first.why == f"rank {first.failed.rank} on node 1 ended with signal 9 (SIGKILL)"
    assert [path.name for path in tmp_path.iterdir()] == ["stop.json"]


def test_of_many_success_records_one_stays(tmp_path: Path) -> None:
    """Processes that write the record of one attempt at the same time do not get into each other's way."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write_done(tmp_path, "a1", {"steps": 3}), range(80)))
    assert read_done(tmp_path, "a1") == {"steps": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["DONE.json"]


def test_what_is_told_is_read(tmp_path: Path) -> None:
    """Signs of life replace each other, the first end stays, the newest run counts."""
    guard = ProcessId.of(os.getpid())
    sign = SignOfLife(3, 1, "node1", END.log, guard, guard, signs=7, meetings=2)
    old, new = Status.of_run(tmp_path, 9), Status.of_run(tmp_path, 10)
    old.tell_alive(sign)
    new.tell_alive(sign)
    new.tell_alive(replace(sign, signs=8))
    new.tell_end(END)
    new.tell_end(replace(END, exit_code=0))
    read = Status.newest(tmp_path)
    assert read.ends() == {3: END}
    assert replace(read.alive()[3], written_ns=0) == replace(sign, signs=8)
    assert read.alive()[3].written_ns > 0
    assert old.alive()[3].signs == 7
    assert Status(tmp_path / "nothing").alive() == {}


def test_a_process_is_not_taken_for_another() -> None:
    """A process that has ended, or that had another start or boot, is not alive."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = ProcessId.of(child.pid)
    assert known.is_alive()
    assert not replace(known, start_ticks=known.start_ticks + 1).is_alive()
    assert not replace(known, boot_id="another").is_alive()
    child.communicate(b"\n")
    assert not known.is_alive()

"""What a node of kind env makes of the other nodes' records."""

import os
from pathlib import Path

from cpt_core.launching.neighbours import Neighbours
from cpt_core.launching.process_id import ProcessId
from cpt_core.launching.record import attempt_record
from cpt_core.launching.status import RankExit, SignOfLife, Status, StopRequest, write_json

FAILED = RankExit(rank=1, node=1, host="node1", exit_code=-9, log="/logs/rank-00001.log")
REQUEST = StopRequest(str(FAILED), FAILED)


def _attempt(folder: Path, node: int, name: str) -> Status:
    write_json(attempt_record(folder, node), {"attempt": name, "folder": str(folder / name)})
    return Status.of_run(folder / name, 0)


def test_only_a_failure_that_is_news_counts(tmp_path: Path) -> None:
    """One of an earlier run says nothing; one that comes later does, of the same node's next attempt too."""
    _attempt(tmp_path, 0, "mine").ask_to_stop(REQUEST)
    _attempt(tmp_path, 1, "of-an-earlier-run").ask_to_stop(REQUEST)
    neighbours = Neighbours(tmp_path, tmp_path / "mine")
    assert neighbours.stop_request() is None
    now = _attempt(tmp_path, 1, "of-this-run")
    assert neighbours.stop_request() is None
    now.ask_to_stop(REQUEST)
    assert neighbours.stop_request() == REQUEST


def test_only_a_sign_that_changes_is_one_of_life(tmp_path: Path) -> None:
    """What a run of yesterday left is no rank that fell silent."""
    me = ProcessId.of(os.getpid())
    sign = SignOfLife(1, 1, "node1", FAILED.log, me, me, signs=7, meetings=0)
    status = _attempt(tmp_path, 1, "of-this-run")
    status.tell_alive(sign)
    neighbours = Neighbours(tmp_path, tmp_path / "mine")
    assert neighbours.alive() == {}
    assert neighbours.alive() == {}
    path = status.folder / "alive-00001.json"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert [(rank, sign.host) for rank, sign in neighbours.alive().items()] == [(1, "node1")]


def test_where_one_process_follows_all_ranks_there_are_no_neighbours(tmp_path: Path) -> None:
    """All kinds but env."""
    neighbours = Neighbours(None, tmp_path)
    assert (neighbours.stop_request(), neighbours.alive()) == (None, {})

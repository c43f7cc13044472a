"""What is shown of a run while its server fails."""

import logging
import threading
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx
import pytest

from tasks import progress
from tasks.progress import StageProgress
from tasks.run_page import SECONDS_OF_PAUSE, in_display


@pytest.fixture
def run(monkeypatch):
    """This thread is in a run of this id."""
    run_id = uuid4()
    monkeypatch.setattr("tasks.run_page._goes_on", {})
    monkeypatch.setattr(
        "tasks.run_page.FlowRunContext",
        SimpleNamespace(get=lambda: SimpleNamespace(flow_run=SimpleNamespace(id=run_id))),
    )
    return run_id


class Server:
    """Answers, or fails with HTTP 500; counts what it is asked."""

    def __init__(self) -> None:
        self.fails = False
        self.asked = 0

    def __call__(self) -> str:
        """One question."""
        self.asked += 1
        if self.fails:
            raise httpx.HTTPStatusError("500", request=httpx.Request("GET", "http://x"), response=httpx.Response(500))
        return "shown"


def test_after_a_failure_a_run_is_shown_again_in_five_minutes(run, clock, caplog):
    """In between the server is not asked; each pause is told once."""
    server = Server()
    assert in_display(server) == "shown"
    server.fails = True
    assert [in_display(server) for _ in range(3)] == [None, None, None]
    server.fails = False
    clock(299)
    assert (in_display(server), server.asked) == (None, 2)
    clock(2)
    assert (in_display(server), in_display(server), server.asked) == ("shown", "shown", 4)
    server.fails = True
    in_display(server)
    told = "nothing of this run is shown in the UI for 300 s, then it is tried again: 500"
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [told, told]


def test_what_is_shown_only_once_is_tried_in_a_pause_too(run, clock, caplog):
    """That it fails again neither makes the pause longer nor is told."""
    server = Server()
    server.fails = True
    in_display(server)
    clock(200)
    assert in_display(server, is_only_chance=True) is None
    server.fails = False
    assert (in_display(server, is_only_chance=True), in_display(server)) == ("shown", None)
    clock(SECONDS_OF_PAUSE - 200)
    assert (in_display(server), len(caplog.records)) == ("shown", 1)


def test_of_threads_that_fail_together_one_tells(run, caplog):
    """All of them had asked before the first one failed."""
    together = threading.Barrier(3)

    def fail() -> None:
        together.wait(60)
        raise httpx.ReadTimeout("no answer")

    threads = [threading.Thread(target=in_display, args=(fail,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1


@pytest.fixture
def artifact(monkeypatch):
    """What a server would have of the one progress artifact: each percentage, whether created or updated."""
    server, sent = Server(), []

    def create(progress: float, key: str, description: str) -> UUID:
        server()
        sent.append(("created", progress))
        return uuid4()

    def update(artifact_id: UUID, progress: float, description: str) -> UUID:
        server()
        sent.append(("updated", progress))
        return artifact_id

    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    return server, sent


def test_progress_that_could_not_be_created_is_created_after_the_pause(run, clock, artifact):
    """A training of days whose server was away for its first minute."""
    server, sent = artifact
    server.fails = True
    stage = StageProgress("training", 10, "steps")
    server.fails = False
    for step, seconds in ((1, 10), (2, 288), (3, 4), (4, 10)):
        clock(seconds)
        stage.reach(step, "")
    assert sent == [("created", 30.0), ("updated", 40.0)]


def test_the_end_of_a_stage_is_shown_in_a_pause_too(run, clock, artifact):
    """One try; otherwise a training that has ended would stand at 20 % for ever."""
    server, sent = artifact
    stage = StageProgress("training", 10, "steps")
    server.fails = True
    clock(10)
    stage.reach(2, "")
    server.fails = False
    stage.finish("10 steps")
    assert sent == [("created", 0.0), ("updated", 100.0)]


def test_a_server_that_hangs_holds_up_one_thread(run, clock, monkeypatch):
    """The others go on with their work, and nothing is sent twice at the same time."""
    asked, answer = threading.Event(), threading.Event()
    sent = []

    def create(progress: float, key: str, description: str) -> UUID:
        return uuid4()

    def update(artifact_id: UUID, progress: float, description: str) -> UUID:
        sent.append(progress)
        asked.set()
        answer.wait(60)
        return artifact_id

    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    stage = StageProgress("tokenization", 10, "shards")
    clock(3)
    held_up = threading.Thread(target=stage.advance, args=(1, ""))
    held_up.start()
    assert asked.wait(60)
    clock(3)
    stage.advance(1, "")
    answer.set()
    held_up.join()
    clock(3)
    stage.advance(1, "")
    assert sent == [10.0, 30.0]

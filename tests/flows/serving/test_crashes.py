"""SIGKILL of the flow's process, of the worker, of the server and of several at once, in tokenization and in training.

One server serves all of it, side by side: of what is killed, each row of the tables below is another.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest

from flows.serving.operation import down
from flows.serving.overview import status
from tests.flows.homes import new_home
from tests.flows.lanes import UNITS, Lane, Site, Until, ask, is_alive, process_of_run

pytestmark = pytest.mark.timeout(1500)

CRASHED_WITHIN_SECONDS = 120
"""The promise; a worker that lives sees it sooner."""
SEEN_BY_THE_WORKER_SECONDS = 60

# killed at the same time, what the runs were doing, finished by then, Crashed within seconds
KILLED = [
    ("flow", "tokenization", 4, SEEN_BY_THE_WORKER_SECONDS),
    ("flow", "training", 4, SEEN_BY_THE_WORKER_SECONDS),
    ("flow, worker", "tokenization", 12, CRASHED_WITHIN_SECONDS),
    ("flow, worker", "training", 12, CRASHED_WITHIN_SECONDS),
    ("flow, worker, server", "tokenization", 8, CRASHED_WITHIN_SECONDS),
    ("flow, worker, server", "training", 8, CRASHED_WITHIN_SECONDS),
]
# killed at the same time, while these runs went on to so many units
OUTLIVED = [
    ("server", "tokenization", 8),
    ("server", "training", 8),
    ("worker, server", "tokenization", 12),
    ("worker, server", "training", 12),
    ("worker", "tokenization", 16),
    ("worker", "training", 16),
]


@dataclass
class Story:
    """What was seen."""

    outlived: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    """(killed, stage) -> state and finished units of a run of which nothing was killed."""
    killed: dict[tuple[str, str], tuple[int, str, float]] = field(default_factory=dict)
    """(killed, stage) -> finished units of a run whose process was killed, its state, and the seconds until then."""
    next_rows: dict[str, dict[str, int]] = field(default_factory=dict)
    """killed -> task run rows of the tokenization that came after."""
    trainings: dict[str, tuple[list[int], int]] = field(default_factory=dict)
    """killed -> the steps that the training has recorded in the end, and how often it was started."""
    facts: dict[str, Any] = field(default_factory=dict)

    def note_outlived(self, killed: str, pair: list[Lane]) -> None:
        """Runs that have gone on since."""
        for lane in pair:
            self.outlived[killed, lane.stage] = lane.reached()[:2]

    def note_killed(self, killed: str, pair: list[Lane]) -> None:
        """Runs that have ended since."""
        for lane in pair:
            self.killed[killed, lane.stage] = (lane.kept, lane.state(), lane.seconds_since_kill())

    def note_next(self, killed: str, pair: list[Lane], until: Until) -> None:
        """The runs that came after them, and are over."""
        tokenizing, training = pair
        until(lambda: sum(tokenizing.rows().values()) == UNITS and "Running" not in tokenizing.rows(), 180)
        self.next_rows[killed] = tokenizing.rows()
        self.trainings[killed] = (training.steps(), training.attempts())


@pytest.fixture(scope="module")
def story(home_with_schema, tmp_path_factory, until):
    """Everything that is killed, once."""
    folder = tmp_path_factory.mktemp("crashes")
    home = new_home(home_with_schema, folder / "home")
    try:
        yield play(Site(home, folder, until), until)
    finally:
        down(home)


def play(site: Site, until: Until) -> Story:
    """Runs that lost their process together with the worker are waited for side by side; meanwhile the rest happens."""
    story = Story()
    everything, with_worker = site.pair("everything"), site.pair("with worker", workers=2)
    unharmed, alone = site.pair("unharmed"), site.pair("alone")
    site.start([*everything, *with_worker, *unharmed], 4)
    story.facts["jobs"] = sorted(job.partition(",")[0] for job in status(site.home).jobs)
    story.facts["expected jobs"] = sorted(
        [f"flow run {lane.run}" for lane in (*everything, *with_worker, *unharmed)]
        + [f"training {lane.training()}" for lane in (everything[1], with_worker[1], unharmed[1])]
    )

    site.kill("server")
    site.go_on([*everything, *with_worker, *unharmed], 8)
    story.note_outlived("server", unharmed)
    site.kill("worker", "server", flows=everything)
    site.go_on([*with_worker, *unharmed], 12)
    story.note_outlived("worker, server", unharmed)
    pool = site.workers(with_worker[0])
    site.kill("worker", flows=with_worker)
    site.go_on(unharmed, 16)
    story.note_outlived("worker", unharmed)
    until(lambda: not any(is_alive(process) for process in pool), 60)
    story.facts["worker processes"] = len(pool)

    site.finish(unharmed)
    site.start(alone, 4)
    site.kill(flows=alone)
    until(lambda: {lane.state() for lane in alone} == {"Crashed"}, 240)
    story.note_killed("flow", alone)
    cancel_one_that_follows(site, alone[1], story, until)
    start_next(alone)
    kill_one_that_has_not_begun(site, story, until)
    for killed, pair in (("flow, worker, server", everything), ("flow, worker", with_worker)):
        until(lambda pair=pair: {lane.state() for lane in pair} == {"Crashed"}, 180)
        story.note_killed(killed, pair)
        start_next(pair)
        until(pair[1].follows, 240)
    for killed, pair in (("flow", alone), ("flow, worker, server", everything), ("flow, worker", with_worker)):
        site.finish(pair)
        story.note_next(killed, pair, until)
    slots = ask(site.api_url, "v2/concurrency_limits/filter", {})
    story.facts["taken slots"] = [slot["name"] for slot in slots if slot["active_slots"]]
    return story


def start_next(pair: list[Lane]) -> None:
    """Runs after those that were killed."""
    for lane in pair:
        lane.start()


def cancel_one_that_follows(site: Site, lane: Lane, story: Story, until: Until) -> None:
    """As `prefect flow-run cancel` does."""
    lane.start()
    until(lane.follows, 240)
    ranks = lane.ranks()
    ask(site.api_url, f"flow_runs/{lane.run}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: lane.state() == "Cancelled", 180)
    story.facts["cancelled ranks"] = (len(ranks), len([rank for rank in ranks if is_alive(rank)]))


def kill_one_that_has_not_begun(site: Site, story: Story, until: Until) -> None:
    """Its process has started and imports Prefect when it is killed together with the worker."""
    lane = site.lane("unbegun", "tokenization")
    lane.start()
    until(lambda: process_of_run(site.home, lane.run) is not None, 180)
    assert not lane.has_begun()
    site.kill("worker", flows=[lane])
    until(lambda: lane.state() == "Crashed", 180)
    story.facts["unbegun seconds"] = lane.seconds_since_kill()


@pytest.mark.parametrize(("killed", "stage", "units"), OUTLIVED)
def test_a_run_outlives_what_it_does_not_run_in(story, killed, stage, units):
    """It goes on while the supervisor starts the others again."""
    assert story.outlived[killed, stage] == ("Running", units)


@pytest.mark.parametrize(("killed", "stage", "units", "within_seconds"), KILLED)
def test_a_run_that_lost_its_process_is_crashed_by_itself(story, killed, stage, units, within_seconds):
    """Whoever else was killed with it."""
    kept, state, seconds = story.killed[killed, stage]
    assert (kept, state) == (units, "Crashed")
    assert seconds < within_seconds


@pytest.mark.parametrize(("killed", "stage", "units", "_"), KILLED)
def test_the_next_run_goes_on_from_the_store(story, killed, stage, units, _):
    """Of a tokenization it computes what is missing. A training outlives its flow: it is found, and started once;
    in the row of the flow alone it was cancelled in between, and so started twice.
    """
    if stage == "tokenization":
        assert story.next_rows[killed] == {"Cached": units, "Completed": UNITS - units}
    else:
        assert story.trainings[killed] == (list(range(1, UNITS + 1)), 2 if killed == "flow" else 1)


def test_a_run_that_was_killed_before_it_began_is_crashed_by_itself(story):
    """The supervisor sees that its process is gone, and that its worker cannot."""
    assert story.facts["unbegun seconds"] < SEEN_BY_THE_WORKER_SECONDS


def test_no_slot_stays_taken(story):
    """Each deployment here runs once at a time, and all of their runs are over."""
    assert story.facts["taken slots"] == []


def test_what_a_killed_or_cancelled_run_had_started_ends(story):
    """The worker processes of a killed tokenization, and the ranks of a cancelled training."""
    assert story.facts["worker processes"] == 2
    assert story.facts["cancelled ranks"] == (2, 0)


def test_the_status_names_each_job(story):
    """One line for each flow run and for each training."""
    assert story.facts["jobs"] == story.facts["expected jobs"]

"""What the sensor does with a run that crashed, without a deployment; with one, see ``serving/test_schedules.py``."""

from prefect import flow, get_client
from prefect.states import Crashed

from flows.watch_sources import _about


@flow(name="never-begins")
def never_begins() -> None:
    """Nobody runs it."""


def test_a_run_that_dies_before_its_first_word_is_not_started_for_ever(prefect_api):
    """It never was Running, and counts all the same: after three starts a person is needed."""
    said = []
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(never_begins, name="doomed")
        for _ in range(4):
            client.set_flow_run_state(run.id, Crashed(), force=True)
            said.append(_about(client.read_flow_run(run.id)))
    continued = "the run doomed had crashed and is continued"
    left = "nothing new; these files are those of the run doomed, which is Crashed"
    assert said == [continued, continued, left, left]

"""What passes by itself is tried again with growing pauses; a user's mistake is told at once."""

import errno
import importlib
import pkgutil

import pytest
from prefect import Task

import tasks
from cpt_core.errors import InputError, ShardsFailedError, StoreError
from cpt_core.storage.failures import failed_read
from cpt_core.tokenization import tokenize_shard
from flows.prepare_corpus import prepare_corpus
from tasks.tokenization import tokenize_batch
from tests.conftest import write_jsonl

STALE = failed_read("store/tokens/a", OSError(errno.ESTALE, "Stale file handle"))
FULL = failed_read("store/tokens/a", OSError(errno.ENOSPC, "No space left on device"))


@pytest.fixture
def failing(prefect_api, tmp_path, monkeypatch):
    """The shard fails so many times with this error; its attempts are counted."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["document"])
    monkeypatch.setattr(tokenize_batch, "retry_delay_seconds", [0.0, 0.0])
    attempts = []

    def fail(error, times):
        def tokenize(**arguments):
            attempts.append(error)
            if len(attempts) <= times:
                raise error
            return tokenize_shard(**arguments)

        monkeypatch.setattr("tasks.computing.tokenize_shard", tokenize)
        return attempts

    return fail


@pytest.mark.parametrize("error", [STALE, ConnectionError("reset by peer")], ids=["file server", "network"])
def test_what_passes_by_itself_is_tried_again(failing, make_config, error):
    """Once it fails, then it is computed; the run ends well."""
    attempts = failing(error, times=1)
    summary = prepare_corpus(make_config(), return_state=True).result()
    assert (summary["shards_computed"], len(attempts)) == (1, 2)


def test_what_does_not_pass_is_given_up_after_three_attempts(failing, make_config):
    """The run has failed with the words of the error."""
    attempts = failing(STALE, times=9)
    failure = prepare_corpus(make_config(), return_state=True).result(raise_on_failure=False)
    assert (failure.failures, len(attempts)) == ({"a-00000": str(STALE)}, 3)


def test_every_task_waits_longer_each_time_and_not_as_long_as_its_neighbours():
    """About 2 and 4 seconds, and up to half as much more, at random."""
    modules = [importlib.import_module(f"tasks.{found.name}") for found in pkgutil.iter_modules(tasks.__path__)]
    found = {task.fn.__name__: task for module in modules for task in vars(module).values() if isinstance(task, Task)}
    assert {
        name: (task.retries, task.retry_delay_seconds, task.retry_jitter_factor) for name, task in found.items()
    } == {
        name: (2, [2, 4], 0.5)
        for name in (
            *("discover", "tokenize_batch", "tokenize_on_worker", "index_documents", "pack_batch"),
            *("pack_on_worker", "train_on_rows", "score_held_out_rows"),
        )
    }


@pytest.mark.parametrize("error", [FULL, InputError("1.jsonl: is no text")], ids=["full disk", "bad input"])
def test_a_mistake_that_stays_is_told_at_once(failing, make_config, error):
    """One attempt, and the run has failed with its words."""
    attempts = failing(error, times=9)
    failure = prepare_corpus(make_config(), return_state=True).result(raise_on_failure=False)
    assert isinstance(failure, ShardsFailedError)
    assert (failure.failures, len(attempts)) == ({"a-00000": str(error)}, 1)


def test_whether_an_error_passes_survives_the_way_out_of_a_worker_process():
    """It is a property of the error, not of what caused it."""
    import pickle

    again = pickle.loads(pickle.dumps(StoreError("busy", is_transient=True)))
    assert (str(again), again.is_transient) == ("busy", True)

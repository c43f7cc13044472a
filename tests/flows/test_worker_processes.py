"""A run whose worker processes are killed or stopped: the shard is computed again, or fails alone under its name."""

import psutil
import pytest

from cpt_core.errors import ShardsFailedError
from flows.prepare_corpus import prepare_corpus
from tests.conftest import write_jsonl
from tests.flows.doomed import SHARD, tokenize_or_end


@pytest.fixture
def doomed(prefect_api, tmp_path, monkeypatch):
    """Three shards in worker processes; the second ends its process with a signal so many times."""
    for number in range(3):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [f"document {number}"])
    (tmp_path / "ends").mkdir()
    monkeypatch.setattr("tasks.computing.PROCESSES_PAY_FROM_BYTES", 0)
    monkeypatch.setattr("tasks.computing.tokenize_shard", tokenize_or_end)

    def doom(signal_name: str, times: int) -> None:
        monkeypatch.setenv("CPT_TEST_DOOM", f"{signal_name} {times} {tmp_path}/ends")

    return doom


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGSTOP"])
def test_a_shard_whose_process_ended_is_computed_by_another(doomed, tmp_path, make_config, signal_name):
    """Killed at once, or after it was silent for too long; the run ends as if nothing had happened."""
    doomed(signal_name, 1)
    config = make_config(orchestration={"workers": 2, "shard_timeout_seconds": 20})
    summary = prepare_corpus(config, return_state=True).result()
    assert (summary["shards_computed"], summary["documents_out"]) == (3, 3)
    assert [path.name for path in (tmp_path / "ends").iterdir()] == ["end-0"]
    assert [child for child in psutil.Process().children() if "cpt_core.workers" in " ".join(child.cmdline())] == []


def test_a_shard_that_ends_every_process_fails_alone_under_its_name(doomed, tmp_path, make_config):
    """Its message says what ended it; the others are committed, and the next run computes it alone."""
    doomed("SIGKILL", 9)
    config = make_config(orchestration={"workers": 2})
    error = prepare_corpus(config, return_state=True).result(raise_on_failure=False)
    assert isinstance(error, ShardsFailedError)
    assert list(error.failures) == [SHARD]
    assert "killed by signal 9, as the system does when memory runs out" in error.failures[SHARD]
    assert len(list((tmp_path / "store/tokens").iterdir())) == 2

    doomed("SIGKILL", 0)
    summary = prepare_corpus(config, return_state=True).result()
    assert (summary["shards_computed"], summary["shards_cached"]) == (1, 2)

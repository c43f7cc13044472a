"""A failed shard, mended and retried in three ways against a real server and worker: only it is computed."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cpt_core.config import PipelineConfig
from flows.serving.operation import down, up
from flows.serving.prefect_server import free_port
from tests.browser import chromium, click, wait_for_text
from tests.conftest import save_byte_tokenizer, write_jsonl
from tests.flows.homes import new_home

GOOD = gzip.compress(b'{"text": "the second file"}\n', mtime=0)
BIN = Path(sys.executable).parent


class Served:
    """A served configuration, and what a user does with it."""

    def __init__(self, home: Path, config, corpus: Path) -> None:
        self.corpus = corpus
        self.config = config
        self.status = up(config, home=home, port=free_port())
        self.environment = os.environ | {"PREFECT_API_URL": self.status.api_url, "CPT_HOME": str(home)}

    def break_shard(self) -> None:
        """The second file is a truncated archive, and what its whole form gave is not in the store."""
        (self.corpus / "2.jsonl.gz").write_bytes(GOOD[:-3])
        for folder in Path(self.config.store_uri, "tokens").glob("a-00001-*"):
            (folder / "artifact.json").unlink(missing_ok=True)

    def mend_shard(self) -> None:
        """The file is whole."""
        (self.corpus / "2.jsonl.gz").write_bytes(GOOD)

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The prefect command."""
        command = [str(BIN / "prefect"), "--no-prompt", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=180)

    def ask(self, path: str, question: dict) -> list[dict]:
        """The server's API."""
        return httpx.post(f"{self.status.api_url}/{path}", json=question, timeout=30).raise_for_status().json()

    def last_run(self) -> dict:
        """The newest flow run."""
        return self.ask("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]

    def shard_states(self, flow_run_id: str) -> list[tuple[str, str]]:
        """(task run name, state name) of all tokenization task runs, over all attempts."""
        question = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs = self.ask("task_runs/filter", question)
        return sorted((run["name"], run["state_name"]) for run in runs if run["name"].startswith("tokenize"))


@pytest.fixture(scope="module")
def served(home_with_schema, tmp_path_factory):
    """A server, a worker and the deployments over three files, the second of which is broken."""
    folder = tmp_path_factory.mktemp("retry")
    for name in ("1", "3"):
        write_jsonl(folder / f"corpus/{name}.jsonl", [f"file {name}"])
    config = PipelineConfig.model_validate(
        {
            "name": "retry",
            "store_uri": str(folder / "store"),
            "discovery": {"sources": [{"name": "a", "uris": [str(folder / "corpus")]}]},
            "tokenization": {"tokenizer": str(save_byte_tokenizer(folder / "tokenizer"))},
            "packing": {"row_len_tokens": 16},
        }
    )
    home = new_home(home_with_schema, folder / "home")
    try:
        yield Served(home, config, folder / "corpus")
    finally:
        down(home)


FIRST_ATTEMPT = [("tokenize a-00000", "Completed"), ("tokenize a-00001", "Failed"), ("tokenize a-00002", "Completed")]
SERVED_FIRST_ATTEMPT = [("tokenize a-00000", "Cached"), ("tokenize a-00001", "Failed"), ("tokenize a-00002", "Cached")]
RETRY = [("tokenize a-00000", "Cached"), ("tokenize a-00001", "Completed"), ("tokenize a-00002", "Cached")]


def test_a_run_with_a_missing_shard_fails_by_name_and_flow_run_retry_computes_only_it(served, until):
    """`prefect deployment run` ends Failed; after the repair `prefect flow-run retry` computes one shard."""
    served.break_shard()
    watched = served.prefect("deployment", "run", "cpt-prepare/data-only", "--watch")
    run = served.last_run()
    assert watched.returncode == 1
    assert run["state_type"] == "FAILED"
    assert "a-00001: " in run["state"]["message"]
    until(lambda: served.shard_states(run["id"]) == FIRST_ATTEMPT)

    served.mend_shard()
    assert served.prefect("flow-run", "retry", run["id"]).returncode == 0
    until(lambda: served.last_run()["state_type"] == "COMPLETED")
    until(lambda: served.shard_states(run["id"]) == sorted([*FIRST_ATTEMPT, *RETRY]))


def test_the_retry_button_of_the_ui_computes_only_the_failed_shard(served, until, tmp_path):
    """Clicked in Chromium on the page of the failed run."""
    served.break_shard()
    served.prefect("deployment", "run", "cpt-prepare/data-only", "--watch")
    run = served.last_run()
    until(lambda: served.shard_states(run["id"]) == SERVED_FIRST_ATTEMPT)
    served.mend_shard()
    with chromium(tmp_path / "profile") as browser:
        browser.get(f"{served.status.ui_url}/runs/flow-run/{run['id']}")
        wait_for_text(browser, "a-00001")
        click(browser, "//button[contains(., 'Retry')]")
        click(browser, "//button[contains(@class, 'p-button--default')][contains(., 'Retry')]")
        until(lambda: served.last_run()["state_type"] == "COMPLETED")
    until(lambda: served.shard_states(run["id"]) == sorted([*SERVED_FIRST_ATTEMPT, *RETRY]))


def test_cpt_retry_shard_computes_only_the_named_shard(served, until, tmp_path):
    """Afterwards a run has nothing left to do in tokenization."""
    served.break_shard()
    config_file = tmp_path / "config.yaml"
    config_file.write_text(served.config.model_dump_json(), encoding="utf-8")

    def retry(shard: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "cpt"), "retry-shard", str(config_file), shard]
        return subprocess.run(command, env=served.environment, capture_output=True, text=True, timeout=60)

    broken = retry("a-00001")
    assert (broken.returncode, "truncated or corrupt" in broken.stderr) == (1, True)
    served.mend_shard()
    assert retry("a-00001").stdout.splitlines()[0] == "a-00001: computed; 1 documents, 17 tokens"
    assert retry("a-00001").stdout.splitlines()[0].startswith("a-00001: was in the store already")
    unknown = retry("a-00009")
    assert unknown.returncode == 2
    assert "a-00009 is no shard of" in unknown.stderr
    assert served.prefect("deployment", "run", "cpt-prepare/data-only", "--watch").returncode == 0
    run = served.last_run()
    until(lambda: {state for _, state in served.shard_states(run["id"])} == {"Cached"})

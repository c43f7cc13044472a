"""A failed shard, mended and retried in four ways against a real server and worker: only it is computed, and the run
goes on to packing and training.
"""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cpt_core.config import OrchestrationConfig, PipelineConfig
from flows.serving.operation import down, up
from flows.serving.prefect_server import free_port
from tests.browser import chromium, click, wait_for_text
from tests.conftest import save_byte_tokenizer, write_jsonl
from tests.flows.homes import new_home

GOOD = gzip.compress(b'{"text": "the second file"}\n', mtime=0)
OTHER = gzip.compress(b'{"text": "another second file"}\n', mtime=0)
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

    def mend_shard(self, content: bytes = GOOD) -> None:
        """The file is whole."""
        (self.corpus / "2.jsonl.gz").write_bytes(content)

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

    def state_type(self, flow_run_id: str) -> str:
        """Of a flow run."""
        return self.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})[0]["state_type"]

    def log(self, flow_run_id: str) -> list[str]:
        """The log of a run."""
        question = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "limit": 200}
        pages = [self.ask("logs/filter", question | {"offset": offset}) for offset in (0, 200, 400)]
        return [found["message"] for page in pages for found in page]

    def log_has(self, flow_run_id: str, line: str) -> bool:
        """Whether the log of the run has a line that begins like this one."""
        return any(found.startswith(line[:80]) for found in self.log(flow_run_id))

    def tables(self, flow_run_id: str) -> dict:
        """Key -> content of the newest artifact of the run with this key."""
        question = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "sort": "CREATED_DESC", "limit": 100}
        found = {artifact["key"]: artifact for artifact in reversed(self.ask("artifacts/filter", question))}
        return {key: json.loads(a["data"]) if a["type"] == "table" else a["data"] for key, a in found.items()}

    def states(self, flow_run_id: str, *tasks: str) -> list[tuple[str, str]]:
        """(task run name, state name) of all task runs of these tasks, over all attempts."""
        question = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs = self.ask("task_runs/filter", question)
        return sorted((run["name"], run["state_name"]) for run in runs if run["name"].split()[0] in tasks)

    def shard_states(self, flow_run_id: str) -> list[tuple[str, str]]:
        """The same of all tokenization task runs."""
        return self.states(flow_run_id, "tokenize")


def write_tiny_model(folder: Path) -> Path:
    """A Llama of one layer for the byte tokenizer, without weights."""
    folder.mkdir()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 258, **sizes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def served(home_with_schema, tmp_path_factory):
    """A server, a worker and the deployments over three files, the second of which is broken."""
    folder = tmp_path_factory.mktemp("retry")
    for name in ("1", "3"):
        write_jsonl(folder / f"corpus/{name}.jsonl", [f"canary {name}"])
    config = PipelineConfig.model_validate(
        {
            "name": "retry",
            "store_uri": str(folder / "store"),
            "discovery": {"sources": [{"name": "a", "uris": [str(folder / "corpus")]}]},
            "tokenization": {"tokenizer": str(save_byte_tokenizer(folder / "tokenizer"))},
            "packing": {"row_len_tokens": 16},
            "training": {
                "model": str(write_tiny_model(folder / "model")),
                "max_steps": 1,
                "global_batch_rows": 2,
                "micro_batch_rows": 2,
                "zero_stage": 0,
                "precision": "fp32",
            },
        }
    )
    home = new_home(home_with_schema, folder / "home")
    try:
        yield Served(home, config, folder / "corpus")
    finally:
        down(home)


FIRST_ATTEMPT = [("tokenize a-00000", "Completed"), ("tokenize a-00001", "Failed"), ("tokenize a-00002", "Completed")]
SERVED_FIRST_ATTEMPT = [("tokenize a-00000", "Cached"), ("tokenize a-00001", "Failed"), ("tokenize a-00002", "Cached")]
GOES_ON = [("pack a-00000", "Completed"), ("train retry", "Completed")]
GOES_ON_WITH_WHAT_IS_THERE = [("pack a-00000", "Cached"), ("train retry", "Cached")]
RETRY = [("tokenize a-00000", "Cached"), ("tokenize a-00001", "Completed"), ("tokenize a-00002", "Cached")]


def test_a_run_with_a_missing_shard_fails_by_name_and_flow_run_retry_computes_only_it(served, until):
    """`prefect deployment run` ends Failed; after the repair `prefect flow-run retry` computes one shard."""
    served.break_shard()
    watched = served.prefect("deployment", "run", "cpt/full-pipeline", "--watch")
    run = served.last_run()
    assert watched.returncode == 1
    assert run["state_type"] == "FAILED"
    assert "a-00001: " in run["state"]["message"]
    assert f"prefect flow-run retry {run['id']}" in run["state"]["message"]
    until(lambda: served.shard_states(run["id"]) == FIRST_ATTEMPT)
    failed = served.tables(run["id"])
    assert [row["failed"] for row in failed["tokenization-table"]] == ["1"]
    ((shard, reason),) = [row.values() for row in failed["failed-shards"]]
    assert (shard, "2.jsonl.gz: gzip data is truncated or corrupt" in reason) == ("a-00001", True)

    served.mend_shard()
    assert served.prefect("flow-run", "retry", run["id"]).returncode == 0
    until(lambda: served.last_run()["state_type"] == "COMPLETED", 300)
    until(lambda: served.shard_states(run["id"]) == sorted([*FIRST_ATTEMPT, *RETRY]))
    until(lambda: served.states(run["id"], "pack", "train") == GOES_ON)
    (process_log,) = Path(served.config.store_uri).glob("training_runs/*/attempts/*/rank-00000.log")
    printed = next(line.strip() for line in process_log.read_text().splitlines() if line.strip())
    until(lambda: served.log_has(run["id"], printed))
    assert not any("canary" in line for line in [*served.log(run["id"]), process_log.read_text()])

    trained = served.tables(run["id"])
    facts = {row["fact"]: row["value"] for row in trained["training-table"]}
    (line,) = Path(served.config.store_uri).glob("training_runs/*/metrics.jsonl")
    loss = f"{json.loads(line.read_text())['loss']:.4f}"
    assert facts | {"tokens a second": ""} == {
        "steps": "1",
        "processes": "1 on 1 node",
        "tokens": "18",
        "tokens a second": "",
        "model FLOPs utilisation": "not measured",
        "loss of the first step": loss,
        "loss of the last step": loss,
        "resumed from step": "not resumed",
        "taken from the store": "no",
    }
    assert trained["loss"].startswith("data:image/svg+xml;base64,")
    assert trained["training"] == 100


def test_on_a_dask_cluster_flow_run_retry_computes_only_the_failed_shard(served, until, tmp_path):
    """Each attempt has a cluster of its own."""
    served.break_shard()
    changes = {"store_uri": str(tmp_path / "store"), "orchestration": OrchestrationConfig(runner="dask", workers=2)}
    config = served.config.model_copy(update=changes).model_dump_json()
    watched = served.prefect("deployment", "run", "cpt-prepare/data-only", "-p", f"config={config}", "--watch")
    run = served.last_run()
    assert (watched.returncode, run["state_type"]) == (1, "FAILED")
    assert "a-00001: " in run["state"]["message"]
    until(lambda: served.shard_states(run["id"]) == FIRST_ATTEMPT)

    served.mend_shard()
    assert served.prefect("flow-run", "retry", run["id"]).returncode == 0
    until(lambda: served.state_type(run["id"]) == "COMPLETED", 300)
    until(lambda: served.shard_states(run["id"]) == sorted([*FIRST_ATTEMPT, *RETRY]))
    until(lambda: served.states(run["id"], "pack") == [("pack a-00000", "Completed")])


def test_the_retry_button_of_the_ui_computes_only_the_failed_shard(served, until, tmp_path):
    """Clicked in Chromium on the page of the failed run, whose file was mended in another way than before: the run goes
    on to packing and training.
    """
    served.break_shard()
    served.prefect("deployment", "run", "cpt/full-pipeline", "--watch")
    run = served.last_run()
    until(lambda: served.shard_states(run["id"]) == SERVED_FIRST_ATTEMPT)
    served.mend_shard(OTHER)
    with chromium(tmp_path / "profile") as browser:
        browser.get(f"{served.status.ui_url}/runs/flow-run/{run['id']}")
        wait_for_text(browser, "a-00001")
        click(browser, "//button[contains(., 'Retry')]")
        click(browser, "//button[contains(@class, 'p-button--default')][contains(., 'Retry')]")
        until(lambda: served.last_run()["state_type"] == "COMPLETED", 300)
    until(lambda: served.shard_states(run["id"]) == sorted([*SERVED_FIRST_ATTEMPT, *RETRY]))
    until(lambda: served.states(run["id"], "pack", "train") == GOES_ON)


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
    assert retry("a-00001").stdout.splitlines()[0] == "a-00001: computed; 1 document, 17 tokens"
    assert retry("a-00001").stdout.splitlines()[0].startswith("a-00001: was in the store already")
    unknown = retry("a-00009")
    assert unknown.returncode == 2
    assert "a-00009 is no shard of" in unknown.stderr
    assert served.prefect("deployment", "run", "cpt/full-pipeline", "--watch").returncode == 0
    run = served.last_run()
    until(lambda: {state for _, state in served.shard_states(run["id"])} == {"Cached"})
    until(lambda: served.states(run["id"], "pack", "train") == GOES_ON_WITH_WHAT_IS_THERE)


def test_the_deployment_retry_shard_computes_only_the_named_shard(served, until):
    """`cpt-shard/retry-shard`, as from the UI; afterwards the run that had failed goes on."""
    served.break_shard()
    served.prefect("deployment", "run", "cpt/full-pipeline", "--watch")
    failed = served.last_run()
    retry = ("deployment", "run", "cpt-shard/retry-shard", "-p", "shard=a-00001", "--watch")
    assert served.prefect(*retry).returncode == 1
    served.mend_shard()
    assert served.prefect(*retry).returncode == 0
    alone = served.last_run()
    assert alone["name"] == "retry a-00001"
    until(lambda: served.states(alone["id"], "tokenize", "pack") == [("tokenize a-00001", "Completed")])

    assert served.prefect("flow-run", "retry", failed["id"]).returncode == 0
    until(lambda: served.state_type(failed["id"]) == "COMPLETED", 300)
    until(lambda: served.states(failed["id"], "pack", "train") == GOES_ON_WITH_WHAT_IS_THERE)

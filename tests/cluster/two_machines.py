"""What the first of two machines does: an S3 server, a Prefect server, a cluster with a worker, and two runs.

``python -m tests.cluster.two_machines RUNNER FOLDER ADDRESS SHORT`` prints one JSON object when the second machine's
worker may come; when it is there, the data stages run on both workers with a file that is cut off, again when it is
whole, and on threads of the first machine for comparison. Then it prints one object more.
"""

import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flows.serving.api import ask
from flows.serving.prefect_server import wait_until_answers
from tests.cluster.clusters import CLUSTERS, Cluster
from tests.conftest import save_byte_tokenizer
from tests.flows.clusters import until_it_listens
from tests.s3_server import S3Server, s3_server

PREFECT_PORT = 4200
SHARDS = 8
CUT_OFF = "cut-off.jsonl.gz"
WHOLE = gzip.compress(b'{"text": "the last file"}\n', mtime=0)
SECRET = "admin:of-the-tests"


def main() -> None:
    """Start everything, say so, run three times, and say what came of it."""
    cluster, folder, address, short = CLUSTERS[sys.argv[1]], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    with ExitStack() as stack:
        server = stack.enter_context(s3_server(folder / "s3", address))
        serving = {
            **os.environ,
            **server.environment(),
            "PREFECT_API_URL": f"http://{address}:{PREFECT_PORT}/api",
            "PREFECT_API_AUTH_STRING": SECRET,
            "PREFECT_SERVER_API_AUTH_STRING": SECRET,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_HOME": str(folder / "prefect"),
            "CPT_HOME": str(folder / "home"),
        }
        prefect = ["prefect", "server", "start", "--host", address, "--port", str(PREFECT_PORT), "--no-ui"]
        running = stack.enter_context(_program(folder / "prefect.log", serving, prefect))
        working = {**os.environ, **server.environment()}
        for number, module in enumerate(cluster.on_first(address, short)):
            program = stack.enter_context(_program(folder / f"cluster-{number}.log", working, module))
            if number == 0:
                until_it_listens(program, address, cluster.port)
        print(json.dumps(server.environment()), flush=True)
        os.environ.update(serving)
        _write_config(server, folder, cluster, address)
        wait_until_answers(serving["PREFECT_API_URL"], alive=lambda: running.poll() is None, log=folder / "prefect.log")
        cluster.wait_for_both(cluster.address(address))
        print(json.dumps(_run_all(server, folder)), flush=True)


def _write_config(server: S3Server, folder: Path, cluster: Cluster, address: str) -> None:
    for number in range(SHARDS):
        line = json.dumps({"text": f"document {number} " * 50}) + "\n"
        server.client().pipe_file(f"{server.bucket}/corpus/{number}.jsonl", line.encode() * 20)
    server.client().pipe_file(f"{server.bucket}/corpus/{CUT_OFF}", WHOLE[:-3])
    config = {
        "name": "two",
        "store_uri": f"s3://{server.bucket}/cluster",
        "discovery": {"sources": [{"name": "a", "uris": [f"s3://{server.bucket}/corpus"]}]},
        "tokenization": {"tokenizer": str(save_byte_tokenizer(folder / "tokenizer"))},
        "packing": {"row_len_tokens": 64, "group_size_tokens": 20_000},
        "orchestration": {"runner": cluster.runner, "runner_address": cluster.address(address)},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _run_all(server: S3Server, folder: Path) -> dict[str, Any]:
    failed = _prepare(folder)
    server.client().pipe_file(f"{server.bucket}/corpus/{CUT_OFF}", WHOLE)
    summary = json.loads(_prepare(folder).stdout)
    hosts = _hosts_of(SHARDS + 1 + len(summary["artifacts"]["packed"]))
    threads = ["orchestration.runner=threads", "orchestration.runner_address=null", "store_uri=s3://tests/threads"]
    _prepare(folder, *threads)
    files = [
        sorted(path.split("/", 2)[2] for path in server.client().find(f"{server.bucket}/{store}") if "parquet" in path)
        for store in ("cluster", "threads")
    ]
    return {
        "exit_code": failed.returncode,
        "failed": failed.stderr,
        "shards_computed": summary["shards_computed"],
        "shards_cached": summary["shards_cached"],
        "hosts": hosts,
        "files": files,
    }


def _hosts_of(task_runs: int) -> dict[str, list[str]]:
    """Which hosts computed, by task; the lines of the workers' logs arrive some seconds late."""
    api_url, deadline = os.environ["PREFECT_API_URL"], time.monotonic() + 60
    while True:
        lines = ask(api_url, "logs/filter", {"limit": 200})
        found = [(line["task_run_id"], re.match(r"1 of 1 computed in .* on (\S+),", line["message"])) for line in lines]
        computed = [(task_run_id, match[1]) for task_run_id, match in found if match]
        if len(computed) == task_runs:
            break
        assert time.monotonic() < deadline, lines
        time.sleep(0.5)
    names = {run["id"]: run["name"].split()[0] for run in ask(api_url, "task_runs/filter", {})}
    return {
        task: sorted({host for task_run_id, host in computed if names[task_run_id] == task})
        for task in ("tokenize", "pack")
    }


def _prepare(folder: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    settings = [word for override in overrides for word in ("--set", override)]
    program = "from flows.command import main; main()"
    command = [sys.executable, "-c", program, "prepare", str(folder / "config.json"), "--json", *settings]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@contextmanager
def _program(log: Path, environment: Any, module: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as stream:
        program = subprocess.Popen([sys.executable, "-m", *module], env=environment, stdout=stream, stderr=stream)
    try:
        yield program
    finally:
        program.terminate()
        program.wait()


if __name__ == "__main__":
    main()

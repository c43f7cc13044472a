"""The data stages on two hosts that share nothing but an S3 server."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.hosts import ADDRESSES, NAMES, Hosts
from tests.cluster.two_machines import CUT_OFF, SHARDS, worker_module


def test_two_hosts_without_a_common_file_system_do_what_threads_do(
    hosts: Hosts, tmp_path: Path, search_path: str
) -> None:
    """The scheduler, a worker, the tokenizer's folder and the Prefect server, with a password, are on the first host;
    a worker that knows the address and the keys of S3 is on the second. One file is cut off: its shard fails by name, and
    when the file is whole, it alone is computed. Both hosts tokenize and pack, and every file is the one that threads of
    one host write.
    """
    variables = {**os.environ, "PYTHONPATH": search_path}
    started: list[subprocess.Popen[str]] = []

    def start(command: list[str], **added: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(command, env=variables | added, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    try:
        first = start(hosts.on_first([sys.executable, "-m", "tests.cluster.two_machines", str(tmp_path), ADDRESSES[0]]))
        assert first.stdout is not None
        s3_variables = json.loads(first.stdout.readline())
        worker = [sys.executable, "-m", *worker_module(ADDRESSES[0])]
        start(hosts.on_second_alone(worker, tmp_path), TMPDIR=str(tmp_path), **s3_variables)
        said = json.loads(first.communicate(timeout=300)[0])
    finally:
        for process in started:
            process.terminate()
            process.wait()
    assert said["exit_code"] == 1
    assert f"corpus/{CUT_OFF}: gzip data is truncated or corrupt" in said["failed"], said["failed"]
    assert "1 shard(s) failed, all others are committed" in said["failed"], said["failed"]
    assert (said["shards_computed"], said["shards_cached"]) == (1, SHARDS)
    assert said["hosts"] == {"tokenize": list(NAMES), "pack": list(NAMES)}
    by_cluster, by_threads = said["files"]
    assert by_cluster == by_threads
    assert len(by_cluster) > SHARDS + 1

"""The data stages on two hosts that share nothing but an S3 server."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.clusters import CLUSTERS
from tests.cluster.hosts import ADDRESSES, NAMES, Hosts
from tests.cluster.two_machines import CUT_OFF, SHARDS


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray's sockets lie in it, whose names have to be short."""
    with tempfile.TemporaryDirectory(prefix="cpt-ray-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_two_hosts_without_a_common_file_system_do_what_threads_do(
    hosts: Hosts, tmp_path: Path, short_folder: Path, search_path: str, runner: str
) -> None:
    """The scheduler, or Ray's head, a worker, the tokenizer's folder and the Prefect server, with a password, are on the
    first host; a worker, or a node that `ray start --address` joins, knows the address and the keys of S3 on the second.
    One file is cut off: its shard fails by name, and when the file is whole, it alone is computed. Both hosts tokenize,
    and with Dask both pack (Ray may give short work to the same host again and again); every file is the one that
    threads of one host write.
    """
    cluster = CLUSTERS[runner]
    variables = {**os.environ, **cluster.variables, "PYTHONPATH": search_path}
    started: list[subprocess.Popen[str]] = []

    def start(command: list[str], **added: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(command, env=variables | added, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    try:
        told = [runner, str(tmp_path), ADDRESSES[0], str(short_folder)]
        first = start(hosts.on_first([sys.executable, "-m", "tests.cluster.two_machines", *told]))
        assert first.stdout is not None
        s3_variables = json.loads(first.stdout.readline())
        worker = hosts.on_second_alone([sys.executable, "-m", *cluster.on_second(*ADDRESSES)], tmp_path, short_folder)
        start(worker, TMPDIR=str(tmp_path), **s3_variables)
        said = json.loads(first.communicate(timeout=300)[0])
    finally:
        for process in started:
            process.terminate()
            process.wait()
    assert said["exit_code"] == 1
    assert f"corpus/{CUT_OFF}: gzip data is truncated or corrupt" in said["failed"], said["failed"]
    assert "1 shard(s) failed, all others are committed" in said["failed"], said["failed"]
    assert (said["shards_computed"], said["shards_cached"]) == (1, SHARDS)
    assert said["hosts"]["tokenize"] == list(NAMES)
    assert runner == "ray" or said["hosts"]["pack"] == list(NAMES)
    by_cluster, by_threads = said["files"]
    assert by_cluster == by_threads
    assert len(by_cluster) > SHARDS + 1

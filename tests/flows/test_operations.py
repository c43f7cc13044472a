"""docs/operations.md was tried: its commands are run in their order, each after what it is meant for has happened."""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cpt_core.config import PipelineConfig
from flows.serving.operation import down
from flows.serving.prefect_server import free_port
from flows.serving.processes import marked_processes
from flows.serving.state import read_state
from tests.conftest import REPOSITORY, save_byte_tokenizer, write_jsonl

PAGE = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
WHOLE = gzip.compress(b'{"text": "the second file"}\n', mtime=0)


class Reader:
    """Someone who types what the page says."""

    def __init__(self, folder: Path, home_with_schema: Path) -> None:
        self.folder, self.home = folder, folder / ".cpt"
        self.home.mkdir()
        for database in home_with_schema.glob("empty-*.db"):
            shutil.copy(database, self.home)
        self.port = free_port()
        self.run = ""
        write_jsonl(folder / "corpus/1.jsonl", ["the first file"])
        self.second = folder / "corpus/2.jsonl.gz"
        self.second.write_bytes(WHOLE[:-3])
        config = {
            "name": "my-domain",
            "store_uri": str(folder / "store"),
            "discovery": {"sources": [{"name": "papers", "uris": [str(folder / "corpus")]}]},
            "tokenization": {"tokenizer": str(save_byte_tokenizer(folder / "tokenizer"))},
            "packing": {"row_len_tokens": 16},
        }
        text = PipelineConfig.model_validate(config).model_dump_json()
        (folder / "my-domain.yaml").write_text(text, encoding="utf-8")

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type one line, with the port of this test."""
        if command.startswith("cpt up"):
            if "--port" in command:
                self.port = free_port()
            command = f"{command.partition(' --port')[0]} --port {self.port}"
        environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CPT_HOME": str(self.home),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "RUN": self.run,
        }
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600
        )

    def start(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Start a run and remember its id."""
        done = self.type(f"prefect deployment run cpt-prepare/data-only {' '.join(options)}")
        created = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
        assert created, done.stdout + done.stderr
        self.run = created[1]
        return done

    def state(self) -> str:
        """The state of that run."""
        run = httpx.get(f"http://127.0.0.1:{self.port}/api/flow_runs/{self.run}", timeout=30).json()
        return str(run["state_name"])


@pytest.fixture
def reader(tmp_path, home_with_schema):
    """In a folder of their own."""
    reader = Reader(tmp_path, home_with_schema)
    try:
        yield reader
    finally:
        down(reader.home)


def sections() -> dict[str, list[str]]:
    """Heading -> its commands."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
        found[section.splitlines()[0]] = re.findall(r"^\$ (.*)$", "".join(blocks), re.MULTILINE)
    return found


@pytest.mark.timeout(1500)
def test_every_command_of_the_page_does_what_it_says(reader, until):
    """The page from top to bottom; what has to happen before a section is brought about first."""
    written = sections()

    def follow(heading: str) -> str:
        printed = ""
        for command in written.pop(heading):
            done = reader.type(command)
            while "finished in state 'Cancelled'" in done.stdout:  # until the one of the schedule has ended
                done = reader.type(command)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            printed += done.stdout
        return printed

    assert "worker       online" in follow("I want to start it, and see what runs")

    assert reader.start("--watch").returncode == 1
    reader.second.write_bytes(WHOLE)
    printed = follow("A run failed")
    assert "papers-00001: " in printed
    until(lambda: reader.state() == "Completed", 120)

    reader.second.write_bytes(gzip.compress(b'{"text": "the second file, again"}\n{"text": 3}\n', mtime=0))
    set_crashed = {"state": {"type": "CRASHED"}, "force": True}
    httpx.post(f"http://127.0.0.1:{reader.port}/api/flow_runs/{reader.run}/set_state", json=set_crashed, timeout=30)
    follow("A run is Crashed")
    until(lambda: reader.state() == "Failed", 120)  # for the line that is no text

    state = read_state(reader.home)
    os.kill(state.supervisor.pid, signal.SIGKILL)
    printed = follow("The machine was switched off, or the supervisor was killed")
    assert "the supervisor is gone, but not what it started; `cpt up` and `cpt down` end it" in printed
    assert read_state(reader.home).supervisor != state.supervisor

    reader.start("--start-in", "'1 hour'")
    follow("A run waits and does not start")
    until(lambda: reader.state() == "Cancelled", 60)
    assert "server started, pid" in follow("Something is wrong with the server")
    follow("The port is taken")
    assert f"127.0.0.1:{reader.port}" in reader.type("cpt status").stdout

    reader.second.write_bytes(WHOLE)
    follow("Prefect's history is damaged, or has grown too large")
    follow("A disk lost or changed a file of the store")
    reader.second.write_bytes(b'{"text": 3}\n')
    reader.type("cpt prepare my-domain.yaml")
    assert "papers" in follow("Lines were rejected")
    reader.second.write_bytes(WHOLE)
    printed = follow("New files shall be computed by themselves")
    assert "cpt-watch/new-files every 1m" in printed
    assert "schedule" not in reader.type("cpt status").stdout
    follow("All of it shall end")
    assert marked_processes(reader.home) == []
    assert {heading: commands for heading, commands in written.items() if commands} == {}

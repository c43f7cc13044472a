"""docs/operations.md was tried: its commands are run in their order, each after what it is meant for has happened."""

import gzip
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cpt_core.config import PipelineConfig
from flows.serving.operation import down
from flows.serving.prefect_server import free_port
from flows.serving.processes import marked_processes
from flows.serving.state import read_state
from flows.serving.supervisor import LOG_BYTES
from tests.conftest import REPOSITORY, save_byte_tokenizer, write_jsonl
from tests.flows.served import Until, ask, process_of_run

PAGE = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
DATA_ONLY = "cpt-prepare/data-only"


def zipped(*lines: str) -> bytes:
    """The bytes of a compressed file."""
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


WHOLE = zipped('{"text": "the second file"}')


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

    @property
    def api_url(self) -> str:
        """Of the server."""
        return f"http://127.0.0.1:{self.port}/api"

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
            "PREFECT_API_URL": self.api_url,
            "RUN": self.run,
        }
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600
        )

    def follow(self, *commands: str, returncode: int = 0) -> str:
        """Type these lines; what they print."""
        printed = ""
        for command in commands:
            done = self.type(command)
            while "finished in state 'Cancelled'" in done.stdout:  # until the one of the schedule has ended
                done = self.type(command)
            assert done.returncode == returncode, (command, done.stdout, done.stderr)
            printed += done.stdout
        return printed

    def has_looked(self) -> bool:
        """Whether the watcher's first look has ended."""
        flows = {"name": {"any_": ["cpt-watch"]}}
        looks = ask(self.api_url, "flow_runs/filter", {"flows": flows, "sort": "START_TIME_DESC"})
        return any(run["state_name"] == "Completed" for run in looks)

    def watch(self) -> int:
        """Start a run of the data stages and remember its id; the exit code that it ends with."""
        done = self.type(f"prefect deployment run {DATA_ONLY} --watch")
        created = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
        assert created, done.stdout + done.stderr
        self.run = created[1]
        return done.returncode

    def start(self, deployment: str) -> str:
        """Start a run and remember its id."""
        name = deployment.partition("/")[2]
        (found,) = ask(self.api_url, "deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        question = {"state": {"type": "SCHEDULED"}}
        self.run = str(ask(self.api_url, f"deployments/{found['id']}/create_flow_run", question)["id"])
        return self.run

    def state(self) -> str:
        """The state of that run."""
        return str(ask(self.api_url, f"flow_runs/{self.run}", {}, "GET")["state_name"])

    def is_reported(self) -> bool:
        """Whether the worker has said of that run all that it will: it calls it Crashed twice, a second apart, and the
        second time would undo a retry in between.
        """
        lines = ask(self.api_url, "logs/filter", {"logs": {"flow_run_id": {"any_": [self.run]}}})
        return any(line["message"].startswith("Check whether the flow run exceeded its memory") for line in lines)

    def process(self) -> psutil.Process | None:
        """The process of that run."""
        return process_of_run(self.home, self.run)

    def rows(self) -> dict[str, str]:
        """Task run of that run -> state, for tokenization and packing."""
        found = ask(self.api_url, "task_runs/filter", {"flow_runs": {"id": {"any_": [self.run]}}})
        return {run["name"]: run["state_name"] for run in found if run["name"].startswith(("tokenize", "pack"))}


@pytest.fixture
def reader(tmp_path, home_with_schema):
    """In a folder of their own."""
    reader = Reader(tmp_path, home_with_schema)
    try:
        yield reader
    finally:
        down(reader.home)


def sections() -> dict[str, list[str]]:
    """Heading -> its commands, of those that have some."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
        found[section.splitlines()[0]] = re.findall(r"^\$ (.*)$", "".join(blocks), re.MULTILINE)
    return {heading: commands for heading, commands in found.items() if commands}


def kill(*processes: psutil.Process | None) -> None:
    """SIGKILL."""
    for process in processes:
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)


def it_is_started(reader: Reader, commands: list[str], until: Until) -> None:
    """And then asked about."""
    assert "worker       online" in reader.follow(*commands)


def a_run_failed(reader: Reader, commands: list[str], until: Until) -> None:
    """For a truncated file."""
    assert reader.watch() == 1
    reader.second.write_bytes(WHOLE)
    printed = reader.follow(*commands)
    assert "papers-00001: computed; 1 document" in printed
    until(lambda: reader.state() == "Completed")


def a_run_is_crashed(reader: Reader, commands: list[str], until: Until) -> None:
    """Its process is killed; the worker sees it."""
    write_jsonl(reader.folder / "corpus/1.jsonl", ["the first file, again"])
    reader.start(DATA_ONLY)
    until(lambda: reader.state() == "Running")
    kill(reader.process())
    until(lambda: reader.state() == "Crashed", 120)
    until(reader.is_reported)
    reader.follow(*commands)
    until(lambda: reader.state() == "Completed")


def the_supervisor_was_killed(reader: Reader, commands: list[str], until: Until) -> None:
    """With the worker and a run; the server is left."""
    reader.start(DATA_ONLY)
    until(lambda: reader.process() is not None)
    state = read_state(reader.home)
    kill(state.supervisor.process(), state.worker.process(), reader.process())
    printed = reader.follow(*commands)
    assert (
        "the supervisor is gone, but not what it started; `cpt up` and `cpt down` end it\njob          server"
        in printed
    )
    assert read_state(reader.home).supervisor != state.supervisor
    assert reader.state() == "Crashed"


def a_run_waits(reader: Reader, commands: list[str], until: Until) -> None:
    """One for the run before it, which is held up; one for a worker, which nobody starts."""
    ended = reader.run
    reader.start("cpt/full-pipeline")
    until(lambda: reader.process() is not None)
    holder = reader.process()
    holder.suspend()
    reader.start("cpt/full-pipeline")
    until(lambda: reader.state() == "AwaitingConcurrencySlot")
    reader.follow(*commands)
    until(lambda: reader.state() == "Cancelled")

    state = read_state(reader.home)
    supervisor = state.supervisor.process()
    supervisor.suspend()
    kill(state.worker.process(), holder)
    reader.start(DATA_ONLY)
    until(lambda: reader.state() == "Late")
    assert "worker       offline" in reader.type("cpt status").stdout
    reader.follow(*commands)
    until(lambda: reader.state() == "Cancelled")
    supervisor.resume()
    reader.run = ended


def something_is_wrong_with_the_server(reader: Reader, commands: list[str], until: Until) -> None:
    """The worker was killed, and has written more than a log holds."""
    log = reader.home / "logs/worker.log"
    with log.open("ab") as stream:
        stream.write(b"." * LOG_BYTES + b"\n")
    until(lambda: log.with_suffix(".log.1").exists() and log.stat().st_size < LOG_BYTES)
    assert log.with_suffix(".log.1").stat().st_size > LOG_BYTES
    assert "worker ended with status -9" in reader.follow(*commands)


def the_port_is_taken(reader: Reader, commands: list[str], until: Until) -> None:
    """By a program that listens there."""
    reader.type("cpt down")
    with socket.create_server(("127.0.0.1", reader.port)):
        refused = reader.type("cpt up my-domain.yaml")
        assert (refused.returncode, refused.stderr) == (
            2,
            f"cpt: port {reader.port} of 127.0.0.1 is in use by another program, expected a free one;"
            f" stop that program, or choose another port: cpt up CONFIG --port {reader.port + 1}\n",
        )
        reader.follow(*commands)
    assert f"http://127.0.0.1:{reader.port} answers" in reader.type("cpt status").stdout


def the_history_is_put_aside(reader: Reader, commands: list[str], until: Until) -> None:
    """No run is known, and nothing is lost."""
    reader.follow(*commands)
    (run,) = ask(reader.api_url, "flow_runs/filter", {})
    reader.run = run["id"]
    cached = dict.fromkeys(("tokenize papers-00000", "tokenize papers-00001", "pack papers-00000"), "Cached")
    until(lambda: reader.rows() == cached)


def a_file_was_changed(reader: Reader, commands: list[str], until: Until) -> None:
    """One bit of a token shard."""
    (path,) = reader.folder.glob("store/tokens/papers-00001-*/*.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    printed = reader.follow(*commands, returncode=1)
    assert f"content: {path}: " in printed
    assert "; the next run computes it again" in printed
    assert reader.watch() == 0
    computed = {"tokenize papers-00000": "Cached", "tokenize papers-00001": "Completed", "pack papers-00000": "Cached"}
    until(lambda: reader.rows() == computed)


def lines_were_rejected(reader: Reader, commands: list[str], until: Until) -> None:
    """A number in the place of a text; then the file is as before."""
    reader.second.write_bytes(zipped('{"text": "a good line"}', '{"text": 3}'))
    assert reader.type("cpt prepare my-domain.yaml").returncode == 1
    printed = reader.follow(*commands)
    assert "1 of 3 documents are quarantined" in printed
    assert f"{reader.second}:2" in printed
    reader.second.write_bytes(WHOLE)


def new_files_come(reader: Reader, commands: list[str], until: Until) -> None:
    """Their run is started by the watcher; then by the clock; then no more."""
    write_jsonl(reader.folder / "corpus/3.jsonl", ["the third file"])
    watch, look, *clock, end = commands
    assert "cpt-watch/new-files every 1m" in reader.follow(watch)
    until(lambda: reader.has_looked())  # a second look meanwhile is cancelled, which --watch may miss and wait for ever
    reader.follow(look)
    (run,) = [run for run in ask(reader.api_url, "flow_runs/filter", {}) if is_of_the_watcher(run)]
    reader.run = run["id"]
    until(lambda: reader.state() == "Completed")
    until(lambda: reader.rows().get("tokenize papers-00002") == "Completed")
    printed = reader.follow(*clock)
    assert "cpt-prepare/data-only every 15m" in printed
    assert 'cpt-prepare/data-only at "0 3 * * *" UTC' in printed
    reader.follow(end)
    assert "schedule" not in reader.type("cpt status").stdout


def is_of_the_watcher(run: dict) -> bool:
    """Whether a run was started for a state of the sources."""
    return (run["idempotency_key"] or "").startswith("cpt-watch-")


def all_of_it_shall_end(reader: Reader, commands: list[str], until: Until) -> None:
    """Database and logs stay."""
    reader.follow(*commands)
    assert marked_processes(reader.home) == []
    assert (reader.home / "prefect/prefect.db").exists()
    assert (reader.home / "logs/server.log").exists()


SITUATIONS: dict[str, Callable[[Reader, list[str], Until], None]] = {
    "I want to start it, and see what runs": it_is_started,
    "A run failed": a_run_failed,
    "A run is Crashed": a_run_is_crashed,
    "The machine was switched off, or the supervisor was killed": the_supervisor_was_killed,
    "A run waits and does not start": a_run_waits,
    "Something is wrong with the server": something_is_wrong_with_the_server,
    "The port is taken": the_port_is_taken,
    "Prefect's history is damaged, or has grown too large": the_history_is_put_aside,
    "A disk lost or changed a file of the store": a_file_was_changed,
    "Lines were rejected": lines_were_rejected,
    "New files shall be computed by themselves": new_files_come,
    "All of it shall end": all_of_it_shall_end,
}


@pytest.mark.timeout(1500)
def test_every_command_of_the_page_does_what_it_says(reader, until):
    """The page from top to bottom; what has to happen before a section is brought about first."""
    assert list(sections()) == list(SITUATIONS)
    for heading, commands in sections().items():
        SITUATIONS[heading](reader, commands, until)

"""A store on S3: runs that are killed at a request, objects of which a byte is changed."""

import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cpt_core.config import PipelineConfig
from tasks.verification import audit_run
from tests.conftest import REPOSITORY
from tests.faults.row import SEED, Row
from tests.faults.runs import Runs, verified
from tests.pipeline import packed
from tests.s3_chaos import config_of, contents_of, environment, local_contents, upload
from tests.s3_proxy import Request, s3_proxy
from tests.s3_server import S3Server, s3_server

PROGRAM = "from flows.command import main; main()"
ARTIFACTS = ("tokens/", "index/", "packed/")
BY_COMMAND_EVERY = 25
"""One in so many changed bytes is looked for by a process of its own, which takes seconds."""
LONGEST_RUN_SECONDS = 300


class Killer:
    """The choice of a proxy that kills a process at one of its requests that write.

    Attributes:
        process: whom.
        writes: how many such requests there were so far.
    """

    process: "subprocess.Popen[str]"

    def __init__(self, number: int, fault: str) -> None:
        """Kill at the request of this number, from 1; the server never sees it (``reset before``) or still does."""
        self._number, self._fault = number, fault
        self._lock = threading.Lock()
        self.writes = 0

    def __call__(self, request: Request) -> str | None:
        """The fault for this request."""
        if request.method in ("GET", "HEAD"):
            return None
        with self._lock:
            self.writes += 1
            is_meant = self.writes == self._number
        if not is_meant:
            return None
        self.process.kill()
        self.process.wait()
        return self._fault


class Scene:
    """A corpus on S3, and what a local run makes of it."""

    def __init__(self, server: S3Server, folder: Path, variables: dict[str, str]) -> None:
        """Upload the corpus.

        Args:
            server: has it under the folder's name.
            folder: empty.
            variables: for commands, beside those of the server.
        """
        corpus, self._tokenizer, expected = local_contents(folder / "local")
        self.expected = _artifacts(expected)
        self._server, self._folder = server, folder
        self._base = f"s3://{server.bucket}/{folder.name}"
        self._staging = folder / "staging"
        self._staging.mkdir()
        self._variables = variables | {"TMPDIR": str(self._staging)}
        upload(corpus, server.client(), f"{self._base}/corpus")

    def config(self, store: str) -> PipelineConfig:
        """For a store of this name."""
        return config_of(f"{self._base}/corpus", f"{self._base}/{store}", self._tokenizer)

    def objects(self, store: str) -> dict[str, Any]:
        """What a store holds of artifacts."""
        return _artifacts(contents_of(self._server.client(), f"{self._base}/{store}"))

    def prepare(self, store: str, killer: Killer) -> tuple[int, str]:
        """``cpt prepare``, killed or not: its status and output."""
        path = self._folder / "config.json"
        path.write_text(self.config(store).model_dump_json(), encoding="utf-8")
        with s3_proxy(self._server, killer) as proxy, environment(self._server.environment(proxy.endpoint)):
            killer.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "prepare", str(path)],
                cwd=self._folder,
                env=os.environ | self._variables | {"PYTHONPATH": str(REPOSITORY)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            output, _ = killer.process.communicate(timeout=LONGEST_RUN_SECONDS)
        return killer.process.returncode, output

    def problem_after(self, store: str) -> str:
        """What is wrong after a kill and after one more run, empty when nothing is; the store is removed then."""
        if not self.objects(store).items() <= self.expected.items():
            return "holds what an undisturbed run does not"
        status, output = self.prepare(store, Killer(0, ""))
        if status != 0:
            return f"the next run ended with status {status}: {output}"
        if self.objects(store) != self.expected:
            return f"other content: {sorted(self.objects(store).keys() ^ self.expected.keys())}"
        if staged := list(self._staging.iterdir()):
            return f"left in staging: {staged}"
        self.remove(store)
        return ""

    def remove(self, name: str) -> None:
        """A folder there."""
        self._server.client().rm(f"{self._base}/{name}", recursive=True)


def kills_on_s3(runs: Runs, times: int) -> Row:
    """SIGKILL of ``cpt prepare`` at a request that writes."""
    folder = runs.new_store()
    with s3_server(folder / "server") as server:
        return killed_on_s3(Scene(server, folder, {"CPT_HOME": str(runs.folder / "home")}), times)


def killed_on_s3(scene: Scene, times: int) -> Row:
    """Kill so many times, at requests that are drawn; a run that ended before does not count."""
    row = Row(
        "A real `cpt prepare` with source and store on S3, killed at a request that writes, before the server has it and"
        " after, in turn: no object that an undisturbed run does not make, and run again it ends with the artifacts of a"
        " local run and nothing in staging",
        "python -m tests.faults --only kills_on_s3",
    )
    counting = Killer(0, "")
    status, output = scene.prepare("undisturbed", counting)
    assert status == 0, output
    drawn, stores = random.Random(SEED), (f"killed-{number}" for number in itertools.count())
    while row.tried < times:
        store, at, fault = (
            next(stores),
            drawn.randint(1, counting.writes),
            ("reset before", "reset after")[row.tried % 2],
        )
        status, output = scene.prepare(store, Killer(at, fault))
        if status != 0:
            problem = "" if status < 0 else f"ended with status {status}: {output}"
            row.note(f"write {at} of {counting.writes}, {fault}", problem or scene.problem_after(store))
    return row


def flipped_objects(runs: Runs, times: int) -> Row:
    """Changed bytes, one at a time."""
    row = Row(
        "A changed byte of an object in a store on S3 is found by verification, in its artifact and in no other, and"
        f" after `--repair` the next run makes the bytes it had; one in {BY_COMMAND_EVERY} is found by the command"
        " `cpt verify`",
        "python -m tests.faults --only flipped_objects",
    )
    folder = runs.new_store()
    with s3_server(folder / "server") as server, environment(server.environment()):
        scene, client = Scene(server, folder, {}), server.client()
        config = scene.config("flipped")
        packed(config)
        path = folder / "flipped.json"
        path.write_text(config.model_dump_json(), encoding="utf-8")
        for number, (name, position, flip) in enumerate(
            itertools.islice(_flips(scene.expected, client, config), times)
        ):
            uri = f"{config.store_uri}/{name}"
            content = bytearray(client.cat_file(uri))
            content[position] ^= flip
            client.pipe_file(uri, bytes(content))
            problem = _problem_of_command(path, config, uri) if number % BY_COMMAND_EVERY == 0 else ""
            row.note(f"{name} byte {position} xor {flip}", problem or _problem_of_flip(scene, config, name))
    shutil.rmtree(folder)
    return row


def _flips(names: dict[str, Any], client: Any, config: PipelineConfig) -> Iterator[tuple[str, int, int]]:
    drawn = random.Random(SEED)
    while True:
        name = drawn.choice(sorted(names))
        yield name, drawn.randrange(client.size(f"{config.store_uri}/{name}")), drawn.randrange(1, 256)


def _problem_of_command(path: Path, config: PipelineConfig, uri: str) -> str:
    found = verified(path, config.store_uri)
    named = [uri.startswith(finding["uri"]) or finding["uri"].startswith(uri) for finding in found["findings"]]
    return "" if found["status"] == 1 and named and all(named) else f"`cpt verify` ended with {found}"


def _problem_of_flip(scene: Scene, config: PipelineConfig, name: str) -> str:
    audit = audit_run(config, repair=True)
    if {finding.folder for finding in audit.findings} != {name.rpartition("/")[0]}:
        return f"verification found {audit.findings}"
    packed(config)
    scene.remove("flipped/damaged")
    return "" if scene.objects("flipped") == scene.expected else "the next run did not repair it"


def _artifacts(contents: dict[str, Any]) -> dict[str, Any]:
    return {name: content for name, content in contents.items() if name.startswith(ARTIFACTS)}

"""The promises of the page, tried a few times each; ``make torture`` tries them at every step."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.faults import promises
from tests.faults.__main__ import BEGIN
from tests.faults.runs import contents, torn_files
from tests.faults.shim import Fault
from tests.faults.table import END, PAGE

SHORT = {
    promises.kills_at_random_moments: 12,
    promises.kills_at_every_step: 30,
    promises.failing_calls: 45,
    promises.flipped_bytes: 30,
    promises.runs_at_once: 2,
    promises.circumstances: 1,  # all of them are tests of their own
    promises.many_tiny_files: 2_000,
    promises.planted_lines: 50,
    promises.failing_requests: 2,
    promises.flipped_objects: 2,
}


@pytest.mark.parametrize("promise", SHORT, ids=lambda promise: promise.__name__)
def test_a_promise_holds(runs, promise):
    """Whatever is tried, nothing breaks it."""
    row = promise(runs, SHORT[promise])
    assert row.problems == []
    assert row.tried >= SHORT[promise] // 2


def test_all_promises_are_tried():
    """But for thousands of files through the command, which take minutes. Full disks are tried where a file system can be
    mounted; kills of the command and secrets with the tests of the flows, whose server they share.
    """
    elsewhere = {promises.full_disks, promises.kills_of_the_command, promises.kills_on_s3, promises.planted_secrets}
    assert {*SHORT, *elsewhere, promises.prepare_of_tiny_files} == {*promises.ALL}


def test_the_tests_themselves_notice_a_torn_file(runs):
    """A file under a final name that was cut short is seen, so that the promise is worth something."""
    store = runs.new_store()
    runs.run(store)
    path = next(store.glob("packed/*/rows-*.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    assert torn_files(store) == [str(path.relative_to(store))]
    assert runs.problem_after(store).startswith("visible and torn")
    assert contents(store) != runs.reference


def test_a_terminated_command_leaves_nothing_behind():
    """The folder in memory goes with it."""
    command = [sys.executable, "-m", "tests.faults", "--only", "kills_at_random_moments"]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        folder = re.fullmatch(r"kills_at_random_moments in (.*) \.\.\.\n", process.stderr.readline())[1]
        assert Path(folder).is_dir()
        process.terminate()
        process.communicate(timeout=300)
    assert process.returncode == 143
    assert not Path(folder).exists()


def test_the_kill_strikes_where_it_is_aimed(runs):
    """Killed right before its record is linked, an artifact has its data and no record; right after, it has both."""
    durable = [step for step in runs.steps if step.split()[0] in promises.DURABLE]
    step = next(
        number
        for number, what in enumerate(durable)
        if what.startswith("link /tokens/") and "/artifact.json from " in what
    )
    for kind, records in (("kill_before", 0), ("kill_after", 1)):
        store = runs.new_store()
        assert runs.run(store, Fault(step, kind, only=promises.DURABLE)).status == "killed"
        assert len(list(store.glob("tokens/*/tokens-*.parquet"))) == 1
        assert len(list(store.glob("tokens/*/artifact.json"))) == records
        assert len(list((store / ".tmp").iterdir())) > 0


def test_a_power_cut_finds_the_old_state_or_the_new_one(runs):
    """Nothing gets a name before its bytes are durable, no record before the names of its data and its folder are."""
    steps = [tuple(step.partition(" from ")[0].split(" ", 1)) for step in runs.steps]
    names = [number for number, (kind, _) in enumerate(steps) if kind == "link"]
    assert len(names) == len([name for name in runs.reference if not name.startswith(("inputs", "tokenizers"))])
    for number in names:
        path = steps[number][1]
        folder, _, name = path.rpartition("/")
        stage = folder.rpartition("/")[0]
        staged = runs.steps[number].partition(" from ")[2]
        earlier = steps[:number]
        assert ("fsync", staged) in earlier, "the bytes that get the name"
        assert ("write", staged) not in earlier[earlier.index(("fsync", staged)) :]
        assert ("fsync", "") in earlier[earlier.index(("mkdir", stage)) :], "the stage's name in the store"
        assert ("fsync", stage) in earlier[earlier.index(("mkdir", folder)) :], "the folder's name in the stage"
        assert ("fsync", folder) in steps[number + 1 : number + 4], "the file's own name"
        if name == "artifact.json":
            data = [n for n in names if steps[n][1].startswith(f"{folder}/") and n != number]
            assert data
            assert ("fsync", folder) in steps[max(data) : number], "the names of the data come before the record"


def test_the_page_is_the_commands_own(runs):
    """The figures stand between the marks, a line for each promise, with commands that exist."""
    block = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    commands = re.findall(r"`python -m tests\.faults --only (\w+)`", block)
    assert commands == [promise.__name__ for promise in promises.ALL]


def test_every_row_of_the_page_held():
    """Commands write what they find, also when something broke; then the page is not to be published."""
    rows = re.findall(r"^\| (.*) \| ([\d,]+) \| ([\d,]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > len(promises.ALL)
    assert [row for row in rows if row[1] != row[2] or row[1] == "0"] == []


def test_make_torture_runs_both_parts_and_fails_with_either(tmp_path):
    """The trainings run although the data stages broke a promise; a failure of one part is one of the whole."""
    said = tmp_path / "said"
    for failing, status in (("tests.faults", 2), ("tests.faults.trainings", 2), ("none", 0)):
        said.write_text("")
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\necho "$2" >> {said}\n[ "$2" != {failing} ]\n')
        python.chmod(0o755)
        made = subprocess.run(
            ["make", "-C", REPOSITORY, "-o", "setup", "torture", f"BIN={tmp_path}"], capture_output=True
        )
        assert (made.returncode, said.read_text()) == (status, "tests.faults\ntests.faults.trainings\n")

"""Each promise as a function that tries to break it: rows of the table that ``python -m tests.faults`` prints.

To add a promise, write a function that takes ``Runs`` and how often to try, returns a ``Row``, and put it in ``ALL``.
"""

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.determinism import ORDINARY, VARIATIONS, contents_under
from tests.determinism import write_scene as write_varied_scene
from tests.faults.commands import GATES, Command, kills_at_gates, kills_at_random
from tests.faults.judging import (
    OUT_OF_SPACE,
    problem_of_command,
    problem_of_failure,
    problem_of_flip,
    problem_of_overlap,
)
from tests.faults.object_stores import flipped_objects, kills_on_s3
from tests.faults.row import SEED, Row
from tests.faults.runs import Runs, contents
from tests.faults.secrets import COMMANDS, planted_secrets
from tests.faults.shim import DURABLE, TAKES_SPACE, Fault
from tests.faults.small_disks import full_disks
from tests.faults.tiny_files import OPEN_FILES, OPEN_FILES_OF_A_COMMAND, discovered, prepared
from tests.planted_lines import LINES_FOR_EACH, MALFORMED, SortedLines, found, plant
from tests.planted_secrets import SECRETS
from tests.s3_chaos import FAULTY_FRACTION, LEAST_FAULTY_FRACTION, WRITERS, disturbed, local_contents
from tests.s3_server import s3_server

ANYWHERE = ("EIO", "EINTR")
"""Errors that every call can give."""
GROWN_BYTES_OF_A_FILE = 20_000
"""What all processes of a run may remember of a file: 1 GB is enough for 50,000."""
BY_COMMAND_EVERY = 25
"""One in so many changed bytes is looked for by a process of its own, which takes seconds."""
_REFUSED = r"link .*: FileExistsError"
_COMMITS = r"link (/.*/artifact\.json) from [^:]*"
"""Steps that were refused end with a colon and the error."""
STORES_AT_ONCE = 4
"""Of those whose runs are disturbed by the same proxy."""


def kills_at_random_moments(runs: Runs, times: int) -> Row:
    """SIGKILL somewhere in a run; one that ended before does not count, and another is tried."""
    row = Row(
        "A run killed at a random moment and started again gives the bytes of an undisturbed one (runs that were over"
        " before they were killed are not counted)",
        "python -m tests.faults --only kills_at_random_moments",
    )
    drawn = random.Random(SEED)
    while row.tried < times:
        store, moment = runs.new_store(), drawn.uniform(0.0, runs.seconds)
        outcome = runs.run(store, kill_after_seconds=moment)
        if outcome.status == "done":
            shutil.rmtree(store)
            continue
        problem = "" if outcome.status == "killed" else f"was not killed: {outcome.status} {outcome.message}"
        row.note(f"after {moment:.4f} s", problem or runs.problem_after(store))
    return row


def kills_at_every_step(runs: Runs, times: int) -> Row:
    """SIGKILL before and after a call that changes the disk."""
    row = Row(
        "The same for a kill right before and right after every create, write, fsync, mkdir, link, rename and unlink",
        "python -m tests.faults --only kills_at_every_step",
    )
    durable = sum(step.split()[0] in DURABLE for step in runs.steps)
    faults = [Fault(step, kind, only=DURABLE) for step in range(durable) for kind in ("kill_before", "kill_after")]
    for fault in _spread(faults, times):
        store = runs.new_store()
        outcome = runs.run(store, fault)
        problem = "" if outcome.status == "killed" else f"was not killed: {outcome.status} {outcome.message}"
        row.note(f"{fault.kind} {fault.step}", problem or runs.problem_after(store))
    return row


def kills_of_the_command(runs: Runs, times: int) -> Row:
    """SIGKILL of the command alone, or of all its processes: at every gate, then at random moments."""
    home = {"CPT_HOME": str(runs.folder / "home")}
    Command(runs.config, runs.new_store(), home)  # the first run in a home builds a database
    return killed_commands(Command(runs.config, runs.new_store(), home), runs.new_store(), times)


def killed_commands(command: Command, folder: Path, times: int) -> Row:
    """Kill so many times.

    Args:
        command: is killed.
        folder: for its stores.
        times: at gates first, all of them on one store, on which each run goes on.
    """
    row = Row(
        "A real `cpt prepare` (Prefect server, claims, worker processes) killed alone or with all its processes, at"
        f" {len(GATES)} gates from the first token file to the last record and at random moments: no torn file, no process"
        " that stays, and run again it ends with the bytes of an undisturbed one and nothing in staging",
        "python -m tests.faults --only kills_of_the_command",
    )
    store = folder / "at gates"
    for kill in kills_at_gates()[:times]:
        problem = command.problem_of(store, kill)
        row.note(str(kill), "ended before it was killed" if problem is None else problem)
    if problem := command.problem_in_the_end(store):
        row.problems.append(f"after the gates: {problem}")
    for number, kill in enumerate(kills_at_random(command.seconds, SEED)):
        if row.tried >= times:
            return row
        store = folder / f"at random {number}"
        if (problem := command.problem_of(store, kill)) is not None:
            row.note(str(kill), problem or command.problem_in_the_end(store))
        shutil.rmtree(store)
    return row


def failing_calls(runs: Runs, times: int) -> Row:
    """An error of the system, or a short write, at every call."""
    row = Row(
        "A failing call, or a short write, at any step, in the store, in the corpus or in the tokenizer's folder, ends in "
        "success or in one clear line, never in a wrong result; the next run completes",
        "python -m tests.faults --only failing_calls",
    )
    for fault in _spread(list(_failures(runs)), times):
        store = runs.new_store()
        outcome = runs.run(store, fault)
        where = f"{fault.kind}{' from there on' if fault.lasts else ''} at {fault.step}, {runs.steps[fault.step]}"
        problem = problem_of_failure(outcome.status, outcome.message, fault, runs.steps[fault.step])
        if outcome.status == "done" and contents(store) != runs.reference:
            problem = "was no success, but said so"
        row.note(where, problem or runs.problem_after(store))
    return row


def flipped_bytes(runs: Runs, times: int) -> Row:
    """One byte of a committed file is another."""
    row = Row(
        "A changed byte of a data file or a record is found by verification, and the next run with `verify: full` "
        f"repairs it to the bytes it had; one in {BY_COMMAND_EVERY} is found by the command `cpt verify`, set aside by "
        "its `--repair`, and repaired by the next run with `verify: size`, the default",
        "python -m tests.faults --only flipped_bytes",
    )
    store, drawn = runs.new_store(), random.Random(SEED)
    runs.run(store)
    for number in range(times):
        path = drawn.choice([store / name for name in runs.reference if not name.startswith(("inputs", "tokenizers"))])
        position, flip = drawn.randrange(path.stat().st_size), drawn.randrange(1, 256)
        _flip(path, position, flip)
        by_command = number % BY_COMMAND_EVERY == 0
        problem = (problem_of_command if by_command else problem_of_flip)(runs, store, path)
        row.note(f"{path.relative_to(store)} byte {position} xor {flip}", problem)
    shutil.rmtree(store)
    return row


def runs_at_once(runs: Runs, times: int, together: int = 10) -> Row:
    """Rivals on one store."""
    row = Row(
        f"{together} runs on one store, all of them at work at the same time, all succeed, and each artifact is committed "
        "once",
        "python -m tests.faults --only runs_at_once",
    )
    refused = 0
    for number in range(times):
        store = runs.new_store()
        outcomes = runs.run_together(store, [()] * together, is_watched=True)
        failed = [outcome.message for outcome in outcomes if outcome.status != "done"]
        commits = [re.fullmatch(_COMMITS, step) for outcome in outcomes for step in outcome.steps]
        committed = Counter(commit[1] for commit in commits if commit)
        twice = [name for name, count in committed.items() if count > 1]
        other = contents(store) != runs.reference
        problem = (
            f"failed: {failed}, committed twice: {twice}, other content: {other}" if failed or twice or other else ""
        )
        refused += sum(re.fullmatch(_REFUSED, step) is not None for outcome in outcomes for step in outcome.steps)
        row.note(f"round {number}", problem or problem_of_overlap(outcomes) or runs.problem_after(store))
    row.promise += f" ({refused:,} times a run came second with a file)"
    return row


def circumstances(runs: Runs, times: int) -> Row:
    """Workers, listings, locales, engines, processors: what must not matter."""
    row = Row(
        "The same bytes for 1, 2 and 8 workers, threads and processes, both engines, shuffled listings, other hash "
        "seeds, locales, time zones, umasks, paths, and without vector units",
        "python -m tests.faults --only circumstances",
    )
    folder = runs.new_store()
    scene = write_varied_scene(folder / "scene")
    reference = contents_under(ORDINARY, scene, folder / "reference")
    for number, variation in enumerate(VARIATIONS[:times]):
        config = write_varied_scene(folder / "moved", backwards=True) if variation.elsewhere else scene
        found = contents_under(variation, config, folder / f"store {number}")
        differing = sorted(name for name in {*found, *reference} if found.get(name) != reference.get(name))
        row.note(variation.name, f"other content: {differing}" if differing else "")
    shutil.rmtree(folder)
    return row


def many_tiny_files(runs: Runs, times: int) -> Row:
    """As many files as times; each that is found counts as tried."""
    row = Row(
        f"Each of so many tiny files is found and identified in less than 1 GB and with {OPEN_FILES} open files",
        "python -m tests.faults --only many_tiny_files",
    )
    folder = runs.new_store()
    found = discovered(folder, times)
    shutil.rmtree(folder)
    row.tried = found.get("shards", 0)
    if row.tried != times or found["rss_bytes"] >= 10**9:
        row.note("discovery", str(found))
    return row


def prepare_of_tiny_files(runs: Runs, times: int) -> Row:
    """As many files as times, and a quarter of them: what four times as many cost."""
    folder, home = runs.new_store(), runs.folder / "home"
    peaks = [prepared(folder / str(number), number, home) for number in (1, times // 4, times)][1:]
    few, many = peaks
    grown = (many.rss_bytes - few.rss_bytes) / (many.files - few.files)
    row = Row(
        f"`cpt prepare` of so many tiny files needs at most {OPEN_FILES_OF_A_COMMAND} open files in a process and"
        f" {GROWN_BYTES_OF_A_FILE // 1000} KB of memory for one file more, worker processes and server included ("
        + "; ".join(f"{peak.files:,} files: {peak.rss_bytes >> 20} MB, {peak.open_files} open files" for peak in peaks)
        + ")",
        "python -m tests.faults --only prepare_of_tiny_files",
        tried=times,
    )
    if grown > GROWN_BYTES_OF_A_FILE:
        row.problems.append(f"{grown:,.0f} bytes for one file more: {peaks}")
    shutil.rmtree(folder)
    return row


def planted_lines(runs: Runs, times: int) -> Row:
    """So many malformed lines in a corpus of a hundred times as many."""
    row = Row(
        f"Each malformed line, of {len(MALFORMED)} kinds, among {LINES_FOR_EACH} times as many is quarantined with its "
        "file, line, byte offset, reason and bytes, every other line is kept, and documents in are documents out and "
        "quarantined",
        "python -m tests.faults --only planted_lines",
    )
    folder = runs.new_store()
    config, planted = plant(folder, times)
    seen = found(config)
    for line in planted.rejected:
        row.note(str(line), "" if line in seen.rejected else "is not in the quarantine")
    if others := _differences(planted, seen):
        row.note("the others", others)
    shutil.rmtree(folder)
    return row


def failing_requests(runs: Runs, times: int) -> Row:
    """An object store, and a network between."""
    row = Row(
        f"Source and store on S3 while {FAULTY_FRACTION:.0%} of all requests fail (500, 503, resets before and after "
        f"the write, cut bodies, timeouts), {WRITERS} runs at once: the artifacts of an undisturbed local run, each "
        "committed once",
        "python -m tests.faults --only failing_requests",
    )
    folder, faults, requests = runs.new_store(), 0, 0
    corpus, tokenizer, expected = local_contents(folder / "local")
    with s3_server(folder / "server") as server:
        for stores in _batches([f"{number:03d}" for number in range(times)], STORES_AT_ONCE):
            problems, proxy = disturbed(server, corpus, tokenizer, expected, stores)
            faults, requests = faults + proxy.faults, requests + proxy.counts.total()
            is_quiet = proxy.faults < LEAST_FAULTY_FRACTION * proxy.counts.total()
            few = f"only {proxy.faults} of {proxy.counts.total()} requests failed" if is_quiet else ""
            for store, problem in problems.items():
                row.note(f"store {store}", problem or few)
    row.promise += f" ({faults:,} faults in {requests:,} requests)"
    shutil.rmtree(folder)
    return row


ALL: dict[Callable[[Runs, int], Row], int] = {
    kills_at_random_moments: 200,
    kills_at_every_step: 10_000,
    kills_of_the_command: len(GATES) + 200,
    failing_calls: 100_000,
    flipped_bytes: 1_000,
    runs_at_once: 20,
    circumstances: len(VARIATIONS),
    many_tiny_files: 100_000,
    prepare_of_tiny_files: 100_000,
    planted_lines: 1_000,
    failing_requests: 32,
    full_disks: 100,
    flipped_objects: 50,
    kills_on_s3: 8,
    planted_secrets: len(COMMANDS) * len(SECRETS),
}
"""How often the long form tries each; more than there are steps means all of them."""


def _spread(faults: list[Fault], times: int) -> list[Fault]:
    """So many of them, spread evenly."""
    stride = max(1, -(-len(faults) // times))
    return faults[::stride]


def _batches(names: list[str], size: int) -> Iterator[list[str]]:
    """In order."""
    return (names[first : first + size] for first in range(0, len(names), size))


def _differences(planted: SortedLines, seen: SortedLines) -> str:
    """Lines that are rejected and should not be, or are not kept as they are."""
    wrong = [line for line in seen.rejected if line not in planted.rejected]
    if wrong:
        return f"rejected and not planted: {wrong[:3]}"
    if seen.kept != planted.kept:
        return f"{len(seen.kept):,} texts are kept, {len(planted.kept):,} were written; or they differ"
    if seen.documents_in != len(seen.kept) + len(seen.rejected):
        return f"{seen.documents_in:,} documents in are {len(seen.kept):,} out and {len(seen.rejected):,} quarantined"
    return ""


def _failures(runs: Runs) -> Iterator[Fault]:
    for step, what in enumerate(runs.steps):
        kind = what.split()[0]
        yield from (Fault(step, error) for error in ANYWHERE)
        if kind in TAKES_SPACE:
            yield from (Fault(step, error) for error in OUT_OF_SPACE)
            yield Fault(step, "ENOSPC", lasts=True)
        if kind == "write":
            yield Fault(step, "short")


def _flip(path: Path, position: int, flip: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ flip]))

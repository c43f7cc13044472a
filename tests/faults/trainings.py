"""A real training of two ranks, killed again and again: ``python -m tests.faults.trainings``.

Prints a table as ``python -m tests.faults`` does; ``--times N`` at most N attempts, ``--write`` puts the table into
docs/promises.md. Exit code 1 when the promise did not hold.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import LlamaConfig

from cpt_core.artifacts import Draft, commit
from cpt_core.schemas import PACKED_SHARD
from cpt_core.storage import Store
from tests.conftest import REPOSITORY, save_byte_tokenizer
from tests.cpt_core.training.conftest import ROW_LEN_TOKENS, random_rows
from tests.faults.row import SEED, Row
from tests.faults.table import print_problems, table, write_block, write_rows

BEGIN = "<!-- begin: trainings, written by `make torture` -->"
TIMES, TIMES_WITH_OTHER_RANKS = 40, 20
RANKS_AND_ZERO_STAGES = ((2, 3), (1, 1), (4, 2), (1, 0), (4, 3), (2, 0))
"""Of one attempt after the other, where these change."""
ROUNDING = 1e-4
"""How far a loss or a norm may be from that of another number of ranks, which adds in another order."""
STEPS_BETWEEN_KILLS = 12
"""At most so many steps are done in one attempt, about."""
CALLS_OF_SAVES = {"write": (100, 100), "removal": (24,), "fsync": (24, 6), "creation": (21, 6), "rename": (3,)}
"""Calls of each kind of rank 0 and of rank 1 in the first two or three saves of an attempt, about."""

PROGRAM = """
import json, sys
from cpt_core.artifacts import read_record
from cpt_core.config import TrainingConfig
from cpt_core.storage import Store
from cpt_core.training import train_model
told = json.loads(sys.argv[1])
store = Store(told["store"])
trained = train_model(
    [read_record(store, told["packed"])], TrainingConfig(**told["config"]), store=store, name="tiny",
    tokenizer_uri=told["tokenizer"],
)
print(json.dumps(trained.counts))
"""


@dataclass(frozen=True)
class Kill:
    """Whom to kill, and when."""

    whom: str
    """``rank 0``, ``rank 1``, ``the launcher`` or ``everything``."""
    steps: int = 0
    """As soon as the metrics have so many steps more than when it was started."""
    call: int = 0
    """In this call of one kind on files of its checkpoints, counted from 1; ranks only."""
    kind: str = ""
    """``write``, ``creation``, ``fsync``, ``rename`` or ``removal``."""

    def __str__(self) -> str:
        return f"{self.whom} killed " + (
            f"in {self.kind} {self.call} of its saves" if self.call else f"after {self.steps} steps"
        )


class Training:
    """A training that is killed, and one of the same model on the same rows that is not."""

    def __init__(self, folder: Path, num_kills: int, rounding: float = 0.0) -> None:
        self._folder = folder
        self._rounding = rounding
        self.largest_difference = 0.0
        self._steps = STEPS_BETWEEN_KILLS * (num_kills + 1)
        save_byte_tokenizer(folder / "tokenizer")
        sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 50, "num_hidden_layers": 2}
        LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2).save_pretrained(folder / "model")
        self._undisturbed, self._killed = folder / "undisturbed", folder / "killed"
        self._run(self._undisturbed)

    def problem_of(self, kill: Kill, num_ranks: int = 2, zero_stage: int = 2) -> str:
        """Start or go on, and kill; what is wrong with the steps that were done, empty when nothing is."""
        target = len(_metrics_of(self._killed)) + kill.steps
        process = self._start(self._killed, kill, num_ranks, zero_stage)
        try:
            while not kill.call and process.poll() is None and len(_metrics_of(self._killed)) < target:
                time.sleep(0.01)
            if not kill.call:
                self._strike(process, kill.whom)
            output, _ = process.communicate(timeout=600)
        finally:
            self._strike(process, "everything")  # ranks outlive their launcher
        if process.returncode == 0:
            return f"ended before it was killed: {output}"
        return self._problem_of_metrics()

    def problem_in_the_end(self) -> str:
        """Go on to the end; what is other than in the undisturbed training, empty when nothing is."""
        self._run(self._killed)
        found, expected = _result_of(self._killed), _result_of(self._undisturbed)
        if self._rounding:  # some other bits of the weights come with other bits of the losses
            del found["weights"]
        others = [f"another {name}" for name in found if found[name] != expected[name]]
        return "; ".join(filter(None, [self._problem_of_metrics(), *others]))

    def _problem_of_metrics(self) -> str:
        found = _metrics_of(self._killed)
        expected = _metrics_of(self._undisturbed)[: len(found)]
        if [step for step, *_ in found] != [step for step, *_ in expected]:
            return "other steps"
        pairs = [pair for one, other in zip(found, expected, strict=True) for pair in zip(one, other, strict=True)]
        difference = max((abs(one - other) for one, other in pairs), default=0.0)
        self.largest_difference = max(self.largest_difference, difference)
        return "" if difference <= self._rounding else f"a loss or gradient that differs by {difference:.1e}"

    def _strike(self, process: "subprocess.Popen[str]", whom: str) -> None:
        """SIGKILL; everything is gone when this returns, if that was meant."""
        if not whom.startswith("rank"):
            process.kill()
        while not whom.startswith("the launcher") and (found := _processes_of(self._killed, whom)):
            for member in found:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(found, timeout=10)

    def _run(self, store: Path) -> None:
        process = self._start(store)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output

    def _start(
        self, store: Path, kill: Kill | None = None, num_ranks: int = 2, zero_stage: int = 2
    ) -> "subprocess.Popen[str]":
        config = {
            "model": str(self._folder / "model"), "max_steps": self._steps, "global_batch_rows": 4, "micro_batch_rows": 1,
            "learning_rate": 1e-2, "warmup_steps": 0, "precision": "fp32", "zero_stage": zero_stage, "save_steps": 3,
            "device": "cpu", "launcher": {"processes_per_node": num_ranks},
        }  # fmt: skip
        told = {"store": str(store), "packed": _commit_rows(store), "config": config}
        search_path, environment = [str(REPOSITORY)], {}
        if kill and kill.call:
            search_path.insert(0, str(Path(__file__).parent / "killer"))
            environment["CPT_KILL"] = f"{kill.whom.removeprefix('rank ')} {kill.call} {kill.kind}"
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(told | {"tokenizer": str(self._folder / "tokenizer")})],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(search_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def kills_of_a_training(times: int) -> Row:
    """SIGKILL of a rank, of the launcher or of everything, between steps or inside a save."""
    row = Row(
        "One training, killed so many times (half of them a rank inside a save: in the middle of a write, before a file"
        " or folder is made, an fsync, the rename, a removal of an old checkpoint; half of them a rank, its launcher,"
        " everything between steps) and started again each time, has the loss of every step, the gradients and the weights of an undisturbed one",
        "python -m tests.faults.trainings --only kills_of_a_training",
    )
    with tempfile.TemporaryDirectory(prefix="cpt-training-") as folder:
        training = Training(Path(folder), times)
        for kill in draw_kills(times):
            print(f"{kill} ...", file=sys.stderr, flush=True)
            row.note(str(kill), training.problem_of(kill))
        if problem := training.problem_in_the_end():
            row.problems.append(f"in the end: {problem}")
    return row


def kills_between_other_ranks(times: int) -> Row:
    """SIGKILL of everything between steps; what is started then has other numbers of ranks and other ZeRO stages."""
    row = Row("", "python -m tests.faults.trainings --only kills_between_other_ranks")
    drawn = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="cpt-training-") as folder:
        training = Training(Path(folder), times, ROUNDING)
        for number in range(times):
            kill = Kill("everything", steps=drawn.randint(1, STEPS_BETWEEN_KILLS - 4))
            num_ranks, zero_stage = RANKS_AND_ZERO_STAGES[number % len(RANKS_AND_ZERO_STAGES)]
            what = f"{num_ranks} ranks, ZeRO {zero_stage}, {kill}"
            print(f"{what} ...", file=sys.stderr, flush=True)
            row.note(what, training.problem_of(kill, num_ranks, zero_stage))
        if problem := training.problem_in_the_end():
            row.problems.append(f"in the end: {problem}")
    row.promise = (
        "One training, all of its processes killed so many times and started again each time with another number of"
        " ranks (2, 1, 4) and another ZeRO stage (0 to 3), has the loss and the gradient's norm of every step of an"
        f" undisturbed one, but for rounding (they differ by at most {training.largest_difference:.0e}), each step once"
    )
    return row


ROWS = {kills_of_a_training: TIMES, kills_between_other_ranks: TIMES_WITH_OTHER_RANKS}


def draw_kills(times: int) -> list[Kill]:
    """Half of them inside saves, in calls of each kind in turn, of both ranks; the others in turn after some steps."""
    drawn = random.Random(SEED)
    kills = []
    for number in range(times):
        if number % 2 == 0:
            kind, calls = list(CALLS_OF_SAVES.items())[number // 2 % len(CALLS_OF_SAVES)]
            rank = number // (2 * len(CALLS_OF_SAVES)) % len(calls)
            kills.append(Kill(f"rank {rank}", call=drawn.randint(1, calls[rank]), kind=kind))
        else:
            whom = ("everything", "the launcher", "rank 0", "everything", "rank 1")[number // 2 % 5]
            kills.append(Kill(whom, steps=drawn.randint(1, STEPS_BETWEEN_KILLS - 4)))
    return kills


def _commit_rows(store_folder: Path) -> str:
    store = Store(str(store_folder))
    counts = {"source": "numbers", "split": "train", "rows": 9, "row_len_tokens": ROW_LEN_TOKENS}
    with store.staging() as folder:
        pq.write_table(pa.Table.from_pylist(random_rows(9, 0), schema=PACKED_SHARD), folder / "rows.parquet")
        draft = Draft("packing", "numbers-train", {"rows": 9}, {"rows": folder / "rows.parquet"}, counts, 0.0)
        return commit(store, draft).folder


def _processes_of(store: Path, whom: str) -> list[psutil.Process]:
    """A rank, or every rank with its guard."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command, rank = process.cmdline(), process.environ().get("RANK")
            is_meant = whom == "everything" or ("cpt_core.launching.rank" in command and whom == f"rank {rank}")
            if is_meant and any(argument.startswith(f"{store}/") for argument in command):
                found.append(process)
    return found


def _metrics_of(store: Path) -> list[tuple[int, float, float]]:
    """Step, loss and norm of the gradient of every step so far."""
    paths = list(store.glob("training_runs/*/metrics.jsonl"))
    lines = (
        [json.loads(line) for line in paths[0].read_bytes().splitlines(True) if line.endswith(b"\n")] if paths else []
    )
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def _result_of(store: Path) -> dict[str, object]:
    (folder,) = store.glob("training_runs/*")
    return {
        "weights": (folder / "model" / "model.safetensors").read_bytes(),
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }


def main() -> int:
    """Try, print, and say by the exit code whether the promises held."""
    parser = argparse.ArgumentParser(description="Try to break the promises of training.")
    parser.add_argument("--times", type=int, default=TIMES, help="at most so many attempts")
    parser.add_argument("--only", choices=[row.__name__ for row in ROWS], help="this promise alone")
    parser.add_argument("--write", action="store_true", help="write the table into docs/promises.md")
    arguments = parser.parse_args()
    started = time.perf_counter()
    rows = [row(min(times, arguments.times)) for row, times in ROWS.items() if arguments.only in (None, row.__name__)]
    printed = table(rows, time.perf_counter() - started)
    print(printed)
    print_problems(rows)
    if arguments.write and arguments.only:
        write_rows(BEGIN, rows)
    elif arguments.write:
        write_block(BEGIN, printed)
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main())

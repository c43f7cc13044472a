"""Cut off and going on: a killed rank, damaged checkpoints, other numbers of processes, another recipe, a full disk."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cpt_core.artifacts import Artifact
from cpt_core.errors import ConfigError, JobFailedError
from cpt_core.packed_rows import PackedRows, batch_of
from cpt_core.storage import Store
from cpt_core.training.order import rows_of_step
from tasks.export import export
from tests.cpt_core.training.interrupted import STEPS, Training, gated, losses_in
from tests.faults.test_disks import small_disk

ROOM_FOR_ALL_BUT_A_CHECKPOINT = 160 << 10
THE_LAST_FAILED = (
    r"^the last checkpoint step-0000012 could not be saved: No space left on device; [\d,]+ bytes are free at"
    r" \S+/checkpoints; there is no older one; run the same command again when that is mended$"
)


@pytest.fixture
def new_training(
    tmp_path: Path, config_only_folder: Path, tokenizer_folder: Path, commit_rows: Any
) -> Callable[[str], Training]:
    """Trainings, each in a store of its own."""

    def make(name: str) -> Training:
        return Training(Store(str(tmp_path / name)), config_only_folder, tokenizer_folder, commit_rows)

    return make


@pytest.fixture(scope="module")
def dropout_folder(tmp_path_factory: pytest.TempPathFactory, llama_config: LlamaConfig) -> Path:
    """A base model that leaves out a third of its attention at random, and is only a configuration."""
    folder = tmp_path_factory.mktemp("dropout")
    LlamaConfig(**llama_config.to_dict() | {"attention_dropout": 0.3}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, config_only_folder: Path, tokenizer_folder: Path, commit_rows: Any
) -> tuple[Training, Artifact]:
    """A training that nothing happened to."""
    store = Store(str(tmp_path_factory.mktemp("undisturbed")))
    training = Training(store, config_only_folder, tokenizer_folder, commit_rows)
    return training, training.run()


def _kill_rank_1(_: dict[str, Any]) -> None:
    for process in psutil.Process().children():
        with suppress(psutil.Error):  # it is gone since an earlier call
            if process.environ().get("RANK") == "1":
                process.kill()


def _change_one_byte(checkpoint: Path) -> None:
    largest = checkpoint / "rank-00000.safetensors"
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_resume_is_exact(undisturbed: tuple[Training, Artifact], new_training: Callable[[str], Training]) -> None:
    """A killed rank is named; the run goes on from the newest whole checkpoint with bit-equal losses and weights."""
    reference, trained = undisturbed
    training = new_training("killed")
    with pytest.raises(JobFailedError, match=r"rank 1 on node 0 ended with signal 9 \(SIGKILL\)"):
        training.run(lambda line: _kill_rank_1(line) if line["step"] >= 6 else None)
    before, newest = training.checkpoints()
    _change_one_byte(newest)
    notes: list[str] = []
    resumed = training.run(lambda line: notes.extend(line.get("notes", ())))
    assert resumed.counts["resumed_from_step"] == int(before.name.removeprefix("step-")) > 0
    assert notes == [
        f"{newest} is damaged and is passed over for the one before it: the bytes of rank-00000.safetensors are not"
        " those of its sha256"
    ]
    assert training.losses() == reference.losses()
    assert [step for step, _ in training.losses()] == list(range(1, STEPS + 1))
    for name in ("first_loss", "final_loss", "tokens_seen", "steps"):
        assert resumed.counts[name] == trained.counts[name]
    assert [folder.name for folder in training.checkpoints()] == ["step-0000010", "step-0000012"]
    assert not Path(resumed.counts["hf_model_uri"], "generation_config.json").exists()
    exported = Path(resumed.counts["hf_model_uri"], "model.safetensors")
    assert exported.read_bytes() == Path(trained.counts["hf_model_uri"], exported.name).read_bytes()


OFFLOADED = {
    "zero_optimization": {"offload_optimizer": {"device": "cpu"}},
    "zero_force_ds_cpu_optimizer": False,
}


@pytest.mark.parametrize(
    ("zero_stage", "deepspeed"),
    [
        pytest.param(0, {}, marks=pytest.mark.matrix),
        (1, {}),
        pytest.param(2, {}, marks=pytest.mark.matrix),
        (3, {}),
        pytest.param(1, OFFLOADED, marks=pytest.mark.matrix),
        (2, OFFLOADED),
        pytest.param(3, OFFLOADED, marks=pytest.mark.matrix),
    ],
)
def test_resume_is_exact_in_bf16(
    new_training: Callable[[str], Training],
    dropout_folder: Path,
    zero_stage: int,
    deepspeed: dict[str, Any],
) -> None:
    """In bf16 DeepSpeed keeps the state in other objects at each stage: losses, weights, moments go on bit by bit; so do
    the random numbers of a model that needs them at every step.
    """
    options = {
        "model": str(dropout_folder),
        "precision": "bf16",
        "zero_stage": zero_stage,
        "deepspeed": deepspeed,
        "max_steps": 30,
    }
    undisturbed, killed = new_training("undisturbed"), new_training("killed")
    undisturbed.run(**options)
    kill_once = iter([_kill_rank_1])

    def kill(line: dict[str, Any]) -> None:
        if line["step"] >= 3:
            next(kill_once, lambda _: None)(line)

    resumed = killed.run(kill, launcher={"processes_per_node": 2, "max_restarts": 1}, **options)
    assert 2 <= resumed.counts["resumed_from_step"] < 30
    assert killed.losses() == undisturbed.losses()
    for rank in range(2):
        first, second = (of.checkpoints()[-1] / f"rank-{rank:05}.safetensors" for of in (undisturbed, killed))
        assert first.read_bytes() == second.read_bytes()


def test_resume_with_other_numbers_of_ranks(
    undisturbed: tuple[Training, Artifact], new_training: Callable[[str], Training], tmp_path: Path
) -> None:
    """2 ranks with ZeRO-3, then 1 with ZeRO-1, then 4 with ZeRO-2: the same global batches, the same losses."""
    reference, trained = undisturbed
    training = new_training("elastic")
    training.run_until(5, processes=2, zero_stage=3)
    gate = tmp_path / "steps"
    gate.write_text("9", encoding="utf-8")
    training.run_until(9, zero_stage=1, launcher={"processes_per_node": 1, "environment": gated(tmp_path)})
    first_steps = training.checkpoints()
    resumed = training.run(processes=4, zero_stage=2)
    assert first_steps[-1].name in ("step-0000006", "step-0000008")  # the last one may have been cut off
    assert 4 <= resumed.counts["resumed_from_step"] < STEPS
    attempts = [json.loads(line)["attempt"] for line in (training.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(set(attempts)) == 3
    assert training.losses() == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in reference.losses()]
    assert resumed.counts["tokens_seen"] == trained.counts["tokens_seen"]
    with pytest.raises(ValueError, match=r"global_batch_rows is 4, expected a multiple of .* = 1 x 3 x 1 = 3"):
        training.run(processes=3)


def test_an_exported_checkpoint_computes_what_training_computed(
    undisturbed: tuple[Training, Artifact], commit_rows: Any, tmp_path: Path
) -> None:
    """The folder of step 10 has the loss that step 11 began with."""
    training, _ = undisturbed
    export(training.folder, 10, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    rows = PackedRows(training.store, [commit_rows(training.store, 7)])
    numbers = rows_of_step(10, num_rows=7, rows_total=4 * STEPS, global_batch_rows=4, seed=3407)
    batch = batch_of([rows[int(number)] for number in numbers], document_borders=True)
    ids, positions, labels = map(torch.from_numpy, (batch.input_ids, batch.position_ids, batch.labels))
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert (11, pytest.approx(loss.item(), abs=1e-5)) == training.losses()[10]


def test_going_on_with_another_recipe(
    undisturbed: tuple[Training, Artifact], new_training: Callable[[str], Training]
) -> None:
    """From a checkpoint of another training: refused field by field, unless the fields are accepted by name."""
    reference, _ = undisturbed
    start = str(reference.checkpoints()[0])
    training = new_training("other")
    with pytest.raises(ConfigError) as refused:
        training.run(resume_from=start, learning_rate=2e-3, max_steps=13, rows=8)
    assert str(refused.value).startswith(f"training.resume_from is {start}, which was trained otherwise: ")
    assert "; learning_rate was 0.01, is 0.002; max_steps was 12, is 13. Set these back" in str(refused.value)
    assert "accept them by name with accept_changes: [dataset, learning_rate, max_steps]" in str(refused.value)
    with pytest.raises(ConfigError, match=r"names 'lr', expected some of adam_betas, adam_eps, dataset, "):
        training.run(resume_from=start, accept_changes=["lr"])
    with pytest.raises(ConfigError, match="after step 10, but this run has 10 steps in all; raise num_train_epochs"):
        training.run(resume_from=start, max_steps=10, accept_changes=["max_steps"])
    with pytest.raises(
        ConfigError, match=r"is no sealed checkpoint; expected one of its checkpoints, such as .*000012"
    ):
        training.run(resume_from=str(reference.folder))

    changed = {"learning_rate": 2e-3, "max_steps": 11, "zero_stage": 0}
    resumed = training.run(resume_from=start, accept_changes=["learning_rate", "max_steps"], **changed)
    assert (resumed.counts["resumed_from_step"], resumed.counts["steps"]) == (10, 11)
    ((step, loss),) = training.losses()
    assert (step, loss) == (11, pytest.approx(reference.losses()[10][1], abs=1e-5))
    assert training.run(resume_from=start, accept_changes=["learning_rate", "max_steps"], **changed).is_cached
    assert reference.run().is_cached


def test_going_on_with_another_model(
    undisturbed: tuple[Training, Artifact],
    new_training: Callable[[str], Training],
    dropout_folder: Path,
    llama_config: LlamaConfig,
    tmp_path: Path,
) -> None:
    """Refused by its digest; when that is accepted by name, as for other base weights, a model of another shape is refused
    by the rank.
    """
    reference, _ = undisturbed
    start = str(reference.checkpoints()[-1])
    training = new_training("another")
    with pytest.raises(
        ConfigError, match=r": model was \w{8}…, is \w{8}…. Set these back, .* accept_changes: \[model\]$"
    ):
        training.run(resume_from=start, model=str(dropout_folder))
    wider = LlamaConfig(**llama_config.to_dict() | {"intermediate_size": 64, "tie_word_embeddings": True})
    wider.save_pretrained(tmp_path / "wider")
    changed = {"model": str(tmp_path / "wider"), "max_steps": STEPS + 1}
    with pytest.raises(ConfigError) as refused:
        training.run(resume_from=start, accept_changes=["max_steps", "model"], **changed)
    assert str(refused.value) == (
        f"{start} is of another model: model.layers.0.mlp.down_proj.weight is [32, 48] there and [32, 64] here; use the"
        " model that was trained"
    )


def test_training_goes_on_while_a_checkpoint_is_written(
    new_training: Callable[[str], Training], tmp_path: Path
) -> None:
    """Files of one are held back while three steps are done, and training stands still only before the first of them. One
    that cannot be removed is named, and fails nothing.
    """
    training, gate, seen = new_training("gated"), tmp_path / "gate", []
    os.mkfifo(gate)
    search_path = os.pathsep.join([str(Path(__file__).parent / "gate"), *filter(None, sys.path)])
    launcher = {"processes_per_node": 2, "environment": {"PYTHONPATH": search_path, "CPT_TEST_GATE": str(gate)}}
    with ExitStack() as mounted:

        def look(line: dict[str, Any]) -> None:
            if line["step"] == 11:
                seen.extend(path.name for path in (training.folder / "checkpoints").iterdir())
                mounted.enter_context(small_disk(training.checkpoints()[0] / "busy", "size=1m"))
                gate.open("w").close()

        trained = training.run(look, save_steps=4, launcher=launcher)
    (attempt,) = (training.folder / "attempts").iterdir()
    assert sorted(seen) == [f".tmp-{attempt.name}-step-0000008", "step-0000004"]
    assert [folder.name for folder in training.checkpoints()] == ["step-0000004", "step-0000008", "step-0000012"]
    assert trained.counts["checkpoints_failed"] == 0
    stood_still = [
        json.loads(line)["save_seconds"] for line in (training.folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert stood_still[:4] + stood_still[9:11] == [0.0] * 6
    assert min(stood_still[4], stood_still[8]) > 0.0
    assert (
        f"checkpoint step-0000012 is sealed, but older ones in {training.folder / 'checkpoints'} could not be removed:"
        " Device or resource busy; training goes on, and the next save tries again"
    ) in (attempt / "rank-00000.log").read_text()


@contextmanager
def _little_room(folder: Path) -> Iterator[Path]:
    with small_disk(folder, "size=2m") as disk:
        yield disk


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(
    undisturbed: tuple[Training, Artifact], new_training: Callable[[str], Training], tmp_path: Path
) -> None:
    """A real one: the save that finds no room is told in one line, the older one stays, later ones succeed.

    At the very last save there is no later one: the command fails with that line, and succeeds when there is room.
    """
    reference, trained = undisturbed
    training = new_training("full")
    with _little_room(tmp_path / "disk") as disk:
        ballast = disk / "ballast"
        notes: list[str] = []

        def fill_and_empty(line: dict[str, Any]) -> None:
            notes.extend(line.get("notes", ()))
            if line["step"] == 5:  # step 4 was not saved before step 2 was sealed
                with suppress(OSError), ballast.open("wb") as stream:
                    stream.write(bytes(1 << 30))
                gate.write_text("9", encoding="utf-8")
            if notes:
                ballast.unlink(missing_ok=True)
                gate.write_text("12", encoding="utf-8")

        gate = tmp_path / "steps"
        gate.write_text("5", encoding="utf-8")
        launcher = {"processes_per_node": 2, "environment": gated(tmp_path)}
        resumed = training.run(fill_and_empty, output_dir=str(disk), launcher=launcher)
        (folder,) = disk.glob("training_runs/*")
        assert losses_in(folder) == reference.losses()
        assert resumed.counts["checkpoints_failed"] >= 1
        assert resumed.counts["final_loss"] == trained.counts["final_loss"]
        assert "could not be saved: No space left on device; " in notes[0]
        free = re.escape(f" bytes are free at {folder / 'checkpoints'}; ")
        assert re.search(f"{free}step-000000[24] is safe; training goes on$", notes[0])
        assert [path.name for path in sorted((folder / "checkpoints").iterdir())][-1] == "step-0000012"
        shutil.rmtree(folder)
        with suppress(OSError), ballast.open("wb") as stream:
            stream.write(bytes(1 << 30))
        os.truncate(ballast, ballast.stat().st_size - ROOM_FOR_ALL_BUT_A_CHECKPOINT)
        with pytest.raises(JobFailedError, match=THE_LAST_FAILED):
            training.run(output_dir=str(disk), save_steps=STEPS)
        ballast.unlink()
        again = training.run(output_dir=str(disk), save_steps=STEPS)
        assert again.counts["final_loss"] == trained.counts["final_loss"]
        shutil.rmtree(disk / "training_runs")

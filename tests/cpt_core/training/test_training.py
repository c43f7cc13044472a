"""The stage with real processes: the mathematics, the exported model, and what a user sees when it fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cpt_core.artifacts import Artifact
from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError, InputError, JobFailedError
from cpt_core.packed_rows import PackedRows, batch_of
from cpt_core.storage import Store
from cpt_core.training import train_model
from cpt_core.training.order import FILL, rows_of_step
from cpt_core.training.schedule import learning_rate

NUM_ROWS = 10
STEPS = 5
Trainer = Callable[..., Artifact]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(str(tmp_path / "store"))


@pytest.fixture
def train(store: Store, model_folder: Path, tokenizer_folder: Path, commit_rows: Any) -> Trainer:
    """Trains on ten rows, two epochs of four rows a step: five steps, none of them full at the end."""

    def run(on_progress: Any = None, num_rows: int = NUM_ROWS, **values: Any) -> Artifact:
        defaults = {
            "model": str(model_folder),
            "num_train_epochs": 2,
            "global_batch_rows": 4,
            "micro_batch_rows": 1,
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "precision": "fp32",
            "max_grad_norm": 0.5,
            "device": "cpu",
        }
        packed = [commit_rows(store, num_rows - 4, seed=1), commit_rows(store, 4, seed=2)]
        config = TrainingConfig(**{**defaults, **values})
        return train_model(
            packed, config, store=store, name="tiny", tokenizer_uri=str(tokenizer_folder), on_progress=on_progress
        )

    return run


@pytest.fixture(scope="session")
def reference(model_folder: Path, tmp_path_factory: pytest.TempPathFactory, commit_rows: Any) -> list[dict[str, float]]:
    """Loss, gradient norm and learning rate of a plain PyTorch loop in one process."""
    store = Store(str(tmp_path_factory.mktemp("reference")))
    rows = PackedRows(store, [commit_rows(store, 6, seed=1), commit_rows(store, 4, seed=2)])
    config = TrainingConfig(model="m", global_batch_rows=4, micro_batch_rows=1, learning_rate=1e-2, warmup_steps=2)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    lines = []
    for step in range(STEPS):
        numbers = rows_of_step(step, num_rows=10, rows_total=20, global_batch_rows=4, seed=3407)
        batch = batch_of([rows[int(number)] for number in numbers if number != FILL], document_borders=True)
        logits = model(
            input_ids=torch.from_numpy(batch.input_ids),
            position_ids=torch.from_numpy(batch.position_ids),
            use_cache=False,
        ).logits
        labels = torch.from_numpy(batch.labels)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, config)
        optimizer.step()
        optimizer.zero_grad()
        lines.append({"loss": loss.item(), "grad_norm": norm.item(), "learning_rate": group["lr"]})
    return lines


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2])
def test_equal_to_plain_pytorch(
    train: Trainer, store: Store, reference: list[dict[str, float]], zero_stage: int, world_size: int
) -> None:
    """Every ZeRO stage on one and two ranks, with accumulation, takes the steps of a plain loop; then it is cached."""
    followed: list[dict[str, Any]] = []
    options = {"zero_stage": zero_stage, "launcher": {"processes_per_node": world_size}}
    trained = train(followed.append, **options)
    for found, expected in zip(followed, reference, strict=True):
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-4), name
    counts = trained.counts
    assert counts["first_loss"] == pytest.approx(reference[0]["loss"], abs=1e-4)
    assert counts["final_loss"] == pytest.approx(reference[-1]["loss"], abs=1e-4)
    assert (counts["steps"], counts["world_size"], counts["resumed_from_step"]) == (STEPS, world_size, 0)
    assert counts["tokens_seen"] == sum(line["tokens"] for line in followed)
    _require_loads(Path(counts["hf_model_uri"]))
    assert train(**options).is_cached


def _require_loads(folder: Path) -> None:
    """The exported folder loads by itself, generates, and is readable by everybody."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("w5 w6", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[5, 6]]
    generated = model.generate(input_ids=inputs["input_ids"], max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert generated.shape == (1, 5)
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True
    assert (folder / "generation_config.json").exists()
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_a_deleted_model_is_no_hit(train: Trainer) -> None:
    """A record whose model is gone is set aside, and the model exported again from the last checkpoint."""
    options = {"zero_stage": 0, "peak_tflops": 1.0, "gradient_checkpointing": False, "precision": "bf16"}
    first = train(**options)
    assert 0.0 <= first.counts["mfu"] < 1.0
    weights = Path(first.counts["hf_model_uri"], "model.safetensors")
    content = weights.read_bytes()
    weights.unlink()
    again = train(**options)
    assert not again.is_cached
    assert again.counts["resumed_from_step"] == STEPS
    assert again.counts["final_loss"] == first.counts["final_loss"]
    assert weights.read_bytes() == content


def test_metrics_file(train: Trainer) -> None:
    """One line a step, with the units of its names."""
    lines = []
    trained = train(lines.append, zero_stage=0, max_steps=2)
    assert [line["step"] for line in lines] == [1, 2]
    assert [line["epoch"] for line in lines] == [0.4, 0.8]
    assert list(lines[0]) == [
        "attempt", "step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "mfu", "seconds",
    ]  # fmt: skip
    run_folder = Path(trained.counts["hf_model_uri"]).parent
    assert [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()] == lines


def test_a_loss_that_is_not_a_number(train: Trainer) -> None:
    """Training stops with one line before a spoilt checkpoint is written."""
    with pytest.raises(JobFailedError, match=r"^the (loss|gradient norm) is (nan|inf) at step \d, so training stopped"):
        train(zero_stage=0, learning_rate=1e30, warmup_steps=0, max_grad_norm=0.0)


def test_tokens_outside_the_vocabulary(train: Trainer, tmp_path: Path, llama_config: Any) -> None:
    """Rows of another tokenizer are refused with the id and the size of the vocabulary."""
    small = llama_config.__class__(**{**llama_config.to_dict(), "vocab_size": 20})
    small.save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"holds token id \d+, but the model's vocabulary has 20 ids"):
        train(zero_stage=0, model=str(tmp_path / "small"))


def test_no_tokenizer(store: Store, model_folder: Path, tmp_path: Path, commit_rows: Any) -> None:
    """A folder without a tokenizer is refused before anything starts."""
    config = TrainingConfig(model=str(model_folder))
    with pytest.raises(ConfigError, match=r"no tokenizer\.json there"):
        train_model([commit_rows(store, 2)], config, store=store, name="tiny", tokenizer_uri=str(tmp_path))

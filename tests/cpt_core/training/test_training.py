"""The stage with real processes: the exported model, and what a user sees when it fails."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cpt_core.artifacts import Artifact
from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError, InputError
from cpt_core.storage import Store
from cpt_core.training import find_trained, train_model

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


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_trained_model_is_found_again(train: Trainer, zero_stage: int, store: Store, tmp_path: Path) -> None:
    """The record says how it went; the exported folder loads by itself; the same training is a hit."""
    followed: list[dict[str, Any]] = []
    options = {"zero_stage": zero_stage, "launcher": {"processes_per_node": 2}}
    trained = train(followed.append, **options)
    counts = trained.counts
    assert [line["loss"] for line in (followed[0], followed[-1])] == [counts["first_loss"], counts["final_loss"]]
    assert (counts["steps"], counts["world_size"], counts["resumed_from_step"]) == (STEPS, 2, 0)
    assert counts["tokens_seen"] == sum(line["tokens"] for line in followed)
    _require_loads(Path(counts["hf_model_uri"]))
    assert train(**options).is_cached
    _require_found_when_moved(store, trained, tmp_path / "moved")


def _require_found_when_moved(store: Store, trained: Artifact, moved: Path) -> None:
    """A store that is moved, or mounted elsewhere, has its model: the record names it relative to the store."""
    Path(store.root_uri).rename(moved)
    found = find_trained(Store(str(moved)), "tiny", trained.key_parts, TrainingConfig(model="m"))
    assert found is not None
    folder = Path(store.root_uri, "training_runs")
    for name in ("hf_model_uri", "checkpoint_uri"):
        relative = Path(trained.counts[name]).relative_to(folder.resolve())
        assert found.counts[name] == str(moved.resolve() / "training_runs" / relative)
    _require_loads(Path(found.counts["hf_model_uri"]))


def test_a_model_that_ignores_borders(train: Trainer, tmp_path: Path) -> None:
    """Refused in one line before a step is taken; without borders it is trained."""
    AutoConfig.for_model("bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=2).save_pretrained(
        tmp_path / "bloom"
    )
    options = {"model": str(tmp_path / "bloom"), "attention": "eager", "zero_stage": 1, "max_steps": 1}
    with pytest.raises(ConfigError, match=r"^training\.attention is eager, which with this model ignores"):
        train(**options)
    assert train(**options, document_borders=False).counts["steps"] == 1


def test_borders_off_is_recorded(train: Trainer) -> None:
    """In the key, so that it is another model; and among the results."""
    with_borders, without = train(zero_stage=0), train(zero_stage=0, document_borders=False)
    assert without.key != with_borders.key
    assert [trained.counts["document_borders"] for trained in (with_borders, without)] == [True, False]
    assert without.counts["first_loss"] != pytest.approx(with_borders.counts["first_loss"], abs=1e-3)


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


def test_adam_counts_the_steps_of_the_run_and_no_other(train: Trainer) -> None:
    """Without ZeRO and in bf16, DeepSpeed makes a step of its own before the first."""
    trained = train(zero_stage=0, precision="bf16")
    manifest = json.loads((Path(trained.counts["checkpoint_uri"]) / "manifest.json").read_bytes())
    assert manifest["adam_steps"] == STEPS


def test_metrics_file(train: Trainer, tmp_path: Path, llama_config: Any) -> None:
    """One line a step, with the units of its names; the seconds that the save before a step took are those of the log."""
    wide = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 1}  # so that copying is measurable
    llama_config.__class__(**llama_config.to_dict() | wide).save_pretrained(tmp_path / "wide")
    lines = []
    trained = train(lines.append, zero_stage=0, max_steps=3, save_steps=2, model=str(tmp_path / "wide"))
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["epoch"] for line in lines] == [0.4, 0.8, 1.2]
    assert list(lines[0]) == [
        "attempt", "step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "mfu", "seconds",
        "save_seconds",
    ]  # fmt: skip
    run_folder = Path(trained.counts["hf_model_uri"]).parent
    assert [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()] == lines
    (log,) = run_folder.glob("attempts/*/rank-00000.log")
    copies = re.findall(r"checkpoint step-000000(\d) sealed: [\d,]+ bytes, copied in (\d+\.\d{3}) s, ", log.read_text())
    assert [step for step, _ in copies] == ["2", "3"]
    (_, before_step_3), (_, after_step_3) = copies
    assert float(before_step_3) > 0
    assert [line["save_seconds"] for line in lines] == [0.0, 0.0, pytest.approx(float(before_step_3), abs=0.0006)]
    assert trained.counts["save_seconds"] >= lines[-1]["save_seconds"] + float(after_step_3) - 0.0011


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

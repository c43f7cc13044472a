"""Cut off and going on: a killed rank, a damaged checkpoint, another number of processes."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cpt_core.artifacts import Artifact
from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError, JobFailedError
from cpt_core.storage import Store
from cpt_core.training import train_model

STEPS = 24


class Setup:
    """A training of 24 steps on two ranks from a model that is only a configuration, with a checkpoint every other step."""

    def __init__(self, store: Store, model: Path, tokenizer: Path, commit_rows: Any) -> None:
        self.store = store
        self._model = model
        self._tokenizer = tokenizer
        self._commit_rows = commit_rows

    def train(self, on_progress: Any = None, processes: int = 2, zero_stage: int = 3) -> Artifact:
        """Train, or go on."""
        config = TrainingConfig(
            model=str(self._model),
            max_steps=STEPS,
            global_batch_rows=2,
            micro_batch_rows=1,
            learning_rate=1e-2,
            warmup_steps=0,
            precision="fp32",
            zero_stage=zero_stage,
            save_steps=2,
            device="cpu",
            launcher={"processes_per_node": processes},
        )
        return train_model(
            [self._commit_rows(self.store, 7)],
            config,
            store=self.store,
            name="tiny",
            tokenizer_uri=str(self._tokenizer),
            on_progress=on_progress,
        )

    def losses(self) -> list[tuple[int, float]]:
        """Step and loss of every line of the metrics file."""
        (path,) = Path(self.store.root_uri).glob("training_runs/*/metrics.jsonl")
        return [(line["step"], line["loss"]) for line in map(json.loads, path.read_text().splitlines())]

    def checkpoints(self) -> list[Path]:
        """Sealed checkpoints, oldest first."""
        return sorted(Path(self.store.root_uri).glob("training_runs/*/checkpoints/step-*"))


def _kill_rank_1(_: dict[str, Any]) -> None:
    for process in psutil.Process().children():
        with suppress(psutil.Error):  # it is gone since an earlier call
            if process.environ().get("RANK") == "1":
                process.kill()


def _change_one_byte(checkpoint: Path) -> None:
    largest = max((path for path in checkpoint.iterdir()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_resume_is_exact(tmp_path: Path, config_only_folder: Path, tokenizer_folder: Path, commit_rows: Any) -> None:
    """A killed rank is named; the run goes on from the newest whole checkpoint with bit-equal losses."""
    inputs = (config_only_folder, tokenizer_folder, commit_rows)
    undisturbed = Setup(Store(str(tmp_path / "undisturbed")), *inputs)
    assert undisturbed.train().counts["resumed_from_step"] == 0

    cut_off = Setup(Store(str(tmp_path / "cut_off")), *inputs)
    with pytest.raises(JobFailedError, match=r"rank 1 on node 0 ended with signal 9 \(SIGKILL\)"):
        cut_off.train(lambda line: _kill_rank_1(line) if line["step"] >= 6 else None)
    with pytest.raises(ConfigError, match="was written by 2 processes, but this job has 1; resume with 2"):
        cut_off.train(processes=1)
    with pytest.raises(ConfigError, match="was written with zero_stage 3, but this job has 2; resume with"):
        cut_off.train(zero_stage=2)

    before, newest = cut_off.checkpoints()
    _change_one_byte(newest)
    resumed = cut_off.train()
    assert resumed.counts["resumed_from_step"] == int(before.name.removeprefix("step-"))
    assert 0 < resumed.counts["resumed_from_step"] < STEPS
    assert cut_off.losses() == undisturbed.losses()
    assert [step for step, _ in cut_off.losses()] == list(range(1, STEPS + 1))
    for name in ("first_loss", "final_loss", "tokens_seen", "steps"):
        assert resumed.counts[name] == undisturbed.train().counts[name]
    assert [folder.name for folder in cut_off.checkpoints()] == ["step-0000022", "step-0000024"]
    assert not Path(resumed.counts["hf_model_uri"], "generation_config.json").exists()
    exported = Path(resumed.counts["hf_model_uri"], "model.safetensors")
    assert exported.read_bytes() == Path(undisturbed.train().counts["hf_model_uri"], exported.name).read_bytes()

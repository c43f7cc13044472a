"""Going on from another training: what is refused, and what a user is told who might have meant to."""

from pathlib import Path
from typing import Any

import pytest

from cpt_core.config import TrainingConfig
from cpt_core.storage import Store
from cpt_core.training import train_model
from cpt_core.training.continuing import others_unfinished
from tests.cpt_core.training.checkpoints import key_parts, manifest, seal_files


def test_an_unfinished_training_with_another_recipe_is_pointed_out(tmp_path: Path) -> None:
    """One line with its step, what is other, and the two keys that go on from it; finished ones are no news."""
    seal_files(tmp_path / "math-00000001/checkpoints", manifest(500), {"weights": b"w"})
    found = seal_files(tmp_path / "math-00000001/checkpoints", manifest(1000), {"weights": b"w"}).folder
    seal_files(tmp_path / "math-00000002/checkpoints", manifest(2000, learning_rate=2e-4), {"weights": b"w"})
    (tmp_path / "math-00000002/model").mkdir()
    seal_files(tmp_path / "other-00000003/checkpoints", manifest(500), {"weights": b"w"})
    (tmp_path / "math-00000004/checkpoints").mkdir(parents=True)
    here = key_parts(learning_rate=5e-5) | {"packed": ["q" * 64]}
    assert others_unfinished(tmp_path / "math-00000004", here) == [
        "this training begins anew; an unfinished one of the same name stands at step 1000 with another dataset,"
        f" learning_rate. To go on from there: training.resume_from: {found} and accept_changes: [dataset,"
        " learning_rate]"
    ]


def test_it_is_pointed_out_before_anything_is_started(
    tmp_path: Path, model_folder: Path, tokenizer_folder: Path, commit_rows: Any
) -> None:
    """The same command with an edited recipe: there is time to stop it before it trains from the first step on."""
    store, said = Store(str(tmp_path)), []
    there = tmp_path / "training_runs/math-00000001"
    found = seal_files(there / "checkpoints", manifest(500), {"weights": b"w"}).folder

    def stop(line: str) -> None:
        said.append(line)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train_model(
            [commit_rows(store, 3)],
            TrainingConfig(model=str(model_folder), micro_batch_rows=1, device="cpu"),
            store=store,
            name="math",
            tokenizer_uri=str(tokenizer_folder),
            on_notice=stop,
        )
    assert said[0].startswith(
        "this training begins anew; an unfinished one of the same name stands at step 500 with another adam_betas,"
    )
    assert f" To go on from there: training.resume_from: {found} and accept_changes: [adam_betas, " in said[0]
    assert [path.name for path in there.parent.glob("*/attempts/*")] == []

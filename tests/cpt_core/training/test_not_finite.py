"""A loss or a gradient that is not a number ends a training before anything is spoilt.

Token 63 of the base model has an embedding that is not a number. A document that holds it has no loss; a row of documents of one
token has nothing to predict, so that the loss stays a number and the gradient does not.
"""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from cpt_core.config import TrainingConfig
from cpt_core.errors import JobFailedError
from cpt_core.storage import Store
from cpt_core.training import train_model

BEFORE = [[[4, 5, 6, 7], [8, 9]], [[10, 11, 12]], [[13, 14, 15, 16, 17]]]
AFTER = [[[18, 19], [20, 21]], [[22, 23, 24, 25, 26]]]
"""With a row between them, which is the fourth, the steps train on the rows [2, 5], [0, 1] and [4, 3], counted from 0."""
SPOILING = {"loss": [[5, 63, 7, 8]], "gradient": [[63], [63]]}
ALL = [("loss is nan", "fp32", stage) for stage in range(4)] + [
    (f"gradient norm is {'inf' if stage else 'nan'}", precision, stage)  # ZeRO calls both infinite
    for precision, stage in product(("fp32", "bf16"), range(4))
]
IN_THE_SUITE = [("loss is nan", "fp32", 0), ("gradient norm is inf", "bf16", 3)]
CELLS = [pytest.param(*cell, marks=[] if cell in IN_THE_SUITE else pytest.mark.matrix) for cell in ALL]


@pytest.fixture
def spoilt_folder(tmp_path: Path, llama_config: LlamaConfig) -> Path:
    """A base model with one embedding that is not a number."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config)
    with torch.no_grad():
        model.get_input_embeddings().weight[63] = torch.nan
    model.save_pretrained(tmp_path / "spoilt")
    return tmp_path / "spoilt"


@pytest.mark.parametrize(("what", "precision", "zero_stage"), CELLS)
def test_training_stops_before_a_checkpoint_is_spoilt(
    store: Store,
    spoilt_folder: Path,
    tokenizer_folder: Path,
    commit_rows: Any,
    what: str,
    precision: str,
    zero_stage: int,
) -> None:
    """One of two ranks meets it in step 3: both end, and of the state that is left only what came so is no number."""
    config = TrainingConfig(
        model=str(spoilt_folder),
        num_train_epochs=1,
        global_batch_rows=2,
        micro_batch_rows=1,
        warmup_steps=0,
        precision=precision,
        zero_stage=zero_stage,
        save_steps=1,
        device="cpu",
        launcher={"processes_per_node": 2},
    )
    packed = [commit_rows(store, [*BEFORE, SPOILING[what.split()[0]], *AFTER])]
    with pytest.raises(JobFailedError) as failed:
        train_model(packed, config, store=store, name="tiny", tokenizer_uri=str(tokenizer_folder))
    assert str(failed.value) == (
        f"the {what} at step 3, so training stopped before a checkpoint could be spoilt; lower learning_rate, raise"
        " warmup_steps, or look at the step's documents"
    )
    (folder,) = Path(store.root_uri).glob("training_runs/*")
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    (sealed,) = (folder / "checkpoints").glob("step-*")
    state = {name: values for file in sealed.glob("rank-*") for name, values in load_file(file).items()}
    not_finite = {name: int((~values.isfinite()).sum()) for name, values in state.items()}
    assert sum(not_finite.values()) == 32
    assert {name.partition("@")[0] for name, count in not_finite.items() if count} == {
        "master/model.embed_tokens.weight"
    }
    assert not (folder / "model").exists()

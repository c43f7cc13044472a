"""Held-out losses with a real process, against a computation by hand."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cpt_core.artifacts import Artifact, Draft, commit
from cpt_core.config import EvaluationConfig, TrainingConfig
from cpt_core.errors import ConfigError, InputError
from cpt_core.evaluation import evaluate_model, num_rows_scored
from cpt_core.schemas import PACKED_SHARD
from cpt_core.storage import Store

ROWS = {
    "numbers": [([5, 6, 7, 8, 9, 2, 0, 0], [3, 3, 2], 6), ([9, 8, 7, 6, 5, 4, 3, 2], [8], 8)],
    "words": [([3, 4, 5, 6, 7, 8, 9, 2], [8], 8), ([11, 12, 13, 14, 15, 16, 17, 18], [8], 8)],
}
TRAINING = TrainingConfig(model="m", precision="fp32", micro_batch_rows=1, device="cpu", attention="varlen")
"""Evaluation needs none of what makes training fast, and passes over it."""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    _llama_config().save_pretrained(folder)
    LlamaForCausalLM(_llama_config()).save_pretrained(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(str(tmp_path / "store"))


def _llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
    )


def _commit(store: Store, source: str) -> Artifact:
    pieces: list[Any] = []
    rows = [
        {"input_ids": ids, "seq_lengths": lengths, "num_tokens": tokens, "pieces": pieces}
        for ids, lengths, tokens in ROWS[source]
    ]
    with store.staging() as folder:
        staged = folder / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=PACKED_SHARD), staged)
        counts = {"source": source, "split": "held_out", "rows": len(rows), "row_len_tokens": 8}
        return commit(store, Draft("packing", source, {"rows_of": source}, {"rows": staged}, counts, 0.0))


def _by_hand(model_folder: Path, documents: list[list[int]]) -> float:
    """Mean loss over all tokens but the first of each document, each document alone."""
    model = LlamaForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    losses: list[float] = []
    for document in documents:
        with torch.no_grad():
            logits = model(torch.tensor([document])).logits[0, :-1]
        losses += (-logits.log_softmax(-1)[torch.arange(len(document) - 1), document[1:]]).tolist()
    return sum(losses) / len(losses)


def test_loss_of_every_source(store: Store, model_folder: Path) -> None:
    """Each source has the mean loss of its documents one by one; a second call is a hit. Progress moves by batch."""
    packed = [_commit(store, source) for source in ROWS]
    heard: list[int] = []
    found = evaluate_model(
        str(model_folder), packed, EvaluationConfig(), TRAINING, store=store, name="tiny", on_progress=heard.append
    )
    scores = found.counts["sources"]
    assert scores["numbers"]["loss"] == pytest.approx(
        _by_hand(model_folder, [[5, 6, 7], [8, 9, 2], [9, 8, 7, 6, 5, 4, 3, 2]]), abs=1e-5
    )
    assert scores["words"]["loss"] == pytest.approx(
        _by_hand(model_folder, [ids for ids, _, _ in ROWS["words"]]), abs=1e-5
    )
    assert [(score["tokens"], score["rows"]) for score in scores.values()] == [(11, 2), (14, 2)]
    assert (heard, num_rows_scored(packed, EvaluationConfig())) == ([1, 2, 3, 4], 4)
    assert json.loads(store.read_bytes(found.path("losses"))) == found.counts
    again = evaluate_model(str(model_folder), packed, EvaluationConfig(), TRAINING, store=store, name="tiny")
    assert again.is_cached


def test_at_most_so_many_rows_of_a_model_without_weights(store: Store, model_folder: Path, tmp_path: Path) -> None:
    """The first rows of each source are scored; a bare configuration is initialised from the seed."""
    _llama_config().save_pretrained(tmp_path / "config")
    packed = [_commit(store, source) for source in ROWS]
    config = EvaluationConfig(max_rows_per_source=1)
    found = evaluate_model(str(tmp_path / "config"), packed, config, TRAINING, store=store, name="tiny")
    scores = found.counts["sources"]
    assert [(score["tokens"], score["rows"]) for score in scores.values()] == [(4, 1), (7, 1)]
    assert num_rows_scored(packed, config) == 2


def test_tokens_outside_the_vocabulary(store: Store, tmp_path: Path) -> None:
    """Rows of another tokenizer are refused in one line."""
    values = _llama_config().to_dict() | {"vocab_size": 10}
    LlamaConfig(**values).save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match="holds token id 18, but the model's vocabulary has 10 ids"):
        evaluate_model(
            str(tmp_path / "small"), [_commit(store, "words")], EvaluationConfig(), TRAINING, store=store, name="tiny"
        )


def test_nothing_held_out(store: Store, model_folder: Path) -> None:
    """Without held-out rows there is nothing to score."""
    with pytest.raises(ConfigError, match="evaluation has no held-out rows"):
        evaluate_model(str(model_folder), [], EvaluationConfig(), TRAINING, store=store, name="tiny")

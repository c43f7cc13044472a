"""Documents in one row do not see each other: positions, labels, attention, loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM

from cpt_core.errors import ConfigError
from cpt_core.packed_rows import Row, batch_of, empty_row
from cpt_core.training.probe import require_borders, require_loss_scaling

ROW = Row(np.array([5, 6, 7, 8, 9, 2, 0, 0]), np.array([3, 1, 2, 2], dtype=np.int32), 6)


def _load(folder: Path, attention: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    model.config.use_cache = False
    return model.eval()


def _summed_loss(model: Any, rows: list[Row]) -> float:
    batch = batch_of(rows, document_borders=True)
    inputs = {name: torch.from_numpy(getattr(batch, name)) for name in ("input_ids", "position_ids", "labels")}
    with torch.no_grad():
        return float(model(**inputs, num_items_in_batch=1.0, use_cache=False).loss)


def test_batch() -> None:
    """Positions restart at every document; no label crosses a border or lies in padding; an EOS is a label."""
    batch = batch_of([ROW, empty_row(8, 0)], document_borders=True)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 2, 0, 0], [0] * 8]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert batch.labels.tolist() == [[-100, 6, 7, -100, -100, 2, -100, -100], [-100] * 8]
    assert batch.num_trained_tokens == 3


def test_batch_without_borders() -> None:
    """Without borders positions run through the row; labels are the same."""
    batch = batch_of([ROW], document_borders=False)
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert batch.labels.tolist() == [[-100, 6, 7, -100, -100, 2, -100, -100]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_row_is_its_documents(model_folder: Path, attention: str) -> None:
    """A packed row has the loss of its documents one by one, also in a batch with another row."""
    model = _load(model_folder, attention)
    ends = np.cumsum(ROW.seq_lengths)[:-1]
    documents = [
        Row(ROW.input_ids[end - length : end], np.array([length], dtype=np.int32), int(length))
        for end, length in zip(ends, ROW.seq_lengths, strict=False)
    ]
    alone = sum(_summed_loss(model, [document]) for document in documents)
    assert _summed_loss(model, [ROW]) == pytest.approx(alone, abs=1e-5)
    assert _summed_loss(model, [ROW, empty_row(8, 0)]) == pytest.approx(alone, abs=1e-5)


def test_nothing_to_train_on(model_folder: Path) -> None:
    """A micro-batch without labels has the loss 0, not NaN."""
    assert _summed_loss(_load(model_folder, "sdpa"), [empty_row(8, 0)]) == 0.0


def _probe(model: Any, attention: str) -> None:
    require_borders(
        lambda ids, positions: model(input_ids=ids, position_ids=positions, use_cache=False).logits,
        model.config.vocab_size,
        torch.device("cpu"),
        attention,
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_probe_accepts(model_folder: Path, attention: str) -> None:
    """Attention implementations that find borders in the positions pass."""
    _probe(_load(model_folder, attention), attention)


def test_probe_refuses_plain_causal_attention(model_folder: Path) -> None:
    """An implementation that ignores borders is refused in one line."""

    def causal(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[torch.Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).contiguous(), None

    AttentionInterface.register("causal_only", causal)
    with pytest.raises(ConfigError, match="attention is causal_only, which with this model ignores document borders"):
        _probe(_load(model_folder, "causal_only"), "causal_only")


def test_probe_refuses_a_model_without_context(model_folder: Path) -> None:
    """A model that does not react to its context proves nothing, so it is refused as well."""
    with pytest.raises(ConfigError, match="ignores document borders"):
        require_borders(lambda ids, _: torch.nn.functional.one_hot(ids, 64), 64, torch.device("cpu"), "none")


def test_loss_scaling() -> None:
    """A loss must be a sum over the number of tokens that the model is told."""
    require_loss_scaling(lambda tokens: 6.0 / tokens, "llama")
    with pytest.raises(ConfigError, match="model type odd ignores num_items_in_batch"):
        require_loss_scaling(lambda _: 6.0, "odd")

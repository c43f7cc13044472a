"""Does this very model honour document borders? Asked before every training, on the device it runs on.

In: the model as a function of ids, positions and lengths of segments.
Out: nothing, or a refusal.
Promise: a model, attention implementation or device that lets one document see another is refused.
Never: trusts a name; implementations ignore borders silently.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cpt_core.errors import ConfigError
from cpt_core.packed_rows import position_ids

DOCUMENT_LEN_TOKENS = 8
LEAK_TOLERANCE = 1e-3
"""Largest change allowed in another document, relative to the change that appears without borders."""

Forward = Callable[[torch.Tensor, torch.Tensor, NDArray[np.int32]], torch.Tensor]
"""(ids int64[B, T], positions int64[B, T], lengths of all segments) to logits [B, T, vocabulary]."""


def require_borders(
    forward: Forward, vocab_size: int, device: torch.device, *, attention: str, num_rows: int = 1
) -> None:
    """Change one document of a batch whose rows hold two each, and see that no other notices.

    Raises:
        ConfigError: when one does, or when the model does not react to its context at all.
    """
    halves = np.full(2 * num_rows, DOCUMENT_LEN_TOKENS, dtype=np.int32)
    whole = np.full(num_rows, 2 * DOCUMENT_LEN_TOKENS, dtype=np.int32)
    leak = _change_elsewhere(forward, halves, num_rows, vocab_size, device)
    context = _change_elsewhere(forward, whole, num_rows, vocab_size, device)
    if not leak <= LEAK_TOLERANCE * context or context == 0.0:
        raise ConfigError(
            f"training.attention is {attention}, which with this model ignores document borders (a change in one "
            f"document moves the next one's logits by {leak:.3g}; without borders {context:.3g}); choose another "
            "attention, or set document_borders: false"
        )


def require_loss_scaling(loss_of: Callable[[float], float], model_type: str) -> None:
    """See that the model's loss is a sum divided by the number of tokens that it is told.

    Raises:
        ConfigError: when it is not; the gradient would then not be the mean over the global batch.
    """
    if abs(loss_of(1.0) - 2.0 * loss_of(2.0)) > 1e-3 * abs(loss_of(1.0)):
        raise ConfigError(
            f"model type {model_type} ignores num_items_in_batch in its loss, so the mean over a global batch cannot "
            "be trained; use a model class with transformers' standard causal loss"
        )


def _change_elsewhere(
    forward: Forward, seq_lengths: NDArray[np.int32], num_rows: int, vocab_size: int, device: torch.device
) -> float:
    """Largest change of a logit outside the first document of the first row when that document becomes another."""
    row = torch.arange(1, 2 * DOCUMENT_LEN_TOKENS + 1, device=device) % vocab_size
    ids = row.repeat(num_rows, 1)
    changed = ids.clone()
    changed[0, :DOCUMENT_LEN_TOKENS] = (row[:DOCUMENT_LEN_TOKENS] + vocab_size // 2) % vocab_size
    positions = torch.from_numpy(position_ids(seq_lengths)).to(device).view(num_rows, -1)
    with torch.no_grad():
        before, after = (forward(given, positions, seq_lengths).float() for given in (ids, changed))
    change = (before - after).abs()
    change[0, :DOCUMENT_LEN_TOKENS] = 0.0
    return float(change.max())

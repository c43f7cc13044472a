"""Does this very model honour document borders? Asked before every training, on the device it runs on.

In: the model as a function of ids and positions.
Out: nothing, or a refusal.
Promise: a model, attention implementation or device that lets one document see another is refused.
Never: trusts a name; implementations ignore borders silently.
"""

from collections.abc import Callable

import torch

from cpt_core.errors import ConfigError

DOCUMENT_LEN_TOKENS = 8
LEAK_TOLERANCE = 1e-3
"""Largest change allowed at the second document, relative to the change that appears without borders."""

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(ids int64[1, T], positions int64[1, T]) to logits [1, T, vocabulary]."""


def require_borders(forward: Forward, vocab_size: int, device: torch.device, attention: str) -> None:
    """Change the first of two documents in a row, and see that the second does not notice.

    Raises:
        ConfigError: when it does, or when the model does not react to its context at all.
    """
    restarting = torch.arange(DOCUMENT_LEN_TOKENS, device=device).repeat(2)
    running_through = torch.arange(2 * DOCUMENT_LEN_TOKENS, device=device)
    leak = _change_of_second(forward, restarting, vocab_size)
    context = _change_of_second(forward, running_through, vocab_size)
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


def _change_of_second(forward: Forward, positions: torch.Tensor, vocab_size: int) -> float:
    """Largest change of a logit in the second document when the first one becomes another."""
    ids = torch.arange(1, 2 * DOCUMENT_LEN_TOKENS + 1, device=positions.device) % vocab_size
    changed = ids.clone()
    changed[:DOCUMENT_LEN_TOKENS] = (ids[:DOCUMENT_LEN_TOKENS] + vocab_size // 2) % vocab_size
    with torch.no_grad():
        before, after = (forward(row[None], positions[None])[0].float() for row in (ids, changed))
    return float((before - after)[DOCUMENT_LEN_TOKENS:].abs().max())

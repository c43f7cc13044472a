"""Attention that stops at document borders because it is told where they are.

In: queries, keys and values of packed rows; the lengths of their segments.
Out: attention within each segment, as the attention implementation ``varlen`` of transformers; the arguments that it
and flash-attention take; refusals of what cannot run here.
Promise: no mask is materialised; rows are laid end to end, and every row begins a segment of its own.
Never: finds borders by itself.

On CUDA the kernel is torch's own variable-length flash attention. Elsewhere each segment is attended to by itself:
the same mathematics, for tests and small models.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError

VARLEN = "varlen"
TOLD_BORDERS = (VARLEN, "flash_attention_2", "flash_attention_3")
"""Implementations that take the segments' lengths; the others find borders in the positions."""
_PACKAGES = {
    "flash_attention_2": ("flash-attn", is_flash_attn_2_available),
    "flash_attention_3": ("flash-attn-3", is_flash_attn_3_available),
}


def require_attention(config: TrainingConfig, device: torch.device) -> None:
    """See that the attention of the configuration can train here; registers ``varlen``.

    Raises:
        ConfigError: when it cannot.
    """
    AttentionInterface.register(VARLEN, varlen_attention)
    name, is_cuda = config.attention, device.type == "cuda"
    if name == "flex_attention" and not is_cuda:
        raise ConfigError("training.attention is flex_attention, which has no backward pass on a CPU; use sdpa")
    if name in _PACKAGES:
        package, is_available = _PACKAGES[name]
        if not is_available():
            raise ConfigError(
                f"training.attention is {name}, but {package} and a CUDA device were not found together;"
                f" install {package}, or use varlen, which comes with torch"
            )
    if name in TOLD_BORDERS and is_cuda and config.precision == "fp32":
        raise ConfigError(f"training.attention is {name}, whose kernel knows no fp32; set precision: bf16, or use sdpa")


def segment_arguments(attention: str, seq_lengths: NDArray[np.int32], device: torch.device) -> dict[str, Any]:
    """What a model call must pass on so that attention knows the segments of a batch.

    Args:
        attention: name of the implementation.
        seq_lengths: of all segments, row after row; they sum to rows x row_len_tokens.
        device: of the model.
    """
    if attention not in TOLD_BORDERS:
        return {}
    borders = np.concatenate([[0], np.cumsum(seq_lengths)]).astype(np.int32)
    cumulative, longest = torch.from_numpy(borders).to(device), int(seq_lengths.max())
    return {
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment, in the form that transformers calls.

    Args:
        module: the layer, unused.
        query: [rows, heads, row_len_tokens, head size].
        key: as query, perhaps with fewer heads.
        value: as key.
        attention_mask: always None, as transformers makes no mask for this implementation.
        cu_seq_lens_q: int32[segments + 1], where segments begin once all rows are laid end to end.
        max_length_q: of the longest segment.
        scaling: of the scores; by default 1 / sqrt(head size).
        sliding_window: how many tokens each token sees, itself included; None for all before it.
        dropout: must be 0.
        softcap: must be None.
        s_aux: must be None.

    Returns:
        [rows, row_len_tokens, heads, head size], and None for the weights.

    Raises:
        ConfigError: when the model asks for what the kernel does not compute.
    """
    asked = {"dropout": bool(dropout), "softcap": softcap is not None, "attention sinks": s_aux is not None}
    if missing := [what for what, is_asked in asked.items() if is_asked]:
        raise ConfigError(
            f"training.attention is varlen, which cannot do this model's {', '.join(missing)}; use sdpa or eager"
        )
    rows, heads, row_len_tokens, head_size = query.shape
    flat_query, flat_key, flat_value = (each.transpose(1, 2).flatten(0, 1) for each in (query, key, value))
    attend = _by_kernel if query.is_cuda else _by_segment
    mixed = attend(flat_query, flat_key, flat_value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    return mixed.view(rows, row_len_tokens, heads, head_size), None


def _by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """All segments in one call; tensors are [tokens, heads, head size]."""
    mixed = varlen_attn(
        query,
        key,
        value,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
    )
    assert isinstance(mixed, torch.Tensor)  # a pair only where the log-sum-exp is asked for
    return mixed


def _by_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """The same, one segment after the other."""
    mixed = []
    for start, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        q, k, v = (each[start:end].transpose(0, 1)[None] for each in (query, key, value))
        mask = None if window is None else _band(end - start, window, query.device)
        one = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=True)
        mixed.append(one[0].transpose(0, 1))
    return torch.cat(mixed)


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Which tokens [query, key] see each other: the last ``window`` up to the query itself."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions[None]
    return (distance >= 0) & (distance < window)

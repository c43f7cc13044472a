"""How much arithmetic a model needs, whatever a machine makes of it.

In: a model; tokens and document lengths of a batch.
Out: floating-point operations of forward and backward.
Promise: the formula that ``line`` prints is the one that is used.
Never: counts recomputation, padding, or attention between documents.
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ModelFlops:
    """The sizes that the formula needs.

    Attributes:
        num_parameters: all but an input embedding that is not also the output: each multiplies and adds once a token.
        num_layers: with attention.
        attention_size: heads times the size of one.
    """

    num_parameters: int
    num_layers: int
    attention_size: int

    @classmethod
    def of_model(cls, model: Any) -> "ModelFlops":
        """Of a transformers model, also under ZeRO-3."""
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        parameters = sum(_num_elements(parameter) for parameter in model.parameters())
        if not config.tie_word_embeddings:
            parameters -= _num_elements(model.get_input_embeddings().weight)
        size = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        return cls(parameters, config.num_hidden_layers, size)

    def of_batch(self, num_tokens: float, sum_squared_lengths: float) -> float:
        """6 N T + 12 L A S: T tokens without padding, S the sum over documents of their length squared.

        A product with one parameter is 2 operations forward and 4 backward; so are, for each layer, each pair of
        tokens of a document and each unit of A, the scores and the mixing. As usual, pairs count that causality
        forbids.
        """
        products = 6.0 * self.num_parameters * num_tokens
        return products + 12.0 * self.num_layers * self.attention_size * sum_squared_lengths

    def line(self) -> str:
        """The formula with this model's sizes, for people."""
        return (
            f"model FLOPs = 6 x {self.num_parameters:,} parameters x tokens + 12 x {self.num_layers} layers x"
            f" {self.attention_size:,} x sum of squared document lengths"
        )


def _num_elements(parameter: torch.nn.Parameter) -> int:
    """Under ZeRO-3 a parameter is empty here, and its size stands aside."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))

"""Which part of the training state this rank holds, whatever DeepSpeed has made of the parameters.

In: a DeepSpeed engine of any ZeRO stage.
Out: slices of flattened parameters, with views on their fp32 values and on Adam's two moments.
Promise: the slices of all ranks together are every element of every trained parameter, each exactly once.
Never: gathers; no rank holds more than its own part.

DeepSpeed keeps the state in one of four forms: ZeRO-3 gives each rank an equal share of every parameter; ZeRO-1 and 2
lay all parameters of a group end to end and give each rank one stretch of it; without ZeRO the state is whole on every
rank, either as fp32 copies of bf16 parameters or as the parameters themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cpt_core.errors import JobFailedError
from cpt_core.training.ranks import Ranks
from cpt_core.training.slice_files import MASTER, MOMENTS


@dataclass(frozen=True)
class HeldSlice:
    """Consecutive elements of one flattened parameter, as this rank holds them."""

    name: str
    start: int
    """Position of the first element in the flattened parameter."""
    num_elements: int
    holder: torch.Tensor
    """The optimizer's fp32 tensor that they are a part of."""
    offset: int
    """Position of the first element in the flattened holder."""

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """These elements of a tensor that is laid out as the holder."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.num_elements)


class HeldState:
    """This rank's part of the state of a training run."""

    def __init__(self, engine: Any, zero_stage: int, ranks: Ranks) -> None:
        self._engine = engine
        self._ranks = ranks
        self._is_whole = zero_stage == 0
        self.slices = [held for held in _slices_of(engine, zero_stage) if held.num_elements]

    def own_slices(self) -> list[HeldSlice]:
        """What this rank has to save: an equal share of each slice where all ranks hold the same."""
        if not self._is_whole:
            return self.slices
        shares = [_share(held, self._ranks) for held in self.slices]
        return [share for share in shares if share.num_elements]

    def tensor(self, held: HeldSlice, kind: str) -> torch.Tensor:
        """A view on one kind of value of a slice; moments that do not exist yet come into being as zeros."""
        return held.view(held.holder if kind == MASTER else self._moments(held.holder)[kind])

    def adam_steps(self) -> int:
        """How many steps AdamW has counted, the same for every parameter."""
        counted = sorted({int(self._moments(held.holder)["step"]) for held in self.slices})
        if len(counted) > 1:
            raise JobFailedError(f"AdamW has counted {counted} steps for different parameters")
        return counted[0] if counted else 0

    def set_adam_steps(self, steps: int) -> None:
        """Let AdamW go on counting from here."""
        for held in self.slices:
            self._moments(held.holder)["step"].fill_(steps)

    def publish(self) -> None:
        """Make the parameters that the model computes with those of the fp32 values; called by all ranks."""
        optimizer = self._engine.optimizer
        with torch.no_grad():
            if hasattr(optimizer, "fp32_partitioned_groups_flat"):
                _publish_partitions(optimizer)
            elif hasattr(optimizer, "update_lp_params"):
                optimizer.update_lp_params()
            elif hasattr(optimizer, "fp32_groups"):
                for parameter, master in _copied_pairs(optimizer):
                    parameter.copy_(master)

    def _moments(self, holder: torch.Tensor) -> dict[str, torch.Tensor]:
        adam = self._engine.basic_optimizer
        moments: dict[str, torch.Tensor] = adam.state[holder]
        if not moments:
            # As torch does at the first step: the count lives on the CPU unless the kernel reads it itself.
            is_on_device = any(adam.defaults.get(option) for option in ("fused", "capturable"))
            moments["step"] = torch.zeros((), dtype=torch.float32, device=holder.device if is_on_device else "cpu")
            moments.update({kind: torch.zeros_like(holder, requires_grad=False) for kind in MOMENTS})
        return moments


def parameter_shapes(engine: Any) -> dict[str, list[int]]:
    """The whole shape of every trained parameter, by name."""
    return {
        name: list(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    }


def lasting_buffers(engine: Any) -> dict[str, torch.Tensor]:
    """Buffers that belong to the model's weights; most models have none."""
    lasting = engine.module.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in engine.module.named_buffers() if name in lasting}


def _slices_of(engine: Any, zero_stage: int) -> Iterator[HeldSlice]:
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    optimizer = engine.optimizer
    if zero_stage == 3:
        yield from _of_shares(optimizer, names)
    elif zero_stage:
        yield from _of_stretches(engine.basic_optimizer, names)
    elif hasattr(optimizer, "fp32_groups"):
        for parameter, master in _copied_pairs(optimizer):
            yield HeldSlice(names[parameter], 0, master.numel(), master, 0)
    else:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield HeldSlice(names[parameter], 0, parameter.numel(), parameter, 0)


def _of_shares(optimizer: Any, names: dict[Any, str]) -> Iterator[HeldSlice]:
    """ZeRO-3: the last share of a parameter may be padded, or nothing but padding."""
    rank = torch.distributed.get_rank()
    for parameters, holder in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        offset = 0
        for parameter in parameters:
            share = parameter.partition_numel()
            start = rank * share
            yield HeldSlice(names[parameter], start, max(0, min(share, parameter.ds_numel - start)), holder, offset)
            offset += share


def _of_stretches(adam: Any, names: dict[Any, str]) -> Iterator[HeldSlice]:
    """ZeRO-1 and 2: DeepSpeed notes at each parameter which part of it lies in this rank's stretch."""
    for parameter, name in names.items():
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is not None:
            holder = adam.param_groups[mapping.param_group_index]["params"][0]
            in_parameter, in_holder = mapping.lp_fragment_address, mapping.hp_fragment_address
            yield HeldSlice(name, in_parameter.start, in_parameter.numel, holder, in_holder.start)


def _copied_pairs(optimizer: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A bf16 parameter and its fp32 copy."""
    for parameters, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        yield from zip(parameters, masters, strict=True)


def _share(held: HeldSlice, ranks: Ranks) -> HeldSlice:
    first, end = (held.num_elements * rank // ranks.world_size for rank in (ranks.rank, ranks.rank + 1))
    return HeldSlice(held.name, held.start + first, end - first, held.holder, held.offset + first)


def _publish_partitions(optimizer: Any) -> None:
    """ZeRO-3: as DeepSpeed does at the end of a step."""
    optimizer.checkpoint_event_prologue()  # gives up what is gathered, which is out of date now
    for group in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    optimizer.checkpoint_event_epilogue()

"""The processes of a job among themselves: who am I, and how do we agree.

In: the variables that the launcher set; the device.
Out: ``Ranks``: rank, world size, sums, broadcasts.
Promise: every rank that asks gets the same answer.
Never: knows what is computed.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed
from torch.distributed import distributed_c10d

from cpt_core.launching.heartbeat import note_meeting

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        note_meeting()
        torch.distributed.barrier()

    def sum(self, value: float) -> float:
        """Sum over all ranks, in double precision."""
        return self.sums([value])[0]

    def sums(self, values: list[float]) -> list[float]:
        """Sum of each over all ranks, in double precision."""
        note_meeting()
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(totals)
        return [float(total) for total in totals.tolist()]

    def all_of(self, value: Shared) -> list[Shared]:
        """The values of all ranks, in their order, on every rank."""
        note_meeting()
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Shared) -> Shared:
        """Rank 0's value, on every rank."""
        note_meeting()
        holder = [value]
        torch.distributed.broadcast_object_list(holder, src=0, device=self.device)
        return holder[0]


def join_ranks(device: torch.device, timeout_seconds: int) -> Ranks:
    """Meet all other processes of the job; DeepSpeed must do it, or ZeRO-3 would see a world of one."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_seconds)
    # DeepSpeed works on groups of its own, and torch would give those its default of 10 or 30 minutes.
    vars(distributed_c10d).update(default_pg_timeout=timeout, default_pg_nccl_timeout=timeout)
    deepspeed.init_distributed(backend, timeout=timeout, auto_mpi_discovery=False)
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def leave_ranks() -> None:
    """Part from all other processes."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()

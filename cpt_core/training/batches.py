"""The batches of a rank, read before they are asked for.

In: packed rows, the plan, a rank's place; a step.
Out: the rank's micro-batches of that step.
Promise: while a step is computed, the rows of the next one are read, so that the device does not wait for a disk; what
comes is a function of the step alone.
Never: reads further ahead than one step.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpt_core.config import TrainingConfig
from cpt_core.errors import InputError
from cpt_core.packed_rows import Batch, PackedRows, Row, batch_of, empty_row
from cpt_core.training.order import FILL, rows_of_rank, rows_of_step
from cpt_core.training.plan import StepPlan

PAD_ID = 0
"""Any id will do: it is never trained on and never attended to."""


@dataclass(frozen=True)
class BatchSource:
    """Reads the batches of any step."""

    rows: PackedRows
    plan: StepPlan
    config: TrainingConfig
    rank: int
    world_size: int
    vocab_size: int

    def batches_of(self, step: int) -> list[Batch]:
        """This rank's micro-batches of a step.

        Raises:
            InputError: when a row holds an id that the model does not know.
        """
        step_rows = rows_of_step(
            step,
            num_rows=self.plan.num_rows,
            rows_total=self.plan.rows_total,
            global_batch_rows=self.config.global_batch_rows,
            seed=self.config.seed,
        )
        own = rows_of_rank(
            step_rows, rank=self.rank, world_size=self.world_size, micro_batch_rows=self.config.micro_batch_rows
        )
        return [batch_of(self._read(numbers), document_borders=self.config.document_borders) for numbers in own]

    def _read(self, numbers: NDArray[np.int64]) -> list[Row]:
        rows = []
        for number in numbers:
            row = empty_row(self.rows.row_len_tokens, PAD_ID) if number == FILL else self.rows[int(number)]
            if row.input_ids.max() >= self.vocab_size or row.input_ids.min() < 0:
                raise InputError(
                    f"packed row {number} holds token id {row.input_ids.max()}, but the model's vocabulary has"
                    f" {self.vocab_size} ids; use the model's own tokenizer"
                )
            rows.append(row)
        return rows


class BatchesAhead:
    """The batches of consecutive steps; whoever asks for one makes the next one be read."""

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches-ahead")
        self._coming: dict[int, Future[list[Batch]]] = {}

    def of_step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of a step; any step can be asked for.

        Raises:
            InputError: when a row holds an id that the model does not know.
        """
        found = self._coming.pop(step, None) or self._reader.submit(self._source.batches_of, step)
        self._coming.clear()
        if step + 1 < self._source.plan.steps_total:
            self._coming[step + 1] = self._reader.submit(self._source.batches_of, step + 1)
        return found.result()

    def __enter__(self) -> "BatchesAhead":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)

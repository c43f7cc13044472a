"""This project's reading of packed rows, in the order of training."""

import json
import sys
import time
from typing import Any

from cpt_core.packed_rows import PackedRows, batch_of
from cpt_core.training.order import rows_of_step
from tests.benchmarks.contenders.pack_ours import pack
from tests.benchmarks.measure import tell
from tests.benchmarks.prepared import prepare

MICRO_BATCH_ROWS = 4
GPU_TOKENS_PER_SECOND = 20_000


def main(arguments: dict[str, Any]) -> None:
    """Read the first rows of a fresh epoch, as often as asked."""
    prepared = prepare(arguments["config"]["discovery"]["sources"][0]["uris"])
    packed = pack(prepared, prepared.config.packing, workers=1)
    times = -(-arguments["rows_of_an_epoch"] // sum(artifact.counts["rows"] for artifact in packed))
    rows = PackedRows(prepared.store, packed * times)
    amounts, starts = [], []
    for epoch in range(arguments["repeats"]):
        started = time.perf_counter()
        order = rows_of_step(
            epoch, num_rows=len(rows), rows_total=len(rows), global_batch_rows=arguments["rows_read"], seed=0
        )
        starts.append(time.perf_counter() - started)
        tokens = 0
        for first in range(0, len(order), MICRO_BATCH_ROWS):
            numbers = order[first : first + MICRO_BATCH_ROWS]
            tokens += batch_of([rows[int(number)] for number in numbers], document_borders=True).input_ids.size
        amounts.append(tokens / 1e6 / (time.perf_counter() - started))
    median = sorted(amounts)[len(amounts) // 2]
    tell(
        amounts,
        rows=len(rows),
        packed_shards=len(packed) * times,
        ms_a_row=round(prepared.config.packing.row_len_tokens / 1e3 / median, 2),
        times_a_gpu=round(median * 1e6 / GPU_TOKENS_PER_SECOND),
        epoch_start_ms=round(1e3 * sorted(starts)[len(starts) // 2], 2),
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""The least that any packing to parquet does, by pyarrow alone: token shards are read, rows of their ids written.

No plan, borders, lineage, digests, fsync or record: documents follow each other in rows that are cut anywhere.
"""

import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cpt_core.table_file import IDS_LAYOUT
from tests.benchmarks.measure import tell


def main(arguments: dict[str, Any]) -> None:
    """Read and write as often as asked, each time anew."""
    folder = Path(arguments["scratch"]) / "rows"
    amounts = []
    for _ in range(arguments["repeats"]):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        started = time.perf_counter()
        with ThreadPoolExecutor(arguments["processes"]) as pool:
            tokens = sum(pool.map(lambda file: _copy(file, folder, arguments["row_len_tokens"]), arguments["files"]))
        amounts.append(tokens / 1e6 / (time.perf_counter() - started))
    tell(amounts)


def _copy(file: str, folder: Path, row_len_tokens: int) -> int:
    """One token shard; the number of its tokens."""
    column = pq.read_table(file, columns=["input_ids"], use_threads=False).column("input_ids").combine_chunks()
    ids = column.flatten()
    starts = pa.array([*range(0, len(ids), row_len_tokens), len(ids)], pa.int32())
    rows = pa.table(
        {"input_ids": pa.ListArray.from_arrays(starts, ids, type=pa.list_(pa.field("element", pa.int32())))}
    )
    pq.write_table(rows, folder / Path(file).parent.name, **IDS_LAYOUT, use_dictionary=False, row_group_size=32)
    return len(ids)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

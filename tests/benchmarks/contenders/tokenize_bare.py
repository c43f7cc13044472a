"""The least around the engine: pyarrow's JSON reader, gigatoken, BOS and EOS, parquet; a part of the corpus a process.

No digests, quarantine, strict JSON, comparison of engines, lineage, fsync or record.
"""

import json
import multiprocessing
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import gigatoken
import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from cpt_core.schemas import TOKEN_SHARD
from cpt_core.table_file import IDS_LAYOUT
from cpt_core.tokenization.engine import without_special_tokens
from cpt_core.tokenization.tokenizer import with_borders
from tests.benchmarks.measure import tell

BLOCK_BYTES = 32 << 20
"""No line may be longer, or pyarrow's reader gives up."""
SECONDS_TO_WAIT = 300
"""For a process that may have failed."""
BOS_ID, EOS_ID = 128000, 128001


def main(arguments: dict[str, Any]) -> None:
    """Tokenize as often as asked, each time by processes that have not met a word yet; the slowest one counts."""
    context = multiprocessing.get_context("spawn")
    parts = sorted(Path(arguments["folder"]).iterdir())
    size_mb = sum(part.stat().st_size for part in parts) / 1e6
    amounts, tokens = [], 0
    for _ in range(arguments["repeats"]):
        folder = Path(arguments["scratch"]) / "bare"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        barrier, results = context.Barrier(len(parts)), context.Queue()
        common = (arguments["tokenizer"], folder, barrier, results)
        workers = [context.Process(target=_tokenize, args=(part, *common)) for part in parts]
        for worker in workers:
            worker.start()
        found = [results.get(timeout=SECONDS_TO_WAIT) for _ in workers]
        for worker in workers:
            worker.join()
        amounts.append(size_mb / max(seconds for seconds, _ in found))
        tokens = sum(tokens for _, tokens in found)
    tell(amounts, tokens=tokens)


def _tokenize(part: Path, tokenizer: str, folder: Path, barrier: Any, results: Any) -> None:
    settings = without_special_tokens((Path(tokenizer) / "tokenizer.json").read_bytes())
    engine = gigatoken.Tokenizer.from_json(settings).backend
    options = pa.json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
    schema = pa.schema([TOKEN_SHARD.field("input_ids")])
    tokens = 0
    barrier.wait()
    started = time.perf_counter()
    with pq.ParquetWriter(folder / part.stem, schema, **IDS_LAYOUT, use_dictionary=False) as writer:
        for batch in pa.json.open_json(part, read_options=options):
            layout = engine.encode_batch(batch.column("text").to_pylist(), parallel=False).layout
            encoded = with_borders(layout.content.data.view(np.int32), np.diff(layout.offsets.data), BOS_ID, EOS_ID)
            ends = np.concatenate([[0], np.cumsum(encoded.lengths)])
            writer.write_table(
                pa.Table.from_arrays(
                    [pa.LargeListArray.from_arrays(ends, encoded.ids, type=schema[0].type)], schema=schema
                )
            )
            tokens += len(encoded.ids)
    results.put((time.perf_counter() - started, tokens))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

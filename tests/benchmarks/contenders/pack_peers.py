"""Peers' packing with `datasets`: runs in their environment and imports nothing of this project."""

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np

BATCH_DOCUMENTS = 1000
PAD_ID = 128001
SHUFFLE_SEED = 3407


def group_next_fit(batch: dict[str, list[Any]], row_len_tokens: int) -> dict[str, list[Any]]:
    """Next-fit within a batch; long documents chopped, every tail and the remainder of the batch padded."""
    rows: list[list[int]] = []
    row: list[int] = []

    def close(ids: list[int]) -> None:
        rows.append(ids + [PAD_ID] * (row_len_tokens - len(ids)))

    for ids in batch["input_ids"]:
        if len(row) + len(ids) <= row_len_tokens:
            row = row + ids
            continue
        if row:
            close(row)
            row = []
        if len(ids) <= row_len_tokens:
            row = ids
            continue
        for start in range(0, len(ids), row_len_tokens):
            close(ids[start : start + row_len_tokens])
    if row:
        close(row)
    return {"input_ids": rows, "labels": [list(ids) for ids in rows]}


def pack(documents: datasets.Dataset, arguments: dict[str, Any]) -> datasets.Dataset:
    """Documents -> rows, by the method."""
    row_len_tokens, processes = arguments["row_len_tokens"], arguments["processes"]
    if arguments["method"] == "scripts":
        return documents.shuffle(seed=SHUFFLE_SEED).map(
            partial(group_next_fit, row_len_tokens=row_len_tokens),
            batched=True,
            batch_size=BATCH_DOCUMENTS,
            num_proc=processes,
            remove_columns=documents.column_names,
        )
    from trl import pack_dataset

    return pack_dataset(documents, row_len_tokens, arguments["method"], map_kwargs={"num_proc": processes})


def run_once(arguments: dict[str, Any]) -> tuple[float, float, datasets.Dataset]:
    """Parquet -> parquet: seconds of the whole and of the grouping, and the rows."""
    scratch = Path(arguments["scratch"]) / "peers"
    shutil.rmtree(scratch, ignore_errors=True)
    started = time.perf_counter()
    documents = datasets.load_dataset(
        "parquet", data_files=arguments["files"], columns=["input_ids"], split="train", cache_dir=str(scratch / "cache")
    )
    grouping = time.perf_counter()
    packed = pack(documents, arguments)
    grouped = time.perf_counter()
    packed.to_parquet(scratch / "rows.parquet")
    return time.perf_counter() - started, grouped - grouping, packed


def document_lengths(files: list[str]) -> np.ndarray:
    """Of all documents, in order."""
    import pyarrow.parquet as pq

    return np.concatenate([pq.read_table(file, columns=["num_tokens"]).column(0).to_numpy() for file in files])


def documents_cut(lengths: np.ndarray, arguments: dict[str, Any]) -> int:
    """Documents of at most a row with a cut inside, where a stream of each batch is cut at every row."""
    if arguments["method"] != "wrapped":
        return 0
    cut, row_len_tokens = 0, arguments["row_len_tokens"]
    for part in np.array_split(lengths, arguments["processes"]):
        for first in range(0, len(part), BATCH_DOCUMENTS):
            batch = part[first : first + BATCH_DOCUMENTS].astype(np.int64)
            ends = np.cumsum(batch)
            cut += int(
                (((ends - batch) // row_len_tokens != (ends - 1) // row_len_tokens) & (batch <= row_len_tokens)).sum()
            )
    return cut


def main(arguments: dict[str, Any]) -> None:
    """Pack as often as asked, each time anew."""
    datasets.disable_caching()
    datasets.disable_progress_bars()
    lengths = document_lengths(arguments["files"])
    tokens, row_len_tokens = int(lengths.sum()), arguments["row_len_tokens"]
    runs = [run_once(arguments) for _ in range(arguments["repeats"])]
    packed = runs[-1][2]
    kept = tokens
    if arguments["method"] != "scripts":
        kept = sum(len(ids) for batch in packed.with_format("numpy").iter(1000) for ids in batch["input_ids"])
    groupings = sorted(tokens / 1e6 / grouping for _, grouping, _ in runs)
    facts = {
        "padding": f"{1 - kept / (len(packed) * row_len_tokens):.4%}",
        "rows": len(packed),
        "fewest_rows": -(-kept // row_len_tokens),
        "documents_cut": documents_cut(lengths, arguments),
        "tokens_lost": tokens - kept,
        "grouping_alone": round(groupings[len(groupings) // 2], 2),
    }
    print(json.dumps({"amounts": [tokens / 1e6 / seconds for seconds, _, _ in runs], "facts": facts}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""The tokenization stage: one shard -> one committed token shard.

In: a shard, a tokenizer.
Out: an artifact with the roles ``tokens`` and, where lines were rejected, ``quarantine``.
Promise: documents in = documents out + quarantined; a rejected line is kept with file position and reason; memory
is bounded by one batch of lines.
Never: skips a line uncounted, or commits anything of a shard that failed.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cpt_core.artifacts import Artifact, Draft, commit, find
from cpt_core.config import TokenizationConfig
from cpt_core.errors import ConservationError, InputError
from cpt_core.manifest import Shard
from cpt_core.schemas import QUARANTINE, TOKEN_SHARD
from cpt_core.storage import Store
from cpt_core.tokenization.lines import read_line_batches, read_text_column
from cpt_core.tokenization.parsing import Fault, parse_line, text_of_bytes
from cpt_core.tokenization.tokenizer import TextTokenizer

STAGE = "tokens"
STAGE_VERSION = 1
MAX_RAW_BYTES = 4096
"""How much of a rejected line is kept."""

Candidate = tuple[int, int, str | Fault, bytes]
"""Line, byte offset, text or fault, raw bytes."""


def token_key_parts(shard: Shard, config: TokenizationConfig, tokenizer: TextTokenizer) -> dict[str, Any]:
    """What a token shard depends on. The position in the file is part of it, because line numbers are content."""
    return {
        "stage": STAGE,
        "stage_version": STAGE_VERSION,
        "input": {
            **shard.identity,
            "format": shard.format,
            "first_byte": shard.first_byte,
            "first_line": shard.first_line,
            "size_bytes": shard.size_bytes,
        },
        "text_field": shard.text_field,
        "tokenizer": tokenizer.identity,
    }


def tokenize_shard(
    shard: Shard,
    config: TokenizationConfig,
    *,
    tokenizer: TextTokenizer,
    store: Store,
    on_progress: Callable[[int, int], None] | None = None,
) -> Artifact:
    """Tokenize one shard, or find it in the store.

    Args:
        shard: what to read.
        config: options of the stage.
        tokenizer: the loaded tokenizer.
        store: where to commit.
        on_progress: called with (documents, tokens) after each batch.

    Raises:
        InputError: when the file cannot be read to its end; nothing is committed.
        StoreError: when the store cannot be written; nothing is committed.
    """
    key_parts = token_key_parts(shard, config, tokenizer)
    if shard.problem is not None:
        raise InputError(shard.problem)
    if (artifact := find(store, STAGE, shard.name, key_parts)) is not None:
        return artifact
    started = time.perf_counter()
    with store.staging() as folder:
        writer = _ShardWriter(folder, tokenizer)
        for batch in _candidates(shard):
            documents, tokens = writer.add(batch)
            if on_progress:
                on_progress(documents, tokens)
        staged, counts = writer.close()
        draft = Draft(STAGE, shard.name, key_parts, staged, counts, time.perf_counter() - started)
        return commit(store, draft)


def _candidates(shard: Shard) -> Iterator[list[Candidate]]:
    if shard.format == "parquet":
        row = 0
        for column in read_text_column(shard):
            values = column.to_pylist()
            yield [
                (row + position + 1, -1, text_of_bytes(value, shard.text_field), b"")
                for position, value in enumerate(values)
            ]
            row += len(values)
        return
    for batch in read_line_batches(shard):
        yield [
            (number, offset, parse_line(line, shard.text_field) if line.strip() else "", line)
            for number, offset, line in batch
        ]


class _ShardWriter:
    """Writes the two parquet files of a shard and keeps count."""

    def __init__(self, folder: Path, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._paths = {"tokens": folder / "tokens.parquet", "quarantine": folder / "quarantine.parquet"}
        # The dictionary would only hold the vocabulary again: ids compress better alone.
        self._tokens = pq.ParquetWriter(
            self._paths["tokens"], TOKEN_SHARD, compression="zstd", compression_level=1, use_dictionary=False
        )
        self._quarantine: pq.ParquetWriter | None = None
        self._reasons: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()

    def add(self, batch: list[Candidate]) -> tuple[int, int]:
        """Encode and write one batch: (documents, tokens) written."""
        good = [(line, offset, value) for line, offset, value, _ in batch if isinstance(value, str) and value]
        bad = [(line, offset, value, raw) for line, offset, value, raw in batch if isinstance(value, Fault)]
        self._counted["blank_lines"] += len(batch) - len(good) - len(bad)
        self._counted["documents_in"] += len(good) + len(bad)
        self._set_aside(bad)
        if not good:
            return 0, 0
        lines, offsets, texts = (list(column) for column in zip(*good, strict=True))
        tokenized = self._tokenizer.encode(texts)
        ends = np.concatenate([[0], np.cumsum(tokenized.lengths)])
        table = pa.Table.from_arrays(
            [
                pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(tokenized.ids, pa.int32())),
                pa.array(tokenized.lengths, pa.int32()),
                pa.array(lines, pa.int64()),
                pa.array(offsets, pa.int64()),
            ],
            schema=TOKEN_SHARD,
        )
        self._tokens.write_table(table)
        self._counted["documents_out"] += table.num_rows
        self._counted["tokens"] += len(tokenized.ids)
        return table.num_rows, len(tokenized.ids)

    def close(self) -> tuple[dict[str, Path], dict[str, Any]]:
        """Finish the files: (role to path, counts).

        Raises:
            ConservationError: when a document was lost or gained.
        """
        self._tokens.close()
        if self._quarantine is not None:
            self._quarantine.close()
        names = ("documents_in", "documents_out", "tokens", "blank_lines")
        counts: dict[str, Any] = {name: self._counted[name] for name in names}
        counts["documents_quarantined"] = self._reasons.total()
        counts["quarantined_by_reason"] = dict(sorted(self._reasons.items()))
        if counts["documents_in"] != counts["documents_out"] + counts["documents_quarantined"]:
            raise ConservationError(f"tokenization: documents in and out differ: {counts}")
        return {role: path for role, path in self._paths.items() if path.exists()}, counts

    def _set_aside(self, bad: list[tuple[int, int, Fault, bytes]]) -> None:
        if not bad:
            return
        if self._quarantine is None:
            self._quarantine = pq.ParquetWriter(self._paths["quarantine"], QUARANTINE, compression="zstd")
        self._reasons.update(fault.reason for _, _, fault, _ in bad)
        rows = [
            {
                "line": line,
                "byte_offset": offset,
                "reason": fault.reason,
                "detail": fault.detail,
                "raw": raw[:MAX_RAW_BYTES],
            }
            for line, offset, fault, raw in bad
        ]
        self._quarantine.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE))

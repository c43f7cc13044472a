"""The pictures of a run: how long its documents are, how full its rows, how its loss went.

In: artifacts and their store.
Out: SVG.
Promise: reads one integer column of a table at a time, and keeps only counts.
Never: knows Prefect, or decodes a token.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpt_core.artifacts import Artifact
from cpt_core.storage import Store
from tasks.charts import Bar, Curve, Mark, curves, histogram

FILL_BARS = 20
ROWS_AT_ONCE = 1_000_000

Ints = NDArray[np.int64]


def document_lengths(index: Artifact, row_len_tokens: int, store: Store) -> str:
    """Documents by length, in powers of two, with the length of a row among them."""
    counts = np.zeros(32, dtype=np.int64)
    for lengths in _columns(index.path("documents"), store):
        exponents = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
        counts += np.bincount(exponents, minlength=len(counts))
    used = np.flatnonzero(counts)
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    bars = [Bar(_length(exponent), int(counts[exponent])) for exponent in range(first, last + 1)]
    at = float(np.log2(row_len_tokens)) - first
    mark = Mark(f"a row has {row_len_tokens:,}", at) if 0 <= at <= len(bars) else None
    return histogram(f"Lengths of {index.counts['documents']:,} documents", "tokens in a document", bars, mark)


def row_fill(packed: list[Artifact], store: Store) -> str:
    """Rows by how much of them is not padding, in steps of five percent."""
    counts = np.zeros(FILL_BARS, dtype=np.int64)
    row_len_tokens = packed[0].counts["row_len_tokens"] if packed else 1
    for artifact in packed:
        for filled in _columns(artifact.path("rows"), store):
            bars = np.minimum(filled * FILL_BARS // row_len_tokens, FILL_BARS - 1)
            counts += np.bincount(bars, minlength=FILL_BARS)
    bars_shown = [Bar(f"{100 * bar // FILL_BARS}%", int(count)) for bar, count in enumerate(counts)]
    return histogram(f"Fill of {int(counts.sum()):,} rows", "tokens of a row that are not padding", bars_shown)


def learning_curves(name: str, metrics: list[dict[str, Any]]) -> str:
    """Loss and learning rate over the steps so far."""
    panels = [
        Curve(label, [(line["step"], line[field]) for line in metrics])
        for label, field in (("loss", "loss"), ("learning rate", "learning_rate"))
    ]
    return curves(f"Training of {name}", "step", panels)


def read_metrics(trained: Artifact) -> list[dict[str, Any]]:
    """The metrics of every step of a trained model; none when the file is gone."""
    path = Path(trained.counts["hf_model_uri"]).parent / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _length(exponent: int) -> str:
    """A power of two as lengths of context are called: 512, 8k, 128k."""
    return f"{2**exponent}" if exponent < 10 else f"{2 ** (exponent - 10)}k"


def _columns(name: str, store: Store) -> Iterator[Ints]:
    """The lengths in a stored table, a part at a time."""
    with store.open_parquet(name) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=["num_tokens"], use_threads=False):
            yield batch.column(0).to_numpy().astype(np.int64)

"""From a training step to its documents, and from a document to its steps. Runs outside a graph.

In: a configuration whose data stages are in the store; a step, or a document by source, file and line.
Out: plain values.
Promise: computed from the order of rows alone, so that it needs no training run, before it or after it.
Never: reads a token id.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig, TrainingConfig
from cpt_core.errors import ConfigError
from cpt_core.lineage import PlacedRow, pieces_of_rows, rows_of_document
from cpt_core.manifest import Shard
from cpt_core.schemas import TRAIN
from cpt_core.storage import Store
from cpt_core.tokenization import read_rejected_lines
from cpt_core.training import StepPlan, plan_steps
from cpt_core.training.order import FILL, rows_of_step, steps_of_row
from tasks.planning import plan_run
from tasks.prepared import Prepared


@dataclass(frozen=True)
class DocumentName:
    """What a user calls a document: ``SOURCE:FILE:LINE``."""

    source: str
    file: str
    line: int

    @classmethod
    def parse(cls, text: str) -> "DocumentName":
        """Read it.

        Raises:
            ConfigError: when it is none.
        """
        source, _, rest = text.partition(":")
        file, _, line = rest.rpartition(":")
        if not (source and file and line.isdecimal()):
            raise ConfigError(f"--document {text}: expected SOURCE:FILE:LINE, such as papers:data/a.jsonl:17")
        return cls(source, file, int(line))


def trace_step(config: PipelineConfig, step: int) -> dict[str, Any]:
    """The documents of one optimizer step, counted from 1 as in the metrics.

    Raises:
        ConfigError: when there is no such step, or the packed rows are not in the store.
    """
    training = config.require_training()
    lineage = _Lineage(_require_prepared(config), Store(config.store_uri))
    plan = plan_steps(lineage.num_train_rows, training)
    if not 1 <= step <= plan.steps_total:
        raise ConfigError(f"--step {step}: the run has steps 1 to {plan.steps_total:,}")
    numbers = rows_of_step(
        step - 1,
        num_rows=plan.num_rows,
        rows_total=plan.rows_total,
        global_batch_rows=training.global_batch_rows,
        seed=training.seed,
    )
    rows = [int(row) for row in numbers if row != FILL]
    placed = pieces_of_rows(rows, lineage.prepared.train_rows, lineage.store)
    return {
        "step": step,
        "steps_total": plan.steps_total,
        "empty_rows": len(numbers) - len(rows),
        "rows": [
            {**_where(row), "documents": [lineage.document_of_piece(piece) for piece in row.pieces]} for row in placed
        ],
    }


def trace_document(config: PipelineConfig, name: DocumentName) -> dict[str, Any]:
    """The rows that hold a document, and the steps that train on them.

    Raises:
        ConfigError: when there is no such document, or the packed rows are not in the store.
    """
    lineage = _Lineage(_require_prepared(config), Store(config.store_uri))
    shards = lineage.shards_with(name)
    documents = [document for shard in shards for document in lineage.documents_at(shard, name.line)]
    rejected = [line.shown() for line in lineage.rejected_at(shards, name.line)]
    if not documents and not rejected:
        raise ConfigError(f"{shards[0].uri}:{name.line}: no document there; the line is blank, or the file is shorter")
    training = config.training
    plan = plan_steps(lineage.num_train_rows, training) if training and lineage.num_train_rows else None
    return {
        "documents": [
            {**document, "rows": [_trained(row, training, plan) for row in lineage.rows_with(document)]}
            for document in documents
        ],
        "quarantined": rejected,
    }


def _require_prepared(config: PipelineConfig) -> Prepared:
    prepared = plan_run(config, with_training=False).prepared
    if prepared is None:
        raise ConfigError(
            f"{config.store_uri}: the packed rows of {config.name} are not there; run `cpt prepare CONFIG`"
        )
    return prepared


def _where(row: PlacedRow) -> dict[str, Any]:
    return {"row": row.row, "packed": row.packed.uri, "row_in_shard": row.row_in_shard}


def _trained(row: PlacedRow, training: TrainingConfig | None, plan: StepPlan | None) -> dict[str, Any]:
    """A row with the part of the document in it and, when it is trained on, its steps."""
    (piece,) = row.pieces
    split = row.packed.counts["split"]
    steps = []
    if training is not None and plan is not None and split == TRAIN:
        steps = steps_of_row(
            row.row,
            num_rows=plan.num_rows,
            rows_total=plan.rows_total,
            global_batch_rows=training.global_batch_rows,
            seed=training.seed,
        )
    part = {name: piece[name] for name in ("first_token", "num_tokens")}
    return {**_where(row), "split": split, **part, "steps": [step + 1 for step in steps]}


class _Lineage:
    """The artifacts of a run, with what connects them."""

    def __init__(self, prepared: Prepared, store: Store) -> None:
        self.prepared = prepared
        self.store = store
        self._places: dict[str, NDArray[np.int64]] = {}

    @property
    def num_train_rows(self) -> int:
        return sum(artifact.counts["rows"] for artifact in self.prepared.train_rows)

    @cached_property
    def _tokens_of_shard(self) -> dict[str, Artifact]:
        pairs = zip(self.prepared.manifest.shards, self.prepared.tokens, strict=True)
        return {shard.name: tokens for shard, tokens in pairs}

    @cached_property
    def _shards_of_piece(self) -> dict[tuple[str, str], list[Shard]]:
        """Shards by source and the digits that pieces name: several when files are equal."""
        found: dict[tuple[str, str], list[Shard]] = {}
        for shard in self.prepared.manifest.shards:
            found.setdefault((shard.source, self._tokens_of_shard[shard.name].key[:12]), []).append(shard)
        return found

    def document_of_piece(self, piece: dict[str, Any]) -> dict[str, Any]:
        """Where the tokens of a piece come from."""
        first, *equal = self._shards_of_piece[piece["source"], piece["tokens_key"]]
        line, byte_offset = self._places_of(first)[piece["document"]].tolist()
        return {
            "source": piece["source"],
            "file": first.uri,
            "line": line,
            "byte_offset": byte_offset,
            "first_token": piece["first_token"],
            "num_tokens": piece["num_tokens"],
            "equal_files": [shard.uri for shard in equal],
        }

    def shards_with(self, name: DocumentName) -> list[Shard]:
        """The shards of a file that may hold a line: one, or all where lines count from the shard."""
        shards = [shard for shard in self.prepared.manifest.shards if shard.source == name.source]
        if not shards:
            sources = dict.fromkeys(shard.source for shard in self.prepared.manifest.shards)
            raise ConfigError(f"--document: no source {name.source}; the sources are {', '.join(sources)}")
        file = _only_file(name.file, list(dict.fromkeys(shard.uri for shard in shards)))
        members = [shard for shard in shards if shard.uri == file]
        if "version" in members[0].identity:
            return members
        return [shard for shard in members if shard.first_line <= max(1, name.line)][-1:]

    def documents_at(self, shard: Shard, line: int) -> list[dict[str, Any]]:
        """The document at a line of a shard, if one is there."""
        places = self._places_of(shard)
        return [
            {
                "source": shard.source,
                "file": shard.uri,
                "line": line,
                "byte_offset": int(places[document, 1]),
                "shard": shard.name,
                "document": document,
            }
            for document in np.flatnonzero(places[:, 0] == line).tolist()
        ]

    def rejected_at(self, shards: list[Shard], line: int) -> list[Any]:
        """The rejected lines of this number."""
        return [
            rejected
            for shard in shards
            for rejected in read_rejected_lines(shard, self._tokens_of_shard[shard.name], self.store)
            if rejected.line == line
        ]

    def rows_with(self, document: dict[str, Any]) -> list[PlacedRow]:
        """The rows that hold a document: those of training first."""
        key = self._tokens_of_shard[document["shard"]].key
        return [
            row
            for packed in (self.prepared.train_rows, self.prepared.held_out_rows)
            for row in rows_of_document(document["source"], key, document["document"], packed, self.store)
        ]

    def _places_of(self, shard: Shard) -> NDArray[np.int64]:
        """int64[documents, 2]: line and byte offset."""
        tokens = self._tokens_of_shard[shard.name]
        if tokens.key not in self._places:
            table = self.store.read_table(tokens.path("tokens"), ["line", "byte_offset"])
            self._places[tokens.key] = np.stack([column.to_numpy() for column in table.columns], axis=1)
        return self._places[tokens.key]


def _only_file(wanted: str, files: list[str]) -> str:
    absolute = str(Path(wanted).absolute())
    exact = [file for file in files if file in (wanted, absolute)]
    matching = exact or [file for file in files if file.endswith(f"/{wanted}")]
    if len(matching) == 1:
        return matching[0]
    seen = "no input file" if not matching else f"{len(matching)} input files, {matching[0]} the first,"
    raise ConfigError(f"--document: {seen} of this source ends with {wanted}; expected one file as `cpt plan` reads it")

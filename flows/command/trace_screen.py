"""What ``cpt trace`` prints for people."""

from typing import Any

from cpt_core.inspection import escape
from cpt_core.schemas import TRAIN
from flows.command.output import one_line

ROWS_SHOWN = 40


def describe_step(traced: dict[str, Any]) -> str:
    """The rows of a step with their documents."""
    rows = traced["rows"]
    documents = [document for row in rows for document in row["documents"]]
    tokens = sum(document["num_tokens"] for document in documents)
    empty = f" and {traced['empty_rows']:,} empty ones" if traced["empty_rows"] else ""
    lines = [
        f"step {traced['step']:,} of {traced['steps_total']:,}: {len(rows):,} rows{empty}, "
        f"{len(documents):,} pieces of documents, {tokens:,} tokens"
    ]
    for row in rows[:ROWS_SHOWN]:
        lines.append(_row(row))
        lines += [f"  {_file(document)}, {_part(document)}{_equal(document)}" for document in row["documents"]]
    if len(rows) > ROWS_SHOWN:
        lines.append(f"… and {len(rows) - ROWS_SHOWN:,} more rows; `--json` lists all")
    return "\n".join(lines)


def describe_document(traced: dict[str, Any], *, with_steps: bool) -> str:
    """The rows and steps of a document, or why it has none."""
    lines = [
        f"{_file(line)} is quarantined: {line['reason']}, {escape(line['detail'])}" for line in traced["quarantined"]
    ]
    for document in traced["documents"]:
        lines.append(f"{_file(document)}: document {document['document']:,} of {document['shard']}")
        lines += [f"  {_row(row)}: {_part(row)}; {_use(row, with_steps)}" for row in document["rows"]]
        lines += [] if document["rows"] else ["  in no row: dropped by packing.long_documents"]
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    return f"row {row['row']:,} (row {row['row_in_shard']:,} of {row['packed'].rpartition('/')[2]})"


def _file(place: dict[str, Any]) -> str:
    return f"{place['source']} {one_line(place['file'])}:{place['line']}"


def _part(piece: dict[str, Any]) -> str:
    return f"tokens {piece['first_token']:,} to {piece['first_token'] + piece['num_tokens'] - 1:,}"


def _equal(document: dict[str, Any]) -> str:
    others = len(document["equal_files"])
    return f" (or the same line of {others:,} equal files)" if others else ""


def _use(row: dict[str, Any], with_steps: bool) -> str:
    if row["split"] != TRAIN:
        return "held out, never trained on"
    if not with_steps:
        return "no training section, so no steps"
    return f"steps {', '.join(f'{step:,}' for step in row['steps'])}" if row["steps"] else "the run ends before it"

"""A look into any artifact: its record, and its first documents or rows, decoded.

In: the URI of an artifact's folder.
Out: plain values, and the same as text.
Promise: only reads; text is shown with control characters escaped, so that a corpus cannot drive a terminal.
Never: needs the configuration that made the artifact: the store remembers the tokenizer.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tokenizers import Tokenizer

from cpt_core.artifacts import Artifact, damaged_files, read_record
from cpt_core.errors import ConfigError
from cpt_core.printable import printable
from cpt_core.storage import Store

SHOWN_CHARACTERS = 160
TOKENIZERS_FOLDER = "tokenizers"


def inspect_artifact(uri: str, shown: int) -> dict[str, Any]:
    """The record of an artifact and its first ``shown`` entries.

    Raises:
        ConfigError: when there is no artifact at this URI.
    """
    store_uri, stage, folder = _split(uri)
    store = Store(store_uri)
    artifact = read_record(store, f"{stage}/{folder}")
    if artifact is None:
        raise ConfigError(
            f"{uri}: holds no artifact.json that can be read; "
            "expected the folder of an artifact, such as STORE/packed/NAME"
        )
    damaged = damaged_files(store, artifact)
    return {
        "uri": artifact.uri,
        "stage": artifact.stage,
        "key": artifact.key,
        "key_parts": artifact.key_parts,
        "counts": artifact.counts,
        "seconds": artifact.seconds,
        "files": {role: vars(stored) for role, stored in artifact.files.items()},
        "damaged_files": damaged,
        "entries": [] if damaged else _entries(store, artifact, shown),
    }


def describe(found: dict[str, Any]) -> str:
    """What ``inspect_artifact`` found, as text."""
    lines = [found["uri"], f"stage  {found['stage']}", f"key    {found['key']}"]
    lines += [f"file   {name['name']}  {name['size_bytes']:,} bytes" for name in found["files"].values()]
    if found["damaged_files"]:
        lines.append(
            f"DAMAGED {', '.join(found['damaged_files'])}: delete this folder, and the next run computes it again"
        )
    lines += [f"{name}  {json.dumps(value, ensure_ascii=False)}" for name, value in found["counts"].items()]
    for entry in found["entries"]:
        lines.append("")
        lines += _describe_entry(entry)
    return "\n".join(map(printable, lines))


def _split(uri: str) -> tuple[str, str, str]:
    parts = (uri if "://" in uri else str(Path(uri).absolute())).rstrip("/").rsplit("/", 2)
    if len(parts) != 3 or not parts[0]:
        raise ConfigError(f"{uri}: expected the folder of an artifact, such as STORE/packed/NAME")
    return parts[0], parts[1], parts[2]


def _entries(store: Store, artifact: Artifact, shown: int) -> list[dict[str, Any]]:
    if artifact.stage == "tokens":
        return _documents(store, artifact, shown) + _quarantined(store, artifact, shown)
    if artifact.stage == "packed":
        return _rows(store, artifact, shown)
    if artifact.stage == "index":
        return _first_rows(store, artifact.path("documents"), shown)
    return []


def _documents(store: Store, artifact: Artifact, shown: int) -> list[dict[str, Any]]:
    tokenizer = _tokenizer(store, artifact)
    return [
        {**row, "input_ids": row["input_ids"][:16], "text": _decode(tokenizer, row["input_ids"])}
        for row in _first_rows(store, artifact.path("tokens"), shown)
    ]


def _quarantined(store: Store, artifact: Artifact, shown: int) -> list[dict[str, Any]]:
    if "quarantine" not in artifact.files:
        return []
    rows = _first_rows(store, artifact.path("quarantine"), shown)
    return [
        {**row, "detail": escape(row["detail"]), "raw": escape(row["raw"].decode(errors="backslashreplace"))}
        for row in rows
    ]


def _rows(store: Store, artifact: Artifact, shown: int) -> list[dict[str, Any]]:
    tokens_key = artifact.key_parts["token_shards"][0]
    folders = store.folders_ending("tokens", tokens_key[:8])
    tokens = read_record(store, f"tokens/{folders[0]}") if folders else None
    tokenizer = _tokenizer(store, tokens) if tokens else None
    entries = []
    for number, row in enumerate(_first_rows(store, artifact.path("rows"), shown)):
        start = 0
        for piece in row["pieces"]:
            ids = row["input_ids"][start : start + piece["num_tokens"]]
            piece["text"] = _decode(tokenizer, ids)
            start += piece["num_tokens"]
        padding = len(row["input_ids"]) - row["num_tokens"]
        entries.append({"row": number, "num_tokens": row["num_tokens"], "padding": padding, "pieces": row["pieces"]})
    return entries


def _first_rows(store: Store, name: str, shown: int) -> list[dict[str, Any]]:
    with store.open(name) as stream:
        batches = pq.ParquetFile(stream).iter_batches(batch_size=shown, use_threads=False)
        first = next(batches, None)
        return [] if first is None else first.to_pylist()


def _tokenizer(store: Store, tokens: Artifact) -> Tokenizer | None:
    digest = tokens.key_parts["tokenizer"]["tokenizer_json_sha256"]
    try:
        return Tokenizer.from_str(store.read_bytes(f"{TOKENIZERS_FOLDER}/{digest}.json").decode())
    except FileNotFoundError:
        return None


def _decode(tokenizer: Tokenizer | None, ids: list[int]) -> str | None:
    if tokenizer is None:
        return None
    return escape(tokenizer.decode(ids[: 2 * SHOWN_CHARACTERS], skip_special_tokens=False))


def escape(text: str) -> str:
    """The first characters of a text from the data, on one line and without anything that drives a terminal."""
    short = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return printable(short)


def _describe_entry(entry: dict[str, Any]) -> list[str]:
    if "pieces" in entry:
        head = f"row {entry['row']}: {entry['num_tokens']} tokens in {len(entry['pieces'])} documents"
        return [f"{head}, {entry['padding']} padding", *(_describe_piece(piece) for piece in entry["pieces"])]
    if "reason" in entry:
        return [f"quarantined line {entry['line']}: {entry['reason']}, {entry['detail']}", f"  {entry['raw']}"]
    if "text" in entry:
        return [f"document at line {entry['line']}: {entry['num_tokens']} tokens", f"  {entry['text']}"]
    return [", ".join(f"{name} {value}" for name, value in entry.items())]


def _describe_piece(piece: dict[str, Any]) -> str:
    where = f"{piece['source']} {piece['tokens_key']} document {piece['document']}"
    part = f" from token {piece['first_token']}" if piece["first_token"] else ""
    return f"  | {where}{part}, {piece['num_tokens']} tokens: {piece['text']}"

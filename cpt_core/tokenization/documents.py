"""The lines of a shard -> its documents, and the lines that are none.

In: a shard, and limits on its lines.
Out: batches of texts with their places, and of rejected lines with place, reason and digest.
Promise: every line is a document, a rejected line or a blank one, and is counted as such.
Never: stops at a bad line; it does stop at a file whose lines have no such field at all, because that is a mistake of
the configuration and not of the lines.
"""

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cpt_core.config import TokenizationConfig
from cpt_core.errors import InputError
from cpt_core.manifest import Shard
from cpt_core.tokenization.decompression import DecompressionLimits
from cpt_core.tokenization.lines import MAX_RAW_BYTES, LineBatch, LongLine, read_line_batches, read_text_column
from cpt_core.tokenization.parsing import JSON_WHITE_SPACE, Fault, parse_line, text_of_bytes, value_of
from cpt_core.tokenization.repairs import LineRepairs

FIRST_LINES_LOOKED_AT = 1000
"""When more than half of these have no text field, the shard fails instead of being rejected line by line."""
LIKELY_TEXT_FIELDS = ("content", "body", "raw_content", "document")
_NAME = re.compile(r"[\w.-]{1,40}")
"""A key that may be shown in a log: others may be text."""


@dataclass(frozen=True)
class Rejected:
    """A line that is no document.

    Attributes:
        line: number in the file, from 1.
        byte_offset: where it begins in the uncompressed file; -1 for parquet input.
        size_bytes: its length, without the line end; of parquet input, which has no lines, that of the row's text.
        sha256: of all of it.
        fault: why.
        raw: its first MAX_RAW_BYTES.
    """

    line: int
    byte_offset: int
    size_bytes: int
    sha256: str
    fault: Fault
    raw: bytes


@dataclass(frozen=True)
class DocumentBatch:
    """What some consecutive lines hold.

    Attributes:
        texts: of the documents.
        lines: int64[documents], their numbers in the file, from 1.
        byte_offsets: int64[documents], where their lines begin in the uncompressed file; -1 for parquet input.
        raw_lines: as they stand in the file; the texts of parquet input.
        rejected: the lines that are no documents.
        counted: what else was seen: ``blank_lines``, ``byte_order_marks``, ``maybe_truncated``,
            ``documents_repaired``.
        size_bytes: of the lines.
    """

    texts: list[str]
    lines: NDArray[np.int64]
    byte_offsets: NDArray[np.int64]
    raw_lines: list[bytes]
    rejected: list[Rejected]
    counted: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0

    def without(self, faults: dict[int, Fault]) -> "DocumentBatch":
        """The same batch with some of its documents, by position, among the rejected lines."""
        is_kept = np.ones(len(self.texts), dtype=bool)
        is_kept[list(faults)] = False
        kept = np.flatnonzero(is_kept).tolist()
        more = [
            _rejected(int(self.lines[n]), int(self.byte_offsets[n]), self.raw_lines[n], fault)
            for n, fault in faults.items()
        ]
        return replace(
            self,
            texts=[self.texts[n] for n in kept],
            lines=self.lines[is_kept],
            byte_offsets=self.byte_offsets[is_kept],
            raw_lines=[self.raw_lines[n] for n in kept],
            rejected=sorted([*self.rejected, *more], key=lambda reject: reject.line),
        )


def read_documents(shard: Shard, config: TokenizationConfig) -> Iterator[DocumentBatch]:
    """All documents of a shard, in order.

    Raises:
        InputError: when the file cannot be read to its end, or holds no such field.
    """
    repairs = LineRepairs(shard)
    limits = DecompressionLimits(config.max_decompression_ratio, config.max_decompressed_bytes)
    if shard.format == "parquet":
        yield from _documents_of_rows(shard, repairs, config.max_line_bytes, limits)
        return
    check = _TextFieldCheck(shard)
    for batch in read_line_batches(shard, config.max_line_bytes, limits):
        documents = _documents_of_lines(batch, shard.text_field, repairs)
        check.look(batch, documents)
        yield documents


def _documents_of_lines(batch: LineBatch, text_field: str, repairs: LineRepairs) -> DocumentBatch:
    texts: list[str] = []
    raw_lines: list[bytes] = []
    good: list[int] = []
    rejected: list[Rejected] = []
    counted: Counter[str] = Counter(byte_order_marks=batch.byte_order_marks)
    for position, line in enumerate(batch.lines):
        value: str | Rejected | Fault | None = _judge(line, text_field)
        if isinstance(value, Fault):
            place = (batch.first_line + position, int(batch.byte_offsets[position]))
            value = _repaired(repairs, _rejected(*place, line, value), counted)
        if isinstance(value, str):
            texts.append(value)
            raw_lines.append(line if isinstance(line, bytes) else line.head)
            good.append(position)
        elif isinstance(value, Rejected):
            rejected.append(value)
        else:
            counted["blank_lines"] += 1
    if batch.ends_unfinished and rejected and rejected[-1].line == batch.first_line + len(batch.lines) - 1:
        counted["maybe_truncated"] += 1
    places = np.array(good, dtype=np.int64)
    return DocumentBatch(
        texts,
        places + batch.first_line,
        batch.byte_offsets[places],
        raw_lines,
        rejected,
        counted,
        size_bytes=sum(map(_size_bytes, batch.lines)),
    )


def _repaired(repairs: LineRepairs, reject: Rejected, counted: Counter[str]) -> str | Rejected:
    """The text that takes the place of a rejected line, or the line with why it stays rejected."""
    value = repairs.repair(reject.line, reject.byte_offset, reject.sha256, reject.fault)
    if isinstance(value, Fault):
        return replace(reject, fault=value)
    counted["documents_repaired"] += 1
    return value


def _judge(line: bytes | LongLine, text_field: str) -> str | Fault | None:
    """The text of a line, why it has none, or None for a blank line."""
    if isinstance(line, LongLine):
        return _too_long(line.size_bytes)
    value = parse_line(line, text_field)
    if isinstance(value, Fault) and value.reason == "json_syntax" and not line.strip(JSON_WHITE_SPACE):
        return None
    return value


def _rejected(number: int, byte_offset: int, line: bytes | LongLine, fault: Fault) -> Rejected:
    if isinstance(line, LongLine):
        return Rejected(number, byte_offset, line.size_bytes, line.sha256, fault, line.head)
    return Rejected(number, byte_offset, len(line), hashlib.sha256(line).hexdigest(), fault, line[:MAX_RAW_BYTES])


def _size_bytes(line: bytes | LongLine) -> int:
    return line.size_bytes if isinstance(line, LongLine) else len(line)


def _documents_of_rows(
    shard: Shard, repairs: LineRepairs, max_line_bytes: int, limits: DecompressionLimits
) -> Iterator[DocumentBatch]:
    first_row = 1
    for values in read_text_column(shard, limits):
        counted: Counter[str] = Counter()
        judged = [
            _repaired(repairs, _rejected(row, -1, value or b"", text), counted) if isinstance(text, Fault) else text
            for row, value in enumerate(values, first_row)
            for text in [_judge_row(value, shard.text_field, max_line_bytes)]
        ]
        texts = [text for text in judged if isinstance(text, str)]
        rows = [row for row, text in enumerate(judged, first_row) if isinstance(text, str)]
        yield DocumentBatch(
            texts,
            np.array(rows, dtype=np.int64),
            np.full(len(texts), -1, dtype=np.int64),
            [value or b"" for value, text in zip(values, judged, strict=True) if isinstance(text, str)],
            [reject for reject in judged if isinstance(reject, Rejected)],
            counted,
            size_bytes=sum(len(value) for value in values if value is not None),
        )
        first_row += len(values)


def _judge_row(value: bytes | None, text_field: str, max_line_bytes: int) -> str | Fault:
    """The text of a row, or why it has none."""
    if value is not None and len(value) > max_line_bytes:
        return _too_long(len(value))
    return text_of_bytes(value, text_field)


def _too_long(size_bytes: int) -> Fault:
    return Fault("line_too_long", f"{size_bytes:,} bytes, more than tokenization.max_line_bytes allows")


class _TextFieldCheck:
    """Fails early on a file whose lines are objects without the text field."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._looked_at = 0
        self._missing = 0
        self._keys: list[str] = []

    def look(self, batch: LineBatch, documents: DocumentBatch) -> None:
        """The next lines; only the first ones of a shard count."""
        if self._looked_at >= FIRST_LINES_LOOKED_AT:
            return
        lines = min(len(batch.lines), FIRST_LINES_LOOKED_AT - self._looked_at)
        missing = [
            reject
            for reject in documents.rejected
            if reject.fault.reason == "missing_field" and reject.line < batch.first_line + lines
        ]
        if missing and not self._missing:
            self._keys = _names_in(batch.lines[missing[0].line - batch.first_line])
        self._looked_at += lines
        self._missing += len(missing)
        if self._looked_at == FIRST_LINES_LOOKED_AT and 2 * self._missing > FIRST_LINES_LOOKED_AT:
            raise InputError(self._problem())

    def _problem(self) -> str:
        likely = [key for key in self._keys if key in LIKELY_TEXT_FIELDS]
        likely = difflib.get_close_matches(self._shard.text_field, self._keys, n=1) or likely
        hint = f"did you mean {likely[0]!r}?" if likely else f"line keys are {', '.join(self._keys[:10])}."
        return (
            f"{self._shard.uri}: {self._missing:,} of the first {FIRST_LINES_LOOKED_AT:,} lines have no field "
            f"{self._shard.text_field!r}; {hint} Set text_field of the source {self._shard.source}"
        )


def _names_in(line: bytes | LongLine) -> list[str]:
    """The keys of a line that may be shown."""
    return [key for key in value_of(line) if _NAME.fullmatch(key)] if isinstance(line, bytes) else []

"""The logical digest of a table: what it says, whatever file it is written to.

In: the record batches or tables of one schema, in order of their rows.
Out: a lower-case hexadecimal sha256 of 64 characters.
Promise: equal rows give equal digests however they are cut into batches, chunks and row groups, and whether a column
is ``list`` or ``large_list``, ``string`` or ``large_string``, plain or dictionary-encoded; more than 1 GB/s.
Never: loops over rows in Python, or guesses what a null is worth: a null is an error, as in every table of a stage.

Method: each column is one or several streams of raw buffers with a sha256 each: a list is the stream of its lengths
(int64) and those of its values, a struct those of its fields. The digest is the sha256 of names, types and these.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cpt_core.fingerprint import fingerprint


class TableDigest:
    """Takes a table piece by piece."""

    def __init__(self, schema: pa.Schema) -> None:
        self._names = schema.names
        self._types = [_logical_type(field.type) for field in schema]
        self._streams: dict[str, hashlib._Hash] = {}
        self._num_rows = 0

    def update(self, rows: pa.Table | pa.RecordBatch) -> None:
        """The next rows.

        Raises:
            ValueError: when a column is another than in the schema, or holds a null.
        """
        types = [_logical_type(field.type) for field in rows.schema]
        if (rows.schema.names, types) != (self._names, self._types):
            raise ValueError(f"columns are {rows.schema.names} {types}, expected {self._names} {self._types}")
        batches = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
        for batch in batches:
            for name, column in zip(self._names, batch.columns, strict=True):
                for path, buffer in _buffers(name, column):
                    self._streams.setdefault(path, hashlib.sha256()).update(buffer)
        self._num_rows += rows.num_rows

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        # A stream appears with its first bytes, so that an empty table is one without streams however it came.
        empty = hashlib.sha256().digest()
        streams = {path: stream.hexdigest() for path, stream in self._streams.items() if stream.digest() != empty}
        columns = [list(pair) for pair in zip(self._names, self._types, strict=True)]
        return fingerprint({"columns": columns, "num_rows": self._num_rows, "streams": streams})


def table_digest(schema: pa.Schema, parts: Iterable[pa.Table | pa.RecordBatch]) -> str:
    """The logical digest of a table that comes in parts."""
    digest = TableDigest(schema)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _logical_type(data_type: pa.DataType) -> str:
    """The name of a type without what only its encoding says."""
    if pa.types.is_dictionary(data_type):
        return _logical_type(data_type.value_type)
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        return f"list<{_logical_type(data_type.value_type)}>"
    if pa.types.is_struct(data_type):
        return f"struct<{','.join(f'{field.name}:{_logical_type(field.type)}' for field in data_type)}>"
    return str(data_type).removeprefix("large_")


def _buffers(path: str, array: pa.Array) -> Iterator[tuple[str, memoryview]]:
    """Every (stream, bytes) of an array, in a fixed order."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count:
        raise ValueError(f"column {path} holds {array.null_count} null(s), expected none")
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        yield f"{path}#", _bytes_of(np.diff(array.offsets.to_numpy()).astype(np.int64))
        yield from _buffers(f"{path}[]", array.flatten())
    elif pa.types.is_struct(array.type):
        for field, child in zip(array.type, array.flatten(), strict=True):
            yield from _buffers(f"{path}.{field.name}", child)
    elif isinstance(array, pa.StringArray | pa.BinaryArray | pa.LargeStringArray | pa.LargeBinaryArray):
        ends = _value_ends(array)
        yield f"{path}#", _bytes_of(np.diff(ends).astype(np.int64))
        yield path, memoryview(array.buffers()[2] or b"")[int(ends[0]) : int(ends[-1])]
    elif pa.types.is_boolean(array.type):
        yield path, _bytes_of(array.cast(pa.uint8()).to_numpy())
    else:
        yield path, _bytes_of(array.to_numpy())


def _value_ends(array: pa.Array) -> NDArray[Any]:
    """Where the values of a string or binary array start and end in its data."""
    is_large = isinstance(array, pa.LargeStringArray | pa.LargeBinaryArray)
    offsets = array.buffers()[1]
    if offsets is None or not len(array):
        return np.zeros(1, dtype=np.int64)
    ends = np.frombuffer(offsets, dtype=np.int64 if is_large else np.int32)
    return ends[array.offset : array.offset + len(array) + 1]


def _bytes_of(values: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B") if values.size else memoryview(b"")

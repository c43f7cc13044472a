"""A parquet file under construction that fails in one line.

In: what ``pyarrow.parquet.ParquetWriter`` takes.
Out: the file, with a checksum for every page.
Promise: the first error is the only one: a writer that an error has left is closed silently.
Never: tries to finish a file after its disk was full; Arrow's own writer does, when it is collected, and prints a
traceback that nobody can catch.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

IDS_LAYOUT: dict[str, Any] = {
    "compression": "lz4",
    "column_encoding": {"input_ids.list.element": "BYTE_STREAM_SPLIT"},
}
"""How tables of token ids are written. Bytes of equal weight stand together, because the upper two of an id are nearly
constant. zstd would save another quarter of the size and take nearly twice the time."""


class TableFile(pq.ParquetWriter):
    """Writes tables of one schema."""

    def __init__(self, path: Path, schema: pa.Schema, **options: Any) -> None:
        super().__init__(path, schema, write_page_checksum=True, **options)

    def close(self) -> None:
        """Finish the file, or fail once."""
        try:
            super().close()
        finally:
            self.is_open = False

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._give_up()

    def __del__(self) -> None:
        if getattr(self, "is_open", False):
            self._give_up()

    def _give_up(self) -> None:
        with suppress(Exception):  # the error that led here says what is wrong
            self.close()

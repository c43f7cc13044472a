"""Where to cut a large file.

In: sizes in bytes; the bytes around each wanted cut.
Out: ranges of whole lines that cover the file exactly.
Promise: nothing is copied; cuts depend only on the content and on shard_size_bytes.
Never: cuts inside a line, however long it is.
"""

from collections.abc import Callable

READ_BYTES = 1 << 16


def cut_targets(file_size_bytes: int, shard_size_bytes: int) -> list[int]:
    """Byte offsets near which a file is to be cut into equal parts of at most ``shard_size_bytes``."""
    parts = max(1, -(-file_size_bytes // shard_size_bytes))
    return [file_size_bytes * part // parts for part in range(1, parts)]


def line_ranges(
    file_size_bytes: int, targets: list[int], read_at: Callable[[int, int], bytes]
) -> list[tuple[int, int]]:
    """(first byte, size in bytes) of ranges that begin at line starts and cover the file.

    Args:
        file_size_bytes: size of the file.
        targets: wanted cuts, ascending; each moves forward to the next line start, and those that meet merge.
        read_at: reads (offset, length) bytes of the file.
    """
    starts = [0]
    for target in targets:
        start = _next_line_start(target, file_size_bytes, read_at)
        if starts[-1] < start < file_size_bytes:
            starts.append(start)
    ends = [*starts[1:], file_size_bytes]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]


def _next_line_start(offset: int, file_size_bytes: int, read_at: Callable[[int, int], bytes]) -> int:
    # The byte before the offset is looked at first: if it ends a line, the offset itself is a start.
    position = offset - 1
    while position < file_size_bytes:
        chunk = read_at(position, READ_BYTES)
        newline = chunk.find(b"\n")
        if newline >= 0:
            return position + newline + 1
        if not chunk:
            break
        position += len(chunk)
    return file_size_bytes

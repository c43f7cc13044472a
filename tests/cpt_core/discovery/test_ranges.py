"""Where a large file is cut."""

from hypothesis import given
from hypothesis import strategies as st

from cpt_core.discovery.ranges import cut_targets, line_ranges


@given(sizes=st.lists(st.integers(0, 30), max_size=30), shard_size=st.integers(1, 60), last_has_end=st.booleans())
def test_ranges_are_whole_lines_that_cover_the_file(sizes, shard_size, last_has_end):
    """For any lines and any shard size nothing is lost, repeated or cut."""
    content = b"\n".join(b"x" * size for size in sizes) + (b"\n" if last_has_end else b"")
    ranges = line_ranges(
        len(content), cut_targets(len(content), shard_size), lambda offset, n: content[offset : offset + n]
    )
    parts = [content[first : first + size] for first, size in ranges]
    assert b"".join(parts) == content
    assert all(part.endswith(b"\n") for part in parts[:-1])


def test_cuts_are_even():
    """A file of 10 with shards of at most 4 is cut into thirds, not into 4 + 4 + 2."""
    assert cut_targets(10, 4) == [3, 6]

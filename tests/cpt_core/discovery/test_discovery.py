"""Which files there are, how they are cut, and what identifies them."""

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt_core.config import DiscoveryConfig
from cpt_core.discovery import discover_sources
from cpt_core.discovery.ranges import cut_targets, line_ranges
from cpt_core.errors import ConfigError, InputError
from cpt_core.storage import Store


def sources(*uris: str, name: str = "a") -> DiscoveryConfig:
    """One source."""
    return DiscoveryConfig.model_validate({"sources": [{"name": name, "uris": list(uris)}]})


def write(path: Path, content: bytes = b'{"text": "x"}\n') -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_directory_stands_for_all_corpus_files_below_it_in_bytewise_order(tmp_path, store):
    """Upper case sorts before lower case, and files of other kinds are not input."""
    for name in ("b.jsonl", "B.jsonl", "sub/a.jsonl.gz", "a.jsonl.zst", "notes.txt", "t.parquet"):
        write(tmp_path / "corpus" / name)
    manifest = discover_sources(sources(str(tmp_path / "corpus")), 10_000, store=store)
    found = [(shard.name, str(Path(shard.uri).relative_to(tmp_path / "corpus"))) for shard in manifest.shards]
    assert found == [
        ("a-00000", "B.jsonl"),
        ("a-00001", "a.jsonl.zst"),
        ("a-00002", "b.jsonl"),
        ("a-00003", "sub/a.jsonl.gz"),
        ("a-00004", "t.parquet"),
    ]


def test_one_basename_in_two_directories_is_two_files(tmp_path, store):
    """The scripts that this replaces lose the second one."""
    for folder in ("x", "y"):
        write(tmp_path / folder / "part.jsonl", f'{{"text": "{folder}"}}\n'.encode())
    manifest = discover_sources(sources(str(tmp_path / "x"), str(tmp_path / "y")), 10_000, store=store)
    assert [Path(shard.uri).parent.name for shard in manifest.shards] == ["x", "y"]


def test_a_file_matched_twice_is_one_shard(tmp_path, store):
    """A directory and a glob into it do not double a corpus."""
    write(tmp_path / "part.jsonl")
    manifest = discover_sources(sources(str(tmp_path), str(tmp_path / "*.jsonl")), 10_000, store=store)
    assert len(manifest.shards) == 1


@pytest.mark.parametrize("uri", ["nothing/*.jsonl", "nothing.jsonl", "."])
def test_a_uri_without_a_match_is_an_error_that_shows_it_resolved(tmp_path, store, uri):
    """A typing error is not an empty corpus."""
    resolved = str(tmp_path / uri)
    with pytest.raises(ConfigError) as caught:
        discover_sources(sources(resolved), 10_000, store=store)
    assert str(caught.value).startswith(f"discovery.sources: a: {resolved} matches no file; expected")


def test_a_large_file_is_cut_at_line_borders_without_copying(tmp_path, store):
    """Ranges begin at line starts, cover the file, and carry their own digests and line numbers."""
    lines = [b'{"text": "%d"}\n' % number for number in range(10)]  # 14 bytes each
    path = write(tmp_path / "big.jsonl", b"".join(lines))
    shards = discover_sources(sources(str(path)), 50, store=store).shards
    assert [(s.first_byte, s.size_bytes, s.first_line) for s in shards] == [(0, 56, 1), (56, 42, 5), (98, 42, 8)]
    assert shards[1].identity == {"sha256": hashlib.sha256(b"".join(lines[4:7])).hexdigest()}


def test_a_compressed_file_is_one_shard_whatever_its_name(tmp_path, store):
    """The first bytes tell, not the suffix."""
    path = write(tmp_path / "plain-looking.jsonl", gzip.compress(b'{"text": "x"}\n' * 1000, mtime=0))
    (shard,) = discover_sources(sources(str(path)), 10, store=store).shards
    assert shard.format == "gzip"


def test_an_unchanged_file_is_not_read_again(tmp_path, store):
    """The second discovery reads no byte of the corpus and finds the same shards."""
    path = write(tmp_path / "part.jsonl", b'{"text": "x"}\n' * 9)
    first = discover_sources(sources(str(path)), 50, store=store)
    second = discover_sources(sources(str(path)), 50, store=store)
    assert (first.bytes_read, second.bytes_read) == (126, 0)
    assert second.shards == first.shards


def test_a_damaged_memory_only_costs_a_second_reading(tmp_path, store):
    """What was remembered may be lost at any time."""
    path = write(tmp_path / "part.jsonl")
    first = discover_sources(sources(str(path)), 50, store=store)
    for memory in store.local_path("inputs").iterdir():
        memory.write_bytes(b"[{")
    assert discover_sources(sources(str(path)), 50, store=store) == first


def test_mode_stat_reads_nothing(tmp_path, store):
    """Path, size and modification time identify the file."""
    path = write(tmp_path / "part.jsonl")
    config = sources(str(path)).model_copy(update={"fingerprint_inputs": "stat"})
    manifest = discover_sources(config, 50, store=store)
    assert manifest.bytes_read == 0
    assert sorted(manifest.shards[0].identity) == ["file_size_bytes", "uri", "version"]


def test_sources_on_an_object_store_are_found(tmp_path):
    """Any fsspec URI is a source; the in-memory file system stands for all."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe(f"/{tmp_path.name}/corpus/a.jsonl", b'{"text": "x"}\n')
    uri = f"memory://{tmp_path.name}/corpus"
    (shard,) = discover_sources(sources(uri), 50, store=Store(f"memory://{tmp_path.name}/store")).shards
    assert shard.uri == f"memory:///{tmp_path.name}/corpus/a.jsonl"
    assert shard.size_bytes == 14


@pytest.mark.parametrize(
    "name", ["a b.jsonl", "-a.jsonl", "a\nb.jsonl", "\udcff.jsonl", "x" * 249 + ".jsonl", "[a].jsonl"]
)
def test_odd_file_names_are_files_like_any_other(tmp_path, store, name):
    """White space, dashes, line ends, bytes that are no UTF-8, 255 bytes, brackets; remembered like the rest."""
    write(tmp_path / "corpus" / name)
    for _ in range(2):
        manifest = discover_sources(sources(str(tmp_path / "corpus")), 50, store=store)
        assert [Path(shard.uri).name for shard in manifest.shards] == [name]
    assert manifest.bytes_read == 0


def test_a_pipe_is_not_opened(tmp_path, store):
    """A FIFO among the files would block for ever: it is refused by name."""
    write(tmp_path / "corpus/a.jsonl")
    os.mkfifo(tmp_path / "corpus/pipe.jsonl")
    for uri in ("corpus", "corpus/*", "corpus/pipe.jsonl"):
        with pytest.raises(InputError, match=r"pipe\.jsonl: is no regular file"):
            discover_sources(sources(str(tmp_path / uri)), 50, store=store)


def test_a_link_to_a_file_is_that_file(tmp_path, store):
    """A folder of links, such as a download cache, loses nothing."""
    write(tmp_path / "elsewhere/a")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.jsonl").symlink_to(tmp_path / "elsewhere/a")
    for uri in ("corpus", "corpus/*.jsonl", "corpus/a.jsonl"):
        (shard,) = discover_sources(sources(str(tmp_path / uri)), 50, store=store).shards
        assert (shard.size_bytes, shard.problem) == (14, None)


@pytest.mark.parametrize(
    ("target", "message"),
    [("nothing", "is a link to a file that does not exist"), (".", "is a symbolic link to a folder")],
)
def test_a_link_that_would_be_skipped_is_an_error(tmp_path, store, target, message):
    """Dangling links and links to folders are named, because skipping them would lose text."""
    write(tmp_path / "corpus/a.jsonl")
    (tmp_path / "corpus/b.jsonl").symlink_to(target)
    with pytest.raises(InputError, match=message):
        discover_sources(sources(str(tmp_path / "corpus")), 50, store=store)


def test_one_file_under_two_spellings_is_found_once(tmp_path, store):
    """Dots in a path do not double a corpus."""
    write(tmp_path / "corpus/a.jsonl")
    uris = [str(tmp_path / "corpus/a.jsonl"), str(tmp_path / "corpus/../corpus/a.jsonl")]
    assert len(discover_sources(sources(*uris), 50, store=store).shards) == 1


def test_a_change_that_keeps_size_and_modification_time_is_seen(tmp_path, store):
    """The change time tells, which no tool can set back."""
    path = write(tmp_path / "a.jsonl", b'{"text": "aaaa"}\n')
    os.utime(path, ns=(1, 1))
    first = discover_sources(sources(str(path)), 50, store=store)
    path.write_bytes(b'{"text": "zzzz"}\n')
    os.utime(path, ns=(1, 1))
    assert discover_sources(sources(str(path)), 50, store=store).shards[0].identity != first.shards[0].identity


@pytest.mark.parametrize("content", ['{"text": "x"}'.encode("utf-16"), '{"text": "x"}'.encode("utf-32-be")])
def test_a_file_of_another_encoding_is_a_problem_of_its_shard(tmp_path, store, content):
    """The file fails as a whole instead of line by line."""
    path = write(tmp_path / "a.jsonl", content)
    (shard,) = discover_sources(sources(str(path)), 50, store=store).shards
    assert "is UTF-16 or UTF-32, expected UTF-8" in shard.problem


def test_a_zstd_file_may_begin_with_a_skippable_frame(tmp_path, store):
    """As parallel compressors write it."""
    path = write(tmp_path / "a.jsonl", b"\x50\x2a\x4d\x18\x04\0\0\0abcd")
    (shard,) = discover_sources(sources(str(path)), 50, store=store).shards
    assert shard.format == "zstd"


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

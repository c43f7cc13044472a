"""Which files there are, how they are cut, and what identifies them."""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import resource
import socket
from pathlib import Path

import pytest

from cpt_core.config import DiscoveryConfig
from cpt_core.discovery import DiscoveryProgress, discover_sources
from cpt_core.errors import ConfigError, InputError
from cpt_core.storage import Store


def sources(*uris: str, name: str = "a", **options: bool) -> DiscoveryConfig:
    """One source."""
    return DiscoveryConfig.model_validate({"sources": [{"name": name, "uris": list(uris), **options}]})


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


def test_the_same_content_given_twice_is_told(tmp_path, store):
    """A second file of the same bytes, also of those of a cut one, and one file in two sources; not an empty file."""
    large = b"".join(b'{"text": "document %d"}\n' % number for number in range(100))
    for name, content in {"1": large, "2": large, "3": b'{"text": "x"}\n', "4": b"", "5": b""}.items():
        write(tmp_path / f"b/{name}.jsonl", content)
    sources = [{"name": "a", "uris": [str(tmp_path / "b/3.jsonl")]}, {"name": "b", "uris": [str(tmp_path / "b")]}]
    manifest = discover_sources(DiscoveryConfig.model_validate({"sources": sources}), 1024, store=store)
    assert len(manifest.shards) > manifest.files
    assert manifest.repeated_files() == [
        {
            "source": "b",
            "file": f"{tmp_path}/b/2.jsonl",
            "first_source": "b",
            "first_file": f"{tmp_path}/b/1.jsonl",
        },
        {
            "source": "b",
            "file": f"{tmp_path}/b/3.jsonl",
            "first_source": "a",
            "first_file": f"{tmp_path}/b/3.jsonl",
        },
    ]


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


ODD_NAMES = {
    "space": "a b.jsonl",
    "leading dash": "-a.jsonl",
    "line end": "a\nb.jsonl",
    "no UTF-8": "\udcff.jsonl",
    "255 bytes": "x" * 249 + ".jsonl",
    "brackets": "[a].jsonl",
}


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_odd_file_names_are_files_like_any_other(tmp_path, store, name):
    """White space, dashes, line ends, bytes that are no UTF-8, 255 bytes, brackets; remembered like the rest."""
    write(tmp_path / "corpus" / name)
    for _ in range(2):
        manifest = discover_sources(sources(str(tmp_path / "corpus")), 50, store=store)
        assert [Path(shard.uri).name for shard in manifest.shards] == [name]
    assert manifest.bytes_read == 0


def test_names_that_differ_in_case_alone_are_two_files(tmp_path, store):
    """Where the file system tells them apart, so does the pipeline."""
    for name in ("A.jsonl", "a.jsonl"):
        write(tmp_path / "corpus" / name, name.encode())
    (first, second) = discover_sources(sources(str(tmp_path / "corpus")), 50, store=store).shards
    assert [Path(shard.uri).name for shard in (first, second)] == ["A.jsonl", "a.jsonl"]


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: socket.socket(socket.AF_UNIX).bind(str(path))], ids=["FIFO", "socket"]
)
def test_what_is_no_regular_file_is_never_opened(tmp_path, store, make, monkeypatch):
    """A FIFO would block for ever: it is refused by name, by its description alone."""
    monkeypatch.chdir(tmp_path)  # the path of a socket is limited to some hundred characters
    write(tmp_path / "corpus/a.jsonl")
    make(Path("corpus/pipe.jsonl"))
    for uri in ("corpus", "corpus/*", "corpus/pipe.jsonl"):
        with pytest.raises(InputError, match=r"pipe\.jsonl: is no regular file"):
            discover_sources(sources(str(tmp_path / uri)), 50, store=store)


def test_a_device_is_never_opened(store):
    """It has no end."""
    with pytest.raises(InputError, match="/dev/zero: is no regular file"):
        discover_sources(sources("/dev/zero"), 50, store=store)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (bz2.compress(b"{}"), "bzip2"),
        (lzma.compress(b"{}"), "xz"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x04\x22\x4d\x18rest", "lz4"),
        (b"ARROW1\x00\x00", "an Arrow file"),
    ],
    ids=["bzip2", "xz", "zip", "lz4", "Arrow"],
)
def test_a_file_of_another_kind_is_told_by_its_first_bytes(tmp_path, store, content, what):
    """It fails as a whole instead of as thousands of broken lines."""
    path = write(tmp_path / "a.jsonl", content)
    (shard,) = discover_sources(sources(str(path)), 50, store=store).shards
    assert shard.problem == f"{path}: is {what}, expected JSON lines, gzip, zstd or parquet; decompress or convert it"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_plain_lines_under_a_compressed_name_are_plain_lines(tmp_path, store, name):
    """The first bytes tell, not the ending."""
    (shard,) = discover_sources(sources(str(write(tmp_path / name))), 50, store=store).shards
    assert (shard.format, shard.problem) == ("jsonl", None)


@pytest.mark.parametrize(
    ("name", "content", "file_format"),
    [
        ("a.jsonl.gz", b"", "gzip"),
        ("a.jsonl.gz", b"\x1f", "gzip"),
        ("a.jsonl.zst", b"", "zstd"),
        ("a.parquet", b"", "parquet"),
    ],
)
def test_a_file_of_no_bytes_is_truncated_unless_it_may_be_plain_lines(tmp_path, store, name, content, file_format):
    """A copy that broke off before the first bytes is no empty corpus: the name says what it was."""
    path = write(tmp_path / name, content)
    (shard,) = discover_sources(sources(str(path)), 50, store=store).shards
    assert shard.problem == (
        f"{path}: is truncated: {len(content)} bytes, fewer than any {file_format} file has; nothing of it is used. "
        "Replace the file and run again"
    )


def test_a_file_that_cannot_be_read_does_not_stop_the_others(tmp_path, store, monkeypatch):
    """It becomes a shard with a problem; the others have theirs."""
    for name in ("a", "b"):
        write(tmp_path / f"corpus/{name}.jsonl")
    refuse_to_read(monkeypatch, "a.jsonl", OSError(errno.EIO, "Input/output error"))
    shards = discover_sources(sources(str(tmp_path / "corpus")), 50, store=store).shards
    assert [(Path(shard.uri).name, shard.problem) for shard in shards] == [
        ("a.jsonl", f"{tmp_path}/corpus/a.jsonl: cannot be read: Input/output error"),
        ("b.jsonl", None),
    ]


def test_a_file_server_that_is_away_is_asked_again_and_costs_no_second_reading_of_the_others(
    tmp_path, store, monkeypatch
):
    """The error passes by itself, so the whole discovery is tried again; it then reads what it has not read."""
    for name in ("a", "b"):
        write(tmp_path / f"corpus/{name}.jsonl")
    config = sources(str(tmp_path / "corpus"))
    with monkeypatch.context() as away:
        refuse_to_read(away, "a.jsonl", OSError(errno.ESTALE, "Stale file handle"))
        with pytest.raises(InputError, match=r"a\.jsonl: cannot be read: Stale file handle$") as caught:
            discover_sources(config, 50, store=store)
    assert caught.value.is_transient
    manifest = discover_sources(config, 50, store=store)
    assert [shard.problem for shard in manifest.shards] == [None] * len(manifest.shards)
    assert manifest.bytes_read == (tmp_path / "corpus/a.jsonl").stat().st_size


def test_a_file_that_goes_while_its_folder_is_listed_is_named(tmp_path, store, monkeypatch):
    """Under another name it may be a file of the corpus that was not listed: nothing is left out in silence."""
    for name in ("a", "b"):
        write(tmp_path / f"corpus/{name}.jsonl")
    real_stat = Path.stat

    def gone(path, **options):
        if path.name == "a.jsonl":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return real_stat(path, **options)

    monkeypatch.setattr(Path, "stat", gone)
    with pytest.raises(InputError) as caught:
        discover_sources(sources(str(tmp_path / "corpus")), 50, store=store)
    assert (str(caught.value), caught.value.is_transient) == (
        f"{tmp_path}/corpus/a.jsonl: is gone since its folder was listed; run again when nobody renames or removes "
        "files there",
        True,
    )


def told(store: Store, **changes: str) -> list[tuple[int, int, int, int]]:
    """Discovery of ``corpus`` beside the store by one thread: (files, all files, bytes, all bytes) at each call."""
    heard: list[DiscoveryProgress] = []
    corpus = sources(str(Path(store.root_uri).parent / "corpus")).model_copy(update=changes)
    discover_sources(corpus, 10_000, store=store, workers=1, on_progress=heard.append)
    return [(seen.files, seen.all_files, seen.size_bytes, seen.all_bytes) for seen in heard]


def test_progress_moves_with_every_chunk_and_file_and_starts_at_what_is_remembered(tmp_path, store, monkeypatch):
    """Of chunks of ten bytes; an unchanged file is identified when the files are listed."""
    monkeypatch.setattr("cpt_core.discovery.identify.CHUNK_BYTES", 10)
    write(tmp_path / "corpus/a.jsonl", b'{"text": "x"}\n')
    assert told(store) == [(0, 1, 0, 14), (0, 1, 10, 14), (0, 1, 14, 14), (1, 1, 14, 14)]
    write(tmp_path / "corpus/b.jsonl", b'{"text": "some more"}\n')
    assert told(store) == [(1, 2, 14, 36), (1, 2, 24, 36), (1, 2, 34, 36), (1, 2, 36, 36), (2, 2, 36, 36)]
    assert told(store) == [(2, 2, 36, 36)]


def test_progress_counts_a_file_that_cannot_be_read_with_its_size(tmp_path, store, monkeypatch):
    """Nobody waits for what does not come; a file that is identified by its stat is done at once."""
    write(tmp_path / "corpus/a.jsonl")
    write(tmp_path / "corpus/b.jsonl")
    refuse_to_read(monkeypatch, "a.jsonl", OSError(errno.EIO, "Input/output error"))
    assert told(store) == [(0, 2, 0, 28), (1, 2, 14, 28), (1, 2, 28, 28), (2, 2, 28, 28)]
    assert told(store, fingerprint_inputs="stat") == [(0, 2, 0, 28), (1, 2, 14, 28), (2, 2, 28, 28)]


def test_progress_adds_up_when_several_threads_read(tmp_path, store):
    """Two files, each of which is cut and read by threads of its own."""
    for name in ("a", "b"):
        write(tmp_path / f"corpus/{name}.jsonl", b'{"text": "x"}\n' * 100)
    heard: list[DiscoveryProgress] = []
    discover_sources(sources(str(tmp_path / "corpus")), 50, store=store, workers=2, on_progress=heard.append)
    assert (heard[0], max(heard, key=lambda seen: seen.files)) == (
        DiscoveryProgress(0, 2, 0, 2800),
        DiscoveryProgress(2, 2, 2800, 2800),
    )


def refuse_to_read(monkeypatch: pytest.MonkeyPatch, name: str, error: OSError) -> None:
    """Opening this file fails from now on, as on a bad disk; root is refused nothing by permissions."""
    real_open = io.open

    def failing_open(file, *args, **kwargs):
        if str(file).endswith(name):
            raise error
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", failing_open)


def test_many_tiny_files_need_few_descriptors(tmp_path, store):
    """A thousand files are found and identified with room for a dozen open ones."""
    for number in range(1000):
        write(tmp_path / f"corpus/{number}.jsonl", b'{"text": "%d"}\n' % number)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 12, hard))
    try:
        manifest = discover_sources(sources(str(tmp_path / "corpus")), 50, store=store, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (len(manifest.shards), {shard.problem for shard in manifest.shards}) == (1000, {None})


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

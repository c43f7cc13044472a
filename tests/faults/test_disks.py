"""Disks that are full, read-only, failing, or of another kind than expected."""

import errno
import os
import re
import resource
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cpt_core.artifacts import Artifact, Draft, commit, find
from cpt_core.errors import StoreError
from cpt_core.storage import Store
from tests.faults import small_disks
from tests.faults.runs import contents
from tests.faults.shim import OSCalls

PARTS = {"stage": "s", "input": "x"}


def committed(store: Store, content: bytes = b"rows", name: str = "a-00000", parts=PARTS) -> Artifact:
    """An artifact with one file."""
    with store.staging() as folder:
        (folder / "rows.parquet").write_bytes(content)
        return commit(store, Draft("s", name, parts, {"rows": folder / "rows.parquet"}, {"rows": 1}, 0.5))


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs with these options; skips where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(
            f"a real full disk needs a file system of its own, and mounting is refused: {mounted.stderr.strip()}"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def failing(monkeypatch):
    """Let one function of ``os`` fail with an errno, each time or once."""

    def fail(name: str, code: int, times: int = 10**9) -> OSCalls:
        calls = OSCalls(getattr(os, name), code, times)
        monkeypatch.setattr(os, name, calls)
        return calls

    return fail


def test_a_full_disk_says_what_is_needed_and_what_is_free(runs):
    """A real one, of three sizes: one line, what was committed is intact, and with more room the next run completes."""
    if refused := small_disks.why_not():
        pytest.skip(f"a real full disk needs a file system of its own, and mounting is refused: {refused}")
    row = small_disks.full_disks(runs, 3)
    assert (row.problems, row.tried) == ([], 3)


def test_a_disk_without_inodes_says_so(runs, tmp_path):
    """There is room for bytes, and none for files."""
    with small_disk(tmp_path / "disk", "size=10m,nr_inodes=16") as disk:
        outcome = runs.run(disk / "store")
        assert outcome.status == "error", outcome.message
        assert re.search(
            r"cannot be written: no inodes are left: \d are free now; .*[\d,]+ bytes are free at .*; remove files or add",
            outcome.message,
        ), outcome.message


def test_a_read_only_disk_says_so(runs, tmp_path):
    """Also when it becomes read-only between two runs; a finished run on it still is found."""
    with small_disk(tmp_path / "disk", "size=10m") as disk:
        assert runs.run(disk / "store").status == "done"
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        store = Store(str(disk / "store"))
        with pytest.raises(StoreError, match=r"cannot be written: the file system is read-only; mount it writable, or"):
            committed(store)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EDQUOT, r"the disk quota is used up; about [\d,]+ bytes are needed, [\d,]+ bytes are free at "),
        (errno.ENOSPC, r"the disk is full; about [\d,]+ bytes are needed, [\d,]+ bytes are free at "),
        (errno.EROFS, "the file system is read-only; mount it writable, or choose another store_uri"),
        (errno.EIO, "the device reports an input/output error; look into the system log"),
        (errno.EACCES, "permission denied; give this user write access to store_uri"),
        (errno.ESTALE, "the file server has lost the file; check the mount"),
    ],
)
def test_each_error_of_a_disk_has_its_own_words(store, failing, code, message):
    """And leaves neither an artifact nor a temporary file."""
    committed(store)
    failing("fsync", code)
    with pytest.raises(StoreError, match=f"cannot be written: {message}"):
        committed(store, parts={**PARTS, "input": "y"})
    assert len(list(store.local_path("").glob("*/*/artifact.json"))) == 1
    assert list(store.local_path("").glob(".tmp/*")) == []


def test_too_many_open_files_say_the_limit(store):
    """A real limit: the message names it and what to do."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        with pytest.raises(StoreError) as failure:
            store.create("s/record.json", b"{}")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in held:
            os.close(descriptor)
    assert "too many open files, the limit is 64; raise it with `ulimit -n`, or use fewer workers" in str(failure.value)


def test_a_name_that_is_too_long_says_so(tmp_path):
    """A store deep in a tree of long names."""
    store = Store(str(tmp_path / ("d" * 250)))
    with pytest.raises(StoreError, match="the name is too long for the file system; shorten `name`"):
        committed(store, name="n" * 260)


def test_a_failed_fsync_is_never_asked_again(store, failing):
    """The kernel tells of lost data once: the attempt is discarded, and the next writes its own file anew."""
    calls = failing("fsync", errno.EIO, times=1)
    with pytest.raises(StoreError, match="input/output error"):
        committed(store)
    assert find(store, "s", "a-00000", PARTS) is None
    asked_then = len(calls.arguments)
    artifact = committed(store)
    assert len(calls.arguments) > asked_then
    assert store.read_bytes(artifact.path("rows")) == b"rows"


def test_a_record_whose_folder_cannot_be_made_durable_does_not_exist(store, monkeypatch):
    """A name that a power cut may take away again is no commit."""
    real, synced = os.fsync, []

    def fail_after_the_record(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        synced.append(path)
        if path.endswith(artifact_folder) and synced.count(path) == 2:  # the first time was for the data
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    artifact_folder = "s/a-00000-" + committed(Store(f"{store.root_uri}-other")).key[:8]
    monkeypatch.setattr(os, "fsync", fail_after_the_record)
    with pytest.raises(StoreError, match="input/output error"):
        committed(store)
    assert find(store, "s", "a-00000", PARTS) is None
    assert committed(store).files["rows"].size_bytes == 4


def test_a_disk_that_keeps_other_bytes_than_were_written_is_noticed(store, monkeypatch):
    """What is read back after the fsync is compared with what was meant."""
    real = os.write

    def write_other(descriptor: int, content) -> int:
        return real(descriptor, bytes(content).replace(b"rows", b"rowz"))

    monkeypatch.setattr(os, "write", write_other)
    with pytest.raises(StoreError, match=r"was written with sha256 \w{12}, but reads back as \w{12}; nothing of it"):
        committed(store)
    assert find(store, "s", "a-00000", PARTS) is None


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_a_locked_rename_takes_their_place(runs, store, failing, code):
    """The same artifact, found again; and of many writers of one record still one wins."""
    links = failing("link", code)
    artifact = committed(store)
    assert find(store, "s", "a-00000", PARTS) == artifact
    assert committed(store).is_cached
    start = threading.Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        return store.create("s/rivals/artifact.json", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert store.read_bytes("s/rivals/artifact.json") == str(won.index(True)).encode()
    assert list(store.local_path(".tmp").iterdir()) == []
    assert len(links.arguments) >= 9


def test_a_file_system_without_links_and_locks_is_refused_with_the_reason(store, failing, monkeypatch):
    """Two runs could overwrite each other's records there."""
    failing("link", errno.EPERM)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(StoreError, match="has neither hard links nor locks, so that two runs could overwrite"):
        committed(store)


def test_a_link_that_a_file_server_repeats_is_still_ours(store, monkeypatch):
    """The answer to the first request was lost: the name exists, and it is the staged file."""
    real = os.link

    def link_twice(source, target) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link_twice)
    assert store.create("s/record.json", b"{}") is True
    monkeypatch.undo()
    assert store.create("s/record.json", b"{}") is False


def test_names_that_differ_in_case_alone_are_one_artifact_or_two_keys(store):
    """On a file system without cases two folders of one name can only be of one key, and then of one content."""
    lower, upper = committed(store, name="a-00000"), committed(store, name="A-00000")
    assert lower.folder.lower() == upper.folder.lower()
    assert lower.key == upper.key
    other = committed(store, name="A-00000", parts={**PARTS, "input": "y"})
    assert other.folder.lower() != lower.folder.lower()


def test_all_data_are_parquet_and_a_file_cut_anywhere_is_a_miss(runs):
    """No raw array whose shape is guessed from its size; a torn file never stands in the way for ever."""
    assert {Path(name).suffix for name in runs.reference} == {".parquet", ".json"}
    store = runs.new_store()
    runs.run(store)
    paths = sorted(store.glob("*/*/*.parquet"))
    for path, kept in zip(paths, [0, 1, 4, 100, -1, -8] * len(paths), strict=False):
        path.write_bytes(path.read_bytes()[:kept])
    assert runs.run(store).status == "done"
    assert contents(store) == runs.reference

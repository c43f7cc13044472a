"""Committing, finding and distrusting artifacts."""

import json
import os
from pathlib import Path

import pytest

from cpt_core.artifacts import Artifact, Draft, commit, damaged_files, find, key_of, read_record, why_missing
from cpt_core.errors import NondeterminismError, StoreError
from cpt_core.storage import Store

PARTS = {"stage": "s", "input": {"sha256": "ab"}, "row_len_tokens": 8}


def committed(store: Store, content: bytes = b"rows", name: str = "a-00000", parts=PARTS) -> Artifact:
    """An artifact with one file."""
    with store.staging() as folder:
        (folder / "rows.parquet").write_bytes(content)
        return commit(store, Draft("s", name, parts, {"rows": folder / "rows.parquet"}, {"rows": 1}, 0.5))


@pytest.fixture(params=["local", "memory"])
def any_store(request, tmp_path) -> Store:
    """The protocol is one for folders and for object stores."""
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


def test_what_was_committed_is_found_under_its_key(any_store):
    """The record survives and says that it was served, not computed."""
    artifact = committed(any_store)
    found = find(any_store, "s", "a-00000", PARTS)
    assert found == artifact
    assert (found.is_cached, artifact.is_cached) == (True, False)
    assert found.folder == f"s/a-00000-{key_of(PARTS)[:8]}"
    assert any_store.read_bytes(found.path("rows")) == b"rows"


def test_the_same_key_is_found_under_another_readable_name(any_store):
    """A renamed source is a hit."""
    artifact = committed(any_store)
    assert find(any_store, "s", "b-00007", PARTS) == artifact


def test_a_folder_without_a_record_does_not_exist(store):
    """Data that was published before the crash is invisible."""
    artifact = committed(store)
    store.local_path(f"{artifact.folder}/artifact.json").unlink()
    assert find(store, "s", "a-00000", PARTS) is None


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"row"), lambda path: path.unlink()])
def test_a_file_of_another_size_is_set_aside_and_computed_again(store, damage):
    """The damaged artifact is no hit, is kept under damaged/, and does not stand in the way of the next commit."""
    artifact = committed(store)
    damage(store.local_path(artifact.path("rows")))
    assert find(store, "s", "a-00000", PARTS) is None
    assert [path.name.startswith("s-a-00000-") for path in store.local_path("damaged").iterdir()] == [True]
    assert committed(store) == artifact


def test_a_torn_file_without_a_record_is_replaced(store):
    """What an interrupted removal left under the final name is not taken for the content."""
    artifact = committed(store)
    store.local_path(f"{artifact.folder}/artifact.json").unlink()
    store.local_path(artifact.path("rows")).write_bytes(b"ro")
    assert damaged_files(store, committed(store)) == []


def test_a_flipped_byte_is_found_by_reading(store):
    """The size is right, the digest is not."""
    artifact = committed(store)
    store.local_path(artifact.path("rows")).write_bytes(b"rowz")
    assert damaged_files(store, artifact) == [artifact.files["rows"].name]


@pytest.mark.parametrize("content", [b'{"stage": "s"', b"[]", b"{}", b'{"record_version": 1, "files": 5}', b""])
def test_a_record_that_cannot_be_read_is_set_aside(store, content):
    """A torn record is a miss, not a permanent failure; looking at it alone moves nothing."""
    artifact = committed(store)
    path = store.local_path(f"{artifact.folder}/artifact.json")
    path.write_bytes(content)
    assert read_record(store, artifact.folder) is None
    assert path.exists()
    assert find(store, "s", "a-00000", PARTS) is None
    assert committed(store) == artifact


def test_a_second_writer_with_equal_content_succeeds(any_store):
    """Two runs that compute the same shard both end well, and one record stands."""
    first, second = committed(any_store), committed(any_store)
    assert first == second
    assert second.is_cached


def test_a_second_writer_with_other_content_is_an_error(any_store):
    """Equal keys must give equal bytes; the first is kept."""
    committed(any_store)
    with pytest.raises(NondeterminismError, match="computed again with other content in rows"):
        committed(any_store, b"other")
    assert any_store.read_bytes(find(any_store, "s", "a-00000", PARTS).path("rows")) == b"rows"


def test_a_miss_is_explained_field_by_field(store):
    """The nearest artifact of that name shows what changed."""
    committed(store)
    wanted = {**PARTS, "row_len_tokens": 16}
    assert why_missing(store, "s", "a-00000", wanted) == [("row_len_tokens", 8, 16)]
    assert why_missing(store, "s", "new-00000", wanted) == []


def test_a_record_of_another_version_is_refused(store):
    """A store of another release is not silently recomputed over."""
    artifact = committed(store)
    path = store.local_path(f"{artifact.folder}/artifact.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "record_version": 99}))
    with pytest.raises(StoreError, match="record version 99, expected 1"):
        find(store, "s", "a-00000", PARTS)


def test_nothing_is_left_in_staging(store):
    """Neither a commit nor a failure leaves temporary files."""
    committed(store)
    with pytest.raises(RuntimeError), store.staging() as folder:
        (folder / "half.parquet").write_bytes(b"x")
        raise RuntimeError
    assert list(store.local_path(".tmp").iterdir()) == []


def test_the_staging_of_a_dead_process_is_collected_and_that_of_a_living_one_is_not(store):
    """Garbage is what nobody can finish any more."""
    with store.staging() as mine:
        dead = mine.parent / mine.name.replace(f"+{os.getpid()}+", "+999999999+")
        dead.mkdir()
        assert store.collect_garbage() == 1
        assert (mine.exists(), dead.exists()) == (True, False)


def test_a_store_that_cannot_be_written_is_one_clear_line(tmp_path):
    """The message names the file, the reason and what to do."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "s").write_text("a file where a folder must be")
    with pytest.raises(StoreError, match=r"cannot be written: .*bytes are free; free space or fix access"):
        committed(Store(str(tmp_path / "store")))


def test_a_store_that_is_a_file_is_one_clear_line(tmp_path):
    """Looking for artifacts finds none; writing says why it cannot."""
    (tmp_path / "store").write_text("not a folder")
    store = Store(str(tmp_path / "store"))
    assert find(store, "s", "a-00000", PARTS) is None
    with pytest.raises(StoreError, match=r"cannot be written: Not a directory"):
        committed(store)


def test_an_unknown_protocol_is_named(tmp_path):
    """A typing error in store_uri does not look like a bug."""
    with pytest.raises(StoreError, match="s4://x: Protocol not known: s4"):
        Store("s4://x")
    assert Path(tmp_path).exists()

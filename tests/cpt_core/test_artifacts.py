"""Committing, finding and distrusting artifacts."""

import json
import os
from pathlib import Path

import pytest

from cpt_core import artifacts
from cpt_core.artifacts import Artifact, Draft, commit, damaged_files, find, key_of, read_record, why_missing
from cpt_core.errors import NondeterminismError, StoreError
from cpt_core.fingerprint import sealed_json, unsealed_json
from cpt_core.storage import Store

PARTS = {"stage": "s", "input": {"sha256": "ab"}, "row_len_tokens": 8}


def committed(
    store: Store, content: bytes = b"rows", name: str = "a-00000", parts=PARTS, logical: dict[str, str] | None = None
) -> Artifact:
    """An artifact with one file."""
    with store.staging() as folder:
        (folder / "rows.parquet").write_bytes(content)
        draft = Draft("s", name, parts, {"rows": folder / "rows.parquet"}, {"rows": 1}, 0.5, logical or {})
        return commit(store, draft)


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


def test_a_listing_that_lags_behind_hides_nothing_of_its_name(any_store):
    """Object stores may list late, and a store lists once: records are read by name, by a lookup and by a commit."""
    assert any_store.folders("s") == []
    first = committed(Store(any_store.root_uri))
    assert any_store.folders("s") == []
    assert find(any_store, "s", "a-00000", PARTS) == first
    assert committed(any_store).is_cached


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


def test_a_flipped_byte_is_a_miss_when_the_store_verifies_in_full(store, caplog):
    """verify: full reads every byte before an artifact is used again, once in the life of a process."""
    artifact = committed(store)
    careful = Store(store.root_uri, "full")
    assert find(careful, "s", "a-00000", PARTS) == artifact
    path = store.local_path(artifact.path("rows"))
    path.write_bytes(b"rowz")
    assert find(Store(store.root_uri, "full"), "s", "a-00000", PARTS) == artifact, "it was read by this process before"
    artifacts._read_whole.clear()
    assert find(store, "s", "a-00000", PARTS) == artifact, "verify: size looks at the size alone"
    assert find(careful, "s", "a-00000", PARTS) is None
    assert [record.getMessage().partition(": ")[2].partition("; ")[0] for record in caplog.records] == [
        f"damaged: {path.name} is not as recorded"
    ]
    assert committed(careful) == artifact


def test_an_orphan_with_other_bytes_is_not_taken_for_the_content(store):
    """A data file without a record, of the right name and size and with a flipped byte, is written anew."""
    artifact = committed(store)
    store.local_path(f"{artifact.folder}/artifact.json").unlink()
    store.local_path(artifact.path("rows")).write_bytes(b"rowz")
    assert damaged_files(store, committed(store)) == []


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


def test_a_second_writer_with_other_content_is_an_error_and_both_are_kept(any_store):
    """Equal keys must give equal bytes; the first stays, the second can be looked into."""
    committed(any_store)
    with pytest.raises(NondeterminismError, match="computed again with other content in rows") as failure:
        committed(any_store, b"other")
    assert any_store.read_bytes(find(any_store, "s", "a-00000", PARTS).path("rows")) == b"rows"
    (folder,) = any_store.folders("damaged")
    assert any_store.uri(f"damaged/{folder}") in str(failure.value)
    other = read_record(any_store, f"damaged/{folder}")
    assert any_store.read_bytes(other.path("rows")) == b"other"


def test_a_second_writer_of_the_same_rows_in_another_file_succeeds(any_store):
    """Another parquet writer, the same table: the first file is kept, and nothing is left of the second."""
    first = committed(any_store, b"written by one release", logical={"rows": "ab"})
    second = committed(any_store, b"written by another", logical={"rows": "ab"})
    assert (second, second.is_cached) == (first, True)
    assert any_store.files(first.folder) == ["artifact.json", first.files["rows"].name]
    with pytest.raises(NondeterminismError, match="with other content in rows"):
        committed(any_store, b"other rows", logical={"rows": "cd"})


def test_a_second_writer_of_another_set_of_files_is_an_error(any_store):
    """A quarantine that only one of two computations has is a difference."""
    committed(any_store)
    with any_store.staging() as folder:
        staged = {"rows": folder / "rows.parquet", "quarantine": folder / "quarantine.parquet"}
        for path in staged.values():
            path.write_bytes(b"rows")
        with pytest.raises(NondeterminismError, match="with other content in quarantine"):
            commit(any_store, Draft("s", "a-00000", PARTS, staged, {"rows": 1}, 0.5))


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
    record = unsealed_json(path.read_bytes())
    for content, version in (
        (sealed_json({**record, "record_version": 99}), 99),
        (json.dumps({**record, "record_version": 1}).encode(), 1),
    ):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=f"record version {version}, expected 2"):
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
    with pytest.raises(StoreError, match=r"rows-.*: cannot be written: a file is where a folder must be; move it"):
        committed(Store(str(tmp_path / "store")))


def test_a_store_that_is_a_file_is_one_clear_line(tmp_path):
    """Looking for artifacts finds none; writing says why it cannot."""
    (tmp_path / "store").write_text("not a folder")
    store = Store(str(tmp_path / "store"))
    assert find(store, "s", "a-00000", PARTS) is None
    with pytest.raises(StoreError, match=r"store: cannot be written: a file is where a folder must be"):
        committed(store)


def test_an_unknown_protocol_is_named(tmp_path):
    """A typing error in store_uri does not look like a bug."""
    with pytest.raises(StoreError, match="s4://x: Protocol not known: s4"):
        Store("s4://x")
    assert Path(tmp_path).exists()


def test_folders_are_found_by_name_and_by_key(store):
    """Names may hold hyphens themselves: the last one is before the digits of the key."""
    for folder in ("a-00-1f", "a-00-2e", "a-1f", "b-00-1f"):
        store.create(f"tokens/{folder}/artifact.json", b"{}")
    store.create("tokens/file-1f", b"{}")
    assert store.folders("tokens") == ["a-00-1f", "a-00-2e", "a-1f", "b-00-1f"]
    assert store.folders_beginning("tokens", "a-00") == ["a-00-1f", "a-00-2e"]
    assert store.folders_ending("tokens", "1f") == ["a-00-1f", "a-1f", "b-00-1f"]
    assert store.folders_beginning("tokens", "a-0") == []

"""The same bytes whatever the machine does."""

import re

import pytest

from tests.determinism import ORDINARY, VARIATIONS, contents_under, write_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The configuration of a corpus."""
    return write_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def reference(scene, tmp_path_factory):
    """A store, and what an ordinary run leaves in it."""
    store = tmp_path_factory.mktemp("reference") / "store"
    return store, contents_under(ORDINARY, scene, store)


@pytest.mark.parametrize("circumstances", VARIATIONS, ids=lambda circumstances: circumstances.name)
def test_circumstances_change_no_byte(scene, reference, tmp_path, circumstances):
    """Keys, names, bytes, logical digests, counts: all but how long it took and which engine encoded."""
    config = write_scene(tmp_path / "corpus elsewhere", backwards=True) if circumstances.elsewhere else scene
    store = tmp_path / ("another store" if circumstances.elsewhere else "store")
    assert contents_under(circumstances, config, store) == reference[1]


def test_a_second_run_touches_nothing(scene, reference):
    """Every file of the first one is served as it is."""
    store, expected = reference
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    assert contents_under(VARIATIONS[0], scene, store) == expected
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before


def test_the_scene_holds_what_could_tell_circumstances_apart(reference):
    """Several shards of one file, several groups of one source, both splits, rejected lines, documents that were split.

    Every table of every stage has a logical digest, so that records without any could not agree.
    """
    records = [record for record in reference[1].values() if isinstance(record, dict)]
    counts = {
        stage: [record["counts"] for record in records if record["stage"] == stage] for stage in ("tokens", "packed")
    }
    assert sum(each["documents_quarantined"] for each in counts["tokens"]) > 10
    assert len(counts["tokens"]) > 10
    assert {each["split"] for each in counts["packed"]} == {"train", "held_out"}
    assert len(counts["packed"]) > 5
    assert sum(each["documents_split"] for each in counts["packed"]) > 10
    tables = [
        (record["stage"], role, file["logical_sha256"]) for record in records for role, file in record["files"].items()
    ]
    assert {(stage, role) for stage, role, _ in tables} == {
        ("tokens", "tokens"),
        ("tokens", "quarantine"),
        ("index", "documents"),
        ("index", "shards"),
        ("packed", "rows"),
    }
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for _, _, digest in tables)

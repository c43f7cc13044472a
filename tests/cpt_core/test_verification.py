"""An audit finds every kind of damage, and nothing in a store that is well."""

import re

import pytest

from cpt_core.fingerprint import sealed_json, unsealed_json
from cpt_core.indexing import build_index
from cpt_core.storage import Store
from cpt_core.verification import Finding, set_damaged_aside, verify_artifacts, verify_store
from tests.conftest import write_jsonl
from tests.pipeline import packed, tokenized


@pytest.fixture
def prepared(make_config, tmp_path):
    """A small corpus, prepared: configuration and store."""
    write_jsonl(tmp_path / "corpus" / "one.jsonl", ["a document", "another one", "a third"])
    write_jsonl(tmp_path / "corpus" / "two.jsonl", ["the second file"])
    config = make_config(discovery={"sources": [{"name": "a", "uris": [str(tmp_path / "corpus")]}]})
    packed(config)
    return config, Store(config.store_uri)


def path_in(store: Store, pattern: str):
    """The one file that matches, as a path."""
    found = sorted(store.local_path("").glob(pattern))
    return found[0]


def rewritten(path, change) -> None:
    """A record with other values and a seal that fits: what only conservation can notice."""
    record = unsealed_json(path.read_bytes())
    change(record)
    path.write_bytes(sealed_json(record))


def findings_of(store: Store) -> list[tuple[str, str]]:
    """(problem, detail) of a whole store."""
    return [(finding.problem, finding.detail) for finding in verify_store(store)]


def test_a_store_that_is_well_has_no_findings(prepared):
    """Nothing is found, and every byte was read."""
    _, store = prepared
    seen = []
    assert verify_store(store, lambda done, total: seen.append((done, total))) == []
    data = list(store.local_path("").glob("*/*/*.parquet"))
    total = sum(path.stat().st_size for path in data)
    assert seen[-1] == (total, total)
    assert len(seen) == len(data)


@pytest.mark.parametrize(
    ("damage", "problem", "detail"),
    [
        (lambda path: path.unlink(), "missing", r"is gone; expected [\d,]+ bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "size", r"has [\d,]+ bytes, expected [\d,]+"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
            "content",
            r"has sha256 \w{12}, expected \w{12}",
        ),
    ],
)
def test_a_damaged_data_file_is_named_and_repaired(prepared, damage, problem, detail):
    """Set aside as a whole; the next run makes the same artifact again."""
    config, store = prepared
    path = path_in(store, "packed/*/rows-*.parquet")
    before = path.read_bytes()
    damage(path)
    (finding,) = verify_store(store)
    assert finding.uri == str(path)
    assert finding.problem == problem
    assert re.fullmatch(detail, finding.detail)
    (aside,) = set_damaged_aside(store, [finding])
    assert aside.startswith(store.uri("damaged/packed-"))
    packed(config)
    assert path.read_bytes() == before
    assert findings_of(Store(config.store_uri)) == []


def test_a_changed_record_is_found(prepared):
    """Even where the value says nothing of the data."""
    _, store = prepared
    path = path_in(store, "index/*/artifact.json")
    path.write_bytes(path.read_bytes().replace(b'"code_version": "', b'"code_version": "9', 1))
    assert findings_of(store) == [
        ("record", "artifact.json: the content does not match its own record_sha256"),
    ]


def test_what_no_record_names_is_harmless_and_named(prepared):
    """Data published before a crash, and a stranger's file beside an artifact; training's own folders are no artifacts."""
    _, store = prepared
    path_in(store, "index/*/artifact.json").unlink()
    (path_in(store, "packed/*/artifact.json").parent / "stray.parquet").write_bytes(b"x")
    (store.local_path("training_runs") / "a-12345678").mkdir(parents=True)
    (store.local_path("training_runs") / "a-12345678" / "DONE.json").write_text("{}")
    found = verify_store(store)
    assert [(finding.problem, finding.is_damage) for finding in found] == [("unreferenced", False)] * 2
    assert set_damaged_aside(store, found) == []


@pytest.mark.parametrize(
    ("pattern", "count", "expected"),
    [
        ("tokens/*/artifact.json", "documents_in", "documents_in #, but documents_out + documents_quarantined #"),
        ("packed/*/artifact.json", "tokens_in", "tokens_in #, but num_tokens + tokens_dropped #"),
        ("packed/*/artifact.json", "rows", "rows x row_len_tokens #, but num_tokens + padding_tokens #"),
        ("index/*/artifact.json", "documents", "documents #, but documents of the token shards #"),
    ],
)
def test_counts_that_do_not_add_up_are_found(prepared, pattern, count, expected):
    """A record may be whole and still be wrong: conservation is checked between counts and between stages."""
    _, store = prepared

    def add_one(record):
        record["counts"][count] += 1

    rewritten(path_in(store, pattern), add_one)
    (problem, detail), *_ = findings_of(store)
    assert problem == "conservation"
    assert re.sub(r"\d+", "#", detail) == expected


def test_the_artifacts_of_a_run_are_held_against_each_other(prepared):
    """Packing took in what the index lists, source by source; a packed shard that is left out is missed."""
    config, store = prepared
    shards, _, _ = tokenized(config)
    index = build_index(shards, config, store=store)
    artifacts = [*(shard.tokens for shard in shards), index]
    rows = packed(config)
    assert verify_artifacts(store, artifacts + rows) == []
    doubled = verify_artifacts(store, [*artifacts, *rows, rows[0]])
    tokens = index.counts["tokens"]
    assert doubled == [
        Finding(
            index.uri,
            index.folder,
            "conservation",
            f"tokens of a train {tokens:,}, but tokens_in of its packed shards {2 * tokens:,}",
        )
    ]


def test_an_artifact_whose_record_went_is_found_by_its_run(prepared):
    """A run knows what it has committed."""
    config, store = prepared
    (row,) = packed(config)
    store.local_path(f"{row.folder}/artifact.json").unlink()
    assert [(finding.problem, finding.detail) for finding in verify_artifacts(store, [row])] == [
        ("record", "has no record, so that it does not exist")
    ]

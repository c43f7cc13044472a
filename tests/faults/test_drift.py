"""What changes between two runs: the tokenizer, a library, an option. New keys, old artifacts untouched."""

import json
from pathlib import Path

import pytest

from cpt_core.artifacts import Artifact, why_missing
from cpt_core.config import PipelineConfig
from cpt_core.discovery import discover_sources
from cpt_core.indexing import build_index
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, token_key_parts
from tests.conftest import write_jsonl
from tests.pipeline import packed, tokenized


def run(config: PipelineConfig) -> dict[str, list[Artifact]]:
    """All artifacts of a run, by stage."""
    shards, _, store = tokenized(config)
    index = build_index(shards, config, store=store)
    return {"tokens": [shard.tokens for shard in shards], "index": [index], "packed": packed(config)}


def computed(artifacts: dict[str, list[Artifact]]) -> list[str]:
    """Stages with an artifact that this run made."""
    return [stage for stage, of_stage in artifacts.items() if not all(artifact.is_cached for artifact in of_stage)]


def files_of(store: str) -> dict[str, tuple[int, int]]:
    """Name to inode and modification time of every artifact's files."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for stage in ("tokens", "index", "packed")
        for path in Path(store, stage).rglob("*")
        if path.is_file()
    }


@pytest.fixture
def config(make_config, tmp_path):
    """A configuration over two files, as a function of the sections that are to differ."""
    write_jsonl(tmp_path / "corpus" / "one.jsonl", ["first", "second", "a third document that is long"])
    write_jsonl(tmp_path / "corpus" / "two.jsonl", ["fourth"])
    return make_config


def test_an_edited_tokenizer_gives_new_keys_and_leaves_the_old_shards(config, tokenizer_folder):
    """tokenizer.json is part of the key by its bytes; the edit back finds everything again."""
    first = run(config())
    before = files_of(config().store_uri)
    path = tokenizer_folder / "tokenizer.json"
    original = path.read_text()
    path.write_text(json.dumps(json.loads(original), indent=3))
    second = run(config())
    assert computed(second) == ["tokens", "index", "packed"]
    assert {artifact.key for artifact in first["tokens"]}.isdisjoint(artifact.key for artifact in second["tokens"])
    assert files_of(config().store_uri).items() >= before.items()
    path.write_text(original)
    assert computed(run(config())) == []


def test_another_version_of_the_tokenizers_library_is_another_key_and_the_plan_says_why(config, monkeypatch):
    """Ids depend on the library, so its version is part of the key, and so are the ids of a probe text."""
    first = run(config())
    monkeypatch.setattr("cpt_core.tokenization.tokenizer.version", lambda _: "99.0")
    tokenizer = load_tokenizer(config().tokenization)
    store = Store(config().store_uri)
    shard = discover_sources(config().discovery, 1 << 20, store=store).shards[0]
    parts = token_key_parts(shard, config().tokenization, tokenizer)
    (changed,) = why_missing(store, "tokens", shard.name, parts)
    assert (changed[0], changed[2]) == ("tokenizer.tokenizers_version", "99.0")
    assert "probe_ids_sha256" in parts["tokenizer"]
    assert computed(run(config())) == ["tokens", "index", "packed"]
    assert len(first["tokens"]) == 2


@pytest.mark.parametrize(
    ("sections", "stages"),
    [
        ({"packing": {"row_len_tokens": 32}}, ["packed"]),
        ({"packing": {"strategy": "greedy"}}, ["packed"]),
        ({"packing": {"long_documents": "drop"}}, ["packed"]),
        ({"packing": {"seed": 1}}, ["index", "packed"]),
        ({"tokenization": {"add_eos": False}}, ["tokens", "index", "packed"]),
        ({"tokenization": {"max_bad_fraction": 0.5}}, []),
        ({"verify": "full"}, []),
        ({"orchestration": {"workers": 3}}, []),
        ({"evaluation": {"max_rows_per_source": 1}}, []),
        ({"name": "renamed"}, []),
    ],
    ids=str,
)
def test_an_option_recomputes_what_stands_on_it_and_nothing_else(config, sections, stages):
    """Old artifacts stay as they are, to the inode."""
    run(config())
    before = files_of(config().store_uri)
    assert computed(run(config(**sections))) == stages
    assert files_of(config().store_uri).items() >= before.items()
    assert (len(files_of(config().store_uri)) == len(before)) == (stages == [])

"""A rerun computes what changed and what stands on it, and nothing else."""

from pathlib import Path

import pytest

from cpt_core.config import PipelineConfig
from flows.prepare_corpus import prepare_corpus
from tasks.planning import plan_run
from tests.conftest import save_byte_tokenizer, write_jsonl


@pytest.fixture
def run(prefect_api):
    """Run the data flow; what was computed, by stage, and its summary."""

    def run_flow(config: PipelineConfig) -> tuple[dict[str, list[str]], dict]:
        plan = plan_run(config, with_training=False)
        summary = prepare_corpus(config, return_state=True).result()
        computed = {stage: [] for stage in ("tokenization", "indexing", "packing")}
        for unit in plan.to_do():
            if unit.stage == "tokenization" and unit.status == "waits":
                continue
            computed[unit.stage].append(unit.name)
        assert summary["shards_computed"] == len(computed["tokenization"]), "the plan foretells the run"
        return computed, summary

    return run_flow


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Three files of one source."""
    for name in ("1", "2", "3"):
        write_jsonl(tmp_path / f"corpus/{name}.jsonl", [f"document {name}", "x" * 20])
    return tmp_path / "corpus"


NOTHING = {"tokenization": [], "indexing": [], "packing": []}


def test_unchanged_inputs_compute_nothing(run, corpus, make_config):
    """The second run serves every artifact from the store."""
    _, first = run(make_config())
    computed, second = run(make_config())
    assert computed == NOTHING
    assert (first["shards_computed"], second["shards_computed"], second["shards_cached"]) == (3, 0, 3)
    assert second["artifacts"] == first["artifacts"]


def test_one_changed_byte_recomputes_its_shard_and_what_stands_on_it(run, corpus, make_config):
    """Two of three token shards are served; index and packing follow."""
    _, first = run(make_config())
    (corpus / "2.jsonl").write_bytes((corpus / "2.jsonl").read_bytes().replace(b"document 2", b"document Z"))
    computed, second = run(make_config())
    assert computed["tokenization"] == ["a-00001"]
    assert computed["indexing"] == ["test"]
    assert computed["packing"] == ["all groups"]
    assert [uri in first["artifacts"]["tokens"] for uri in second["artifacts"]["tokens"]] == [True, False, True]
    assert first["artifacts"]["packed"] != second["artifacts"]["packed"]


def test_another_tokenizer_recomputes_all_shards(run, corpus, make_config, tokenizer_folder):
    """The file's bytes are part of every key."""
    run(make_config())
    save_byte_tokenizer(tokenizer_folder, adds_bos=True)
    computed, _ = run(make_config())
    assert computed["tokenization"] == ["a-00000", "a-00001", "a-00002"]


def test_another_row_length_recomputes_packing_alone(run, corpus, make_config):
    """Tokens and index are reused."""
    run(make_config())
    config = make_config(packing={"row_len_tokens": 32})
    assert [(unit.name, unit.why) for unit in plan_run(config, with_training=False).to_do()] == [
        ("a-00000", "row_len_tokens: 16 -> 32")
    ]
    computed, summary = run(config)
    assert computed == {**NOTHING, "packing": ["a-00000"]}
    assert summary["row_len_tokens"] == 32


def test_the_same_bytes_under_another_path_are_hits(run, corpus, make_config, tmp_path):
    """A moved corpus is not computed again."""
    _, first = run(make_config())
    corpus.rename(tmp_path / "moved")
    config = make_config(discovery={"sources": [{"name": "a", "uris": [str(tmp_path / "moved")]}]})
    computed, second = run(config)
    assert computed == NOTHING
    assert second["artifacts"] == first["artifacts"]


def test_a_new_file_computes_only_itself(run, corpus, make_config):
    """The other token shards are hits under whatever number they now have."""
    run(make_config())
    write_jsonl(corpus / "0.jsonl", ["new"])
    computed, summary = run(make_config())
    assert computed["tokenization"] == ["a-00000"]
    assert summary["shards_cached"] == 3


def test_two_files_of_equal_content_are_two_shards_of_one_artifact(run, corpus, make_config):
    """Both count as documents; the tokens are stored once."""
    (corpus / "4.jsonl").write_bytes((corpus / "3.jsonl").read_bytes())
    _, summary = run(make_config())
    assert (summary["shards_total"], summary["documents_out"]) == (4, 8)
    assert len(set(summary["artifacts"]["tokens"])) == 3


def test_the_plan_names_the_changed_part_of_the_key(corpus, make_config, run):
    """Before a run one can read why it will compute."""
    run(make_config())
    (corpus / "1.jsonl").write_bytes(b'{"text": "other"}\n')
    (unit, *_) = plan_run(make_config(), with_training=False).to_do()
    assert unit.name == "a-00000"
    assert unit.why.startswith("input.sha256: ")
    assert "input.size_bytes: 56 -> 18" in unit.why


def test_a_damaged_artifact_is_computed_again(run, corpus, make_config):
    """A truncated token shard is set aside, and the run repairs it."""
    _, first = run(make_config())
    (path,) = Path(first["artifacts"]["tokens"][0]).glob("tokens-*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    computed, second = run(make_config())
    assert computed["tokenization"] == ["a-00000"]
    assert second["artifacts"] == first["artifacts"]

"""No record, configuration or file of repairs leads out of the folder that it belongs to."""

import json

import pytest
from pydantic import ValidationError

from cpt_core.artifacts import Draft, commit, find, read_record
from cpt_core.config import PipelineConfig, TrainingConfig
from cpt_core.errors import ConfigError, StoreError
from cpt_core.fingerprint import sealed_json, unsealed_json
from cpt_core.inspection import inspect_artifact
from cpt_core.training import find_trained
from cpt_core.verification import verify_store
from tests.conftest import write_jsonl
from tests.pipeline import tokenized

PARTS = {"stage": "s"}
OUTSIDE = ["../secret.parquet", "/secret.parquet", "..", ".", "", "a/../../secret.parquet", "a\0b"]


def rewrite(path, **changes: object) -> None:
    """Change a record and seal it again, as somebody who can write to the store could."""
    path.write_bytes(sealed_json({**unsealed_json(path.read_bytes()), **changes}))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_record_that_names_a_file_elsewhere_is_no_record(store, tmp_path, name):
    """It is a miss, set aside like any damaged one, and the file that it names is not touched."""
    (tmp_path / "secret.parquet").write_bytes(b"rows")
    with store.staging() as folder:
        (folder / "rows.parquet").write_bytes(b"rows")
        artifact = commit(store, Draft("s", "a-00000", PARTS, {"rows": folder / "rows.parquet"}, {}, 0.5))
    path = store.local_path(f"{artifact.folder}/artifact.json")
    described = vars(artifact.files["rows"]) | {"name": name}
    rewrite(path, files={"rows": described})
    assert read_record(store, artifact.folder) is None
    assert [finding.problem for finding in verify_store(store) if finding.is_damage] == ["record"]
    assert find(store, "s", "a-00000", PARTS) is None
    assert not path.exists()
    assert (tmp_path / "secret.parquet").read_bytes() == b"rows"


def test_a_record_that_names_a_tokenizer_elsewhere_is_refused(tmp_path, make_config):
    """Names that are made of what a record says stay in the store, too."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["ab"])
    shards, _, store = tokenized(make_config())
    tokens = shards[0].tokens
    path = store.local_path(f"{tokens.folder}/artifact.json")
    tokenizer = tokens.key_parts["tokenizer"] | {"tokenizer_json_sha256": "../../tokenizer/tokenizer"}
    rewrite(path, key_parts=tokens.key_parts | {"tokenizer": tokenizer})
    with pytest.raises(StoreError, match="leads out of the store"):
        inspect_artifact(tokens.uri, 1)


def committed_model(store, model):
    """A trained model whose record names this folder."""
    result = {"hf_model_uri": str(model), "model_files": {"config.json": {"size_bytes": 2}}}
    with store.staging() as folder:
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        return commit(store, Draft("training", "run", PARTS, {"result": folder / "result.json"}, result, 0.5))


@pytest.mark.parametrize("place", ["elsewhere", "store/../elsewhere", "store/link"])
def test_a_record_that_names_a_model_elsewhere_is_refused(store, tmp_path, place):
    """Its weights would be evaluated and handed out as trained; named by the configuration, the folder is in order."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "store").mkdir()
    (tmp_path / "store/link").symlink_to(tmp_path / "elsewhere")
    artifact = committed_model(store, tmp_path / place)
    with pytest.raises(
        StoreError, match=r"names the model \S+, which lies neither in the store nor in training\.output"
    ):
        find_trained(store, "run", PARTS, TrainingConfig(model="m"))
    assert find_trained(store, "run", PARTS, TrainingConfig(model="m", output_dir=str(tmp_path))) == artifact


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "../a", "/a", "a\\b", "a\nb", "", "-a", "a" * 101])
def test_a_name_in_a_configuration_is_a_name_and_no_path(make_config, name):
    """Of the run, and of a source: both become names of folders."""
    values = json.loads(make_config().model_dump_json())
    with pytest.raises(ValidationError, match="name"):
        PipelineConfig.model_validate(values | {"name": name})
    values["discovery"]["sources"][0]["name"] = name
    with pytest.raises(ValidationError, match="name"):
        PipelineConfig.model_validate(values)


def test_a_repair_of_a_file_that_is_no_input_is_refused(tmp_path, make_config):
    """The file that it names is compared with the inputs and never opened."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["ab"])
    (tmp_path / "secret").write_text("{", encoding="utf-8")
    entry = {"file": f"{tmp_path}/secret", "line": 1, "byte_offset": 0, "sha256": "0" * 64, "replacement": "{}"}
    (tmp_path / "repairs.jsonl").write_text(json.dumps(entry) + "\n", encoding="utf-8")
    config = make_config(tokenization={"repairs": str(tmp_path / "repairs.jsonl")})
    from tasks.discovery import find_shards

    _, _, store = tokenized(make_config())
    with pytest.raises(ConfigError, match=r"secret' is no input file of this configuration"):
        find_shards(config, store)

"""An audit names what is damaged, and leads back to a store that is well."""

import json
import random
from pathlib import Path

import pytest

from cpt_core.artifacts import Draft, commit
from cpt_core.fingerprint import sealed_json, unsealed_json
from cpt_core.model_folder import resolve_model
from cpt_core.storage import Store, sha256_of
from cpt_core.training import training_key_parts
from tasks.verification import audit_run
from tests.conftest import write_jsonl
from tests.pipeline import packed

SEED = 3407


@pytest.fixture
def config(tmp_path, make_config):
    """A corpus of two files with a rejected line."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["one", "two"])
    (tmp_path / "corpus/2.jsonl").write_bytes(b'{"text": "three"}\n{\n')
    made = make_config(tokenization={"max_bad_fraction": 0.5})
    (tmp_path / "config.yaml").write_text(made.model_dump_json(), encoding="utf-8")
    return made


def artifact_files(tmp_path) -> list[Path]:
    """Every record and data file of the store's artifacts."""
    return sorted(path for stage in ("tokens", "index", "packed") for path in tmp_path.glob(f"store/{stage}/*/*"))


def flip_one_byte(path: Path, drawn: random.Random) -> None:
    """Another value at a random place."""
    content = bytearray(path.read_bytes())
    content[drawn.randrange(len(content))] ^= drawn.randrange(1, 256)
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_store_that_is_well_is_reported_on_one_screen(command, config):
    """Exit code 0; what was compared, by stage."""
    packed(config)
    result = command("verify", "config.yaml")
    assert result.returncode == 0, result.stdout
    head, *stages, last = result.stdout.splitlines()
    assert head.split() == ["stage", "artifacts", "files", "bytes"]
    assert [line.split()[:3] for line in stages] == [["tokens", "2", "3"], ["index", "1", "2"], ["packed", "1", "1"]]
    assert last == "all bytes are as recorded, and all counts add up"


def test_what_is_not_computed_yet_is_no_damage(command, config):
    """An empty store is in order."""
    result = command("verify", "config.yaml")
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        "stage       artifacts   files            bytes",
        "not in the store yet: 2 of tokens: a-00000, a-00001",
        "not in the store yet: 1 of index: test",
        "all bytes are as recorded, and all counts add up",
    ]


def test_damage_is_named_with_its_remedy_and_repaired(command, config, tmp_path):
    """Exit code 1 with the finding; --repair sets it aside, and the next run makes the same bytes again."""
    packed(config)
    (path,) = tmp_path.glob("store/packed/*/rows-*.parquet")
    before = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(before[:-1])
    result = command("verify", "config.yaml")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-3:] == [
        "findings: 1",
        f"  size: {path}: has {len(before) - 1:,} bytes, expected {len(before):,}",
        "    `cpt verify CONFIG --repair` sets the artifact aside, and the next run computes it again",
    ]
    assert path.exists()
    repaired = json.loads(command("verify", "config.yaml", "--repair", "--json").stdout)
    assert [Path(uri).parent for uri in repaired["set_aside"]] == [tmp_path / "store/damaged"]
    assert not path.exists()
    packed(config)
    assert path.read_bytes() == before
    assert command("verify", "config.yaml").returncode == 0


def test_one_changed_byte_anywhere_is_found_and_repaired(config, tmp_path):
    """In every record and every data file of the run, at a random place, each by itself and all at once."""
    packed(config)
    files = artifact_files(tmp_path)
    before = {path: path.read_bytes() for path in files}
    assert len(files) == 10
    drawn = random.Random(SEED)
    for path in files:
        flip_one_byte(path, drawn)
        audit = audit_run(config)
        assert {finding.folder for finding in audit.findings} == {f"{path.parent.parent.name}/{path.parent.name}"}
        assert {finding.problem for finding in audit.findings} <= {"record", "content"}
        path.write_bytes(before[path])

    for path in files:
        flip_one_byte(path, drawn)
    for is_clean in (False, True):
        assert audit_run(config, repair=True).is_clean == is_clean
        packed(config)
    assert artifact_files(tmp_path) == files
    data = [path for path in files if path.name != "artifact.json"]  # a record holds how long it took
    assert [path.read_bytes() for path in data] == [before[path] for path in data]


def test_counts_that_disagree_are_found_between_stages(command, config, tmp_path):
    """The index lists tokens that no packed shard took in."""
    packed(config)
    (path,) = tmp_path.glob("store/packed/*/artifact.json")
    record = unsealed_json(path.read_bytes())
    for count in ("tokens_in", "tokens_dropped"):
        record["counts"][count] += 1
    path.chmod(0o644)
    path.write_bytes(sealed_json(record))
    result = command("verify", "config.yaml", "--json")
    assert result.returncode == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert finding["problem"] == "conservation"
    assert "but tokens_in of its packed shards" in finding["detail"]
    assert finding["remedy"].startswith("the records are whole and disagree: please report it")


def test_a_file_that_no_record_names_is_told_and_does_no_harm(command, config, tmp_path):
    """Exit code 0."""
    (row,) = packed(config)
    Path(row.uri, "stray.parquet").write_bytes(b"x")
    result = command("verify", "config.yaml")
    assert result.returncode == 0
    assert f"  unreferenced: {row.uri}/stray.parquet: the record does not name this file" in result.stdout


def test_an_exported_model_is_part_of_it(config, tmp_path):
    """Every byte of its files, although they lie outside the artifact."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    with_training = config.model_validate(config.model_dump() | {"training": {"model": str(model)}})
    rows, store = packed(config), Store(config.store_uri)
    weights = tmp_path / "store/training_runs/test/model/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    with weights.open("rb") as stream:
        described = {weights.name: {"size_bytes": 7, "sha256": sha256_of(stream)}}
    result = {"hf_model_uri": str(weights.parent), "model_files": described}
    with store.staging() as folder:
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        key_parts = training_key_parts(rows, with_training.training, resolve_model(str(model), None))
        draft = Draft("training", "test", key_parts, {"result": folder / "result.json"}, result, 0.0)
        trained = commit(store, draft)
    assert audit_run(with_training).findings == []
    weights.write_bytes(b"changed")
    (finding,) = audit_run(with_training).findings
    assert (finding.uri, finding.folder, finding.problem) == (str(weights), trained.folder, "content")

"""What the configuration accepts, refuses, and says about it."""

from pathlib import Path

import pytest
import yaml

from cpt_core.config import PipelineConfig
from cpt_core.config_file import load_config
from cpt_core.errors import ConfigError
from tests.conftest import REPOSITORY

MINIMAL = {
    "name": "x",
    "store_uri": "./store",
    "discovery": {"sources": [{"name": "a", "uris": ["corpus/*.jsonl"]}]},
    "tokenization": {"tokenizer": "tok"},
}


def write(tmp_path: Path, values: object) -> str:
    """A YAML file with these values."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def test_five_lines_are_enough(tmp_path):
    """Name, store, sources and tokenizer suffice; everything else has the default of the documentation."""
    config = load_config(write(tmp_path, MINIMAL))
    assert config.packing.row_len_tokens == 8192
    assert config.packing.strategy == "best_fit"
    assert config.tokenization.shard_size_bytes == 256_000_000
    assert config.training is None


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    """Paths are resolved once, against the current folder, so that a worker elsewhere reads the same files."""
    monkeypatch.chdir(tmp_path)
    config = load_config(write(tmp_path, MINIMAL))
    assert config.store_uri == str(tmp_path / "store")
    assert config.discovery.sources[0].uris == [str(tmp_path / "corpus/*.jsonl")]
    assert config.tokenization.tokenizer == "tok", "what is no folder here may be a hub id"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["packing.row_len_token=9"], "packing.row_len_token is not a key; did you mean row_len_tokens?"),
        (
            ["packing.row_len_tokens=many"],
            "packing.row_len_tokens is 'many', expected: input should be a valid integer",
        ),
        (["packing.strategy=worst"], "packing.strategy is 'worst', expected: input should be 'best_fit', 'greedy' or"),
        (["discovery.sources.0.nam=b"], "discovery.sources.0.nam is not a key; did you mean name?"),
        (["discovery.sources.3.name=b"], "--set: discovery.sources.3 is position '3' of a list, expected 0 to 0"),
        (["name.x=1"], "--set: name is the value 'x', expected a section"),
        (["packing"], "--set packing: expected dotted.key=value"),
        (["training.model=m", "training.global_batch_rows=9"], "global_batch_rows is 9, expected a multiple of"),
        (["training.model=m", "training.min_learning_rate=1"], "min_learning_rate is 1.0, expected at most"),
        (["training.learning_rate=1"], "training.model is missing"),
        *(
            (
                [f"{section}.trust_remote_code=true", f"{section}.revision={'0' * 40}", "training.model=m"],
                f"{section}.trust_remote_code is not a key",
            )
            for section in ("tokenization", "training")
        ),
        (["orchestration.runner_address=tcp://a:1"], "runner_address is given, but runner is threads"),
        *(
            (
                [f"{key}={revision}", "training.model=org/model"],
                f"{key}: '{revision}' may mean another content tomorrow",
            )
            for key in ("tokenization.revision", "training.revision")
            for revision in ("main", "v1.0", "abc1234", "A" * 40, "0" * 39 + "g")
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_field_value_and_expectation(tmp_path, overrides, message):
    """Each kind of mistake gives a message that a user can act on."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MINIMAL), overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_sources_of_one_name_are_refused(tmp_path):
    """Shard names would collide."""
    sources = [{"name": "a", "uris": ["x"]}, {"name": "a", "uris": ["y"]}]
    with pytest.raises(ConfigError, match="discovery: source names must differ, but a stands more than once"):
        load_config(write(tmp_path, MINIMAL | {"discovery": {"sources": sources}}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_API_KEY", "c4n4ry"),
        ("DB_PASSWORD", "c4n4ry"),
        ("http_proxy", "http://user:c4n4ry@proxy:3128"),
        ("ANYTHING", "hf_c4n4ryc4n4ry"),
    ],
)
def test_a_secret_in_the_environment_of_ranks_is_refused_and_not_repeated(tmp_path, name, value):
    """The configuration becomes a parameter of the deployment, which everybody at the server can read."""
    training = {"model": "m", "launcher": {"environment": {"NCCL_SOCKET_IFNAME": "ib0", name: value}}}
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MINIMAL | {"training": training}))
    assert f"training.launcher: environment: {name} looks like a secret, which would be recorded;" in str(caught.value)
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "\x00"])
def test_a_file_that_is_no_configuration_is_named(tmp_path, text):
    """Empty, a list, broken YAML and binary data all give a line that begins with the path."""
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{path}: "):
        load_config(str(path))


@pytest.mark.parametrize("path", sorted((REPOSITORY / "deployments/parameters").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_loads(path, monkeypatch):
    """A parameters file in the repository is never stale."""
    monkeypatch.chdir(REPOSITORY)
    assert load_config(str(path)).name == path.stem


def test_the_production_recipe_is_512_rows_a_step():
    """8 nodes x 4 GPUs x 4 rows x 4 accumulation steps, 8,192 tokens, 3 epochs, as asked."""
    config = load_config(str(REPOSITORY / "deployments/parameters/llama3-8b-math.yaml"))
    training = config.training
    assert training is not None
    assert training.launcher.num_nodes * training.launcher.processes_per_node == 32
    assert training.accumulation_steps == 4
    assert 8 * 4 * training.micro_batch_rows * training.accumulation_steps == training.global_batch_rows == 512
    assert (config.packing.row_len_tokens, training.num_train_epochs, training.zero_stage) == (8192, 3, 3)
    assert (training.learning_rate, training.warmup_steps, training.lr_scheduler) == (4e-5, 50, "cosine")
    assert (training.weight_decay, training.precision, training.gradient_checkpointing) == (0.1, "bf16", True)
    assert (training.seed, config.packing.seed) == (3407, 3407)


def test_every_field_is_documented():
    """The sentence under a field reaches the JSON schema, which is the form in the Prefect UI."""
    schema = PipelineConfig.model_json_schema()
    undocumented = [
        f"{name}.{field}"
        for name, section in {"PipelineConfig": schema, **schema["$defs"]}.items()
        for field, described in section.get("properties", {}).items()
        if not described.keys() & {"description", "$ref"}
    ]
    assert undocumented == []

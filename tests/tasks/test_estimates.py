"""What a plan says about disk and GPU-hours."""

import json
from pathlib import Path

import pytest

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError
from cpt_core.model_folder import num_parameters
from flows.command.output import print_plan
from tasks.estimates import estimate_disk, estimate_gpu_hours, readable_size
from tasks.planning import plan_run
from tests.conftest import write_jsonl
from tests.pipeline import packed, tokenized


def write_model(folder: Path, *shapes: list[int]) -> Path:
    """A model folder with one file of weights for each shape; the files have heads and no numbers."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if shapes:
        (folder / "model.safetensors.index.json").write_text("{}")
    for number, shape in enumerate(shapes):
        tensor = {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}
        head = json.dumps({"__metadata__": {"format": "pt"}, "weight": tensor}).encode()
        (folder / f"model-{number}.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    return folder


def test_without_anything_in_the_store_disk_is_a_guess_that_says_so():
    """A thousand billion tokens."""
    assert estimate_disk(10**12, [], []).line() == (
        "about 4.0 TB on disk: 2.0 TB token shards, 2.0 TB packed shards; "
        "a guess for token and packed shards, 2 bytes a token"
    )


def test_what_is_in_the_store_is_measured(tmp_path, make_config):
    """For a corpus ten times as large: ten times the bytes of its token shards, and then of its packed shards."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["one", "two"])
    shards, _, _ = tokenized(make_config())
    tokens = [shard.tokens for shard in shards]
    size_bytes = sum(file.stat().st_size for file in (tmp_path / "store/tokens").rglob("*.parquet"))
    tenfold = 10 * tokens[0].counts["tokens"]
    estimate = estimate_disk(tenfold, tokens, [])
    assert (estimate.tokens_bytes, estimate.packed_bytes, estimate.measured) == (
        10 * size_bytes,
        2 * tenfold,
        ("tokens",),
    )
    assert estimate.line().endswith("; a guess for packed shards, 2 bytes a token")
    assert estimate_disk(tenfold, tokens, packed(make_config())).line().endswith("; bytes a token as in this store")


def test_gpu_hours_are_six_flops_a_parameter_and_token(tmp_path):
    """8e9 parameters, 10 steps of 512 rows of 8,192 tokens at 40% of 989 TFLOP/s, in hours."""
    model = write_model(tmp_path / "model", [4000, 1_000_000], [2000, 2_000_000])
    training = TrainingConfig.model_validate({"model": str(model), "peak_tflops": 989})
    estimate = estimate_gpu_hours(training, 10, 8192)
    assert estimate.num_parameters == 8_000_000_000
    assert estimate.gpu_hours == pytest.approx(6 * 8e9 * 10 * 512 * 8192 / (989e12 * 0.4) / 3600)
    assert estimate.line() == (
        "about 1.4 GPU-hours: 6 FLOPs a token for each of 8,000,000,000 parameters, assuming 40% of 989 TFLOP/s"
    )


def test_what_is_not_known_is_not_said(tmp_path):
    """No peak of the device, no folder of the model, no weights in it: no GPU-hours."""
    model, empty = str(write_model(tmp_path / "model", [2])), str(write_model(tmp_path / "empty"))
    for values in (
        {"model": model},
        {"model": "a/b", "revision": "0" * 40, "peak_tflops": 1},
        {"model": empty, "peak_tflops": 1},
    ):
        assert estimate_gpu_hours(TrainingConfig.model_validate(values), 10, 8192) is None


def test_a_file_that_is_no_safetensors_file_is_one_line(tmp_path):
    """Naming the file."""
    (tmp_path / "model.safetensors").write_bytes(b"\x04\0\0\0\0\0\0\0what")
    with pytest.raises(ConfigError, match=r"model\.safetensors: is no safetensors file"):
        num_parameters(tmp_path)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (4_720_000, "4.72 MB"), (30e12, "30.0 TB")],
)
def test_sizes_are_readable(size_bytes, text):
    """Powers of a thousand."""
    assert readable_size(size_bytes) == text


def test_the_plan_prints_one_line_for_each(tmp_path, make_config, capsys):
    """Below the totals."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["one", "two"])
    model = write_model(tmp_path / "model", [1000, 1000])
    config = make_config(training={"model": str(model), "peak_tflops": 1e-6})
    print_plan(plan_run(config, with_training=True))
    totals, disk, gpu, *_ = capsys.readouterr().out.splitlines()[5:]
    assert totals == "about 9 tokens, about 1 training row, 1 step"
    assert disk == "about 36 bytes on disk: 18 bytes token shards, 18 bytes packed shards; " + (
        "a guess for token and packed shards, 2 bytes a token"
    )
    assert gpu.startswith("about 34.1 GPU-hours: 6 FLOPs a token for each of 1,000,000 parameters, assuming 40%")

"""``cpt export``: any sealed checkpoint becomes a transformers folder, in little memory, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MixtralConfig

from cpt_core.errors import ConfigError
from cpt_core.training.slice_files import MASTER, SliceName
from tasks.export import export
from tests.cpt_core.training.checkpoints import seal_model, values_of

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        (LlamaConfig(**TINY), "bf16"),
        (LlamaConfig(**TINY, tie_word_embeddings=True), "fp32"),
        (MixtralConfig(**TINY, num_local_experts=3), "bf16"),
    ],
    ids=["llama", "tied", "experts"],
)
def test_the_exported_model_is_the_trained_one(tmp_path, tokenizer_folder, config, precision, monkeypatch):
    """Weights that three ranks held in pieces are whole, in the training's precision and under their usual names."""
    checkpoint = seal_model(tmp_path, config, tokenizer_folder, precision=precision)
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append(Path(f"/proc/self/fd/{file}").readlink()), fsync(file))
    )
    exported = export(tmp_path, None, tmp_path / "out")
    assert (exported.steps, exported.passed_over) == (7, ())
    staged, *files, parent = synced  # all is on the disk before the folder has its name, and then the name
    assert sorted(files) == sorted(staged / path.name for path in (tmp_path / "out").iterdir())
    assert (staged.name[:9], parent) == (".tmp-out-", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    for name, parameter in model.named_parameters():
        expected = values_of(SliceName(MASTER, name, 0), parameter.numel()).view(parameter.shape)
        assert torch.equal(parameter, expected.to(parameter.dtype)), name
    assert len(checkpoint.manifest.parameters) == len(list(model.named_parameters()))
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("w5 w6")["input_ids"] == [5, 6]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}
    assert json.loads((tmp_path / "out/config.json").read_text())["use_cache"] is True


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path, tokenizer_folder):
    """A taken target, a step that is not there, a damaged checkpoint, a folder without any."""
    checkpoint = seal_model(tmp_path / "checkpoints", LlamaConfig(**TINY), tokenizer_folder, precision="fp32")
    with pytest.raises(ConfigError, match=r"checkpoints: exists already; export into a new folder"):
        export(tmp_path, None, tmp_path / "checkpoints")
    with pytest.raises(ConfigError, match=r"step-0000008: is no sealed checkpoint; there: step-0000007"):
        export(tmp_path, 8, tmp_path / "out")
    weights = checkpoint.folder / "rank-00001.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigError, match=r"step-0000007: is damaged: the bytes of rank-00001\.safetensors are not"):
        export(tmp_path, 7, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"holds no whole checkpoint: .*step-0000007 is damaged and is passed over"):
        export(tmp_path, None, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: holds no whole checkpoint; expected folders such as step-0000500"):
        export(tmp_path / "empty", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


MEASURED = """
import sys, threading, time
from pathlib import Path
from tasks.export import export

def memory_bytes():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].removesuffix(" kB")) << 10

small, large, out = map(Path, sys.argv[1:])
export(small, None, out / "small")  # imports all there is to import
peak = before = memory_bytes()
def watch():
    global peak
    while True:
        peak = max(peak, memory_bytes())
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
export(large, None, out / "large")
print(peak - before)
"""


def test_memory_is_bounded(tmp_path, tokenizer_folder):
    """A model of 390 MB whose largest slices have 64 MB takes less than one slice: memory is that of a block of one."""
    seal_model(tmp_path / "small", LlamaConfig(**TINY), tokenizer_folder, precision="fp32")
    config = LlamaConfig(**TINY | {"vocab_size": 96_000, "hidden_size": 512, "intermediate_size": 512})
    seal_model(tmp_path / "large", config, tokenizer_folder, precision="fp32", max_elements=1 << 24)
    command = [sys.executable, "-c", MEASURED, *(str(tmp_path / name) for name in ("small", "large", "out"))]
    measured = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (tmp_path / "out/large/model.safetensors").stat().st_size > 390_000_000
    assert int(measured.stdout) < 50_000_000, measured.stdout

"""Finding a base model and telling what it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cpt_core.errors import ConfigError
from cpt_core.model_folder import model_digest, resolve_model, weight_files
from tests.cpt_core.training.test_foreign_code import load


def test_a_folder(model_folder: Path) -> None:
    """A transformers folder is taken as it is."""
    assert resolve_model(str(model_folder), None) == model_folder
    assert [path.name for path in weight_files(model_folder)] == ["model.safetensors"]


def test_digest_is_of_bytes(model_folder: Path, tmp_path: Path) -> None:
    """The same bytes under another path are the same model; one changed byte is another."""
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    assert model_digest(copy) == model_digest(model_folder)
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    assert model_digest(copy) != model_digest(model_folder)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/no/such/folder", "no such folder; expected a transformers folder or a hub id"),
        ("meta/llama", "as a hub id it needs `revision`"),
        (".", "the folder has no config.json"),
    ],
)
def test_not_a_model(model: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither a folder nor a hub id with its revision is refused."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        resolve_model(model, None)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["pytorch_model.bin"], "pytorch_model.bin"),
        (["consolidated.safetensors", "pytorch_model.bin"], "consolidated.safetensors"),
        (["consolidated.safetensors"], "consolidated.safetensors"),
    ],
)
def test_weights_that_would_not_be_loaded(tmp_path: Path, names: list[str], named: str) -> None:
    """Weights that only pickle can read, or that have another name, are refused, and not silently initialised anew."""
    for name in ["config.json", *names]:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError) as refused:
        resolve_model(str(tmp_path), None)
    assert str(refused.value) == (
        f"model is {tmp_path}: its weights are {named}, expected model.safetensors or model.safetensors.index.json;"
        " load it once with transformers and save it again with save_pretrained"
    )


@pytest.mark.parametrize("program", ["training, from weights", "evaluation, from weights"])
def test_pickled_weights_are_never_read(model_folder: Path, tmp_path: Path, program: str) -> None:
    """Not even where they are all that transformers would look at."""
    shutil.copy(model_folder / "config.json", tmp_path)
    shutil.copy(model_folder / "model.safetensors", tmp_path / "consolidated.safetensors")
    torch.save(load_file(model_folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    result = load(program, tmp_path)
    assert f"Error no file named model.safetensors found in directory {tmp_path}." in result.stderr
    (tmp_path / "consolidated.safetensors").rename(tmp_path / "model.safetensors")
    assert load(program, tmp_path).returncode == 0


def test_unreachable_hub(tmp_path: Path) -> None:
    """A hub that does not answer is one clear line."""
    program = (
        "from cpt_core.model_folder import resolve_model\nfrom cpt_core.errors import InputError\n"
        "try:\n    resolve_model('meta/llama', 'abc')\nexcept InputError as error:\n    print(error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("model meta/llama at revision abc: the hub does not give it: ")
    assert done.stdout.endswith("check name, revision, access and network, or give a local folder\n")
    assert done.stdout.count("\n") == 1

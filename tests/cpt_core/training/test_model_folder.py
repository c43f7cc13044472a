"""Finding a base model and telling what it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cpt_core.errors import ConfigError
from cpt_core.model_folder import model_digest, resolve_model, weight_files


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


def test_pickled_weights(tmp_path: Path) -> None:
    """Weights that only pickle can read are refused, and not silently initialised anew."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConfigError, match=r"its weights are pytorch_model.bin, expected \*.safetensors"):
        resolve_model(str(tmp_path), None)


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

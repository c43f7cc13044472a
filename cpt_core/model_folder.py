"""A base model as a local folder, and the digest of its bytes.

In: a transformers folder, or a hub id with a revision.
Out: the folder; a digest of config.json and all weights.
Promise: equal bytes under any path give one digest; a hub model is named by an exact revision.
Never: runs code that a model brings along, reads pickled weights, or imports torch.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from cpt_core.errors import ConfigError, InputError
from cpt_core.fingerprint import fingerprint, sealed_json, unsealed_json
from cpt_core.storage import Store, sha256_of, stat_input

CONFIG_NAME = "config.json"
MEMORY_FOLDER = "model_memory"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_LOADED_NAMES = ("model.safetensors", "model.safetensors.index.json")
"""Without one of these transformers would take pickled weights, or none, whatever else lies there."""
_HUB_FILES = ["*.json", "*.safetensors"]


def resolve_model(model: str, revision: str | None) -> Path:
    """The folder of a model, downloaded from the hub if need be.

    Raises:
        ConfigError: when it is neither a transformers folder nor a hub id with its revision.
        InputError: when the hub does not give it.
    """
    folder = Path(model)
    if folder.is_dir():
        _require_loadable(folder)
        return folder.resolve()
    if not _HUB_ID.fullmatch(model):
        raise ConfigError(f"model is {model!r}: no such folder; expected a transformers folder or a hub id")
    if revision is None:
        raise ConfigError(
            f"model is {model!r}: no such folder, and as a hub id it needs `revision`; set it to a commit of the hub "
            "repository, 40 hexadecimal digits, so that the same configuration always means the same model"
        )
    folder = _download(model, revision)
    _require_loadable(folder)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """All safetensors files of a model folder, sorted by name; none when it is to be initialised."""
    return sorted(folder.glob("*.safetensors"))


def model_digest(folder: Path, store: Store | None = None) -> str:
    """sha256 over names and bytes of config.json and the weights, in hexadecimal.

    Args:
        folder: of the model.
        store: remembers the digest for as long as no file changes its size, times or inode; None reads every byte.
    """
    if store is None:
        return fingerprint({path.name: _sha256(path) for path in _identifying_files(folder)})
    seen = _seen(folder)
    name = f"{MEMORY_FOLDER}/{seen[:16]}.json"
    try:
        return str(unsealed_json(store.read_bytes(name))["model"])
    except (FileNotFoundError, ValueError, KeyError):
        digest = model_digest(folder)
    if _seen(folder) == seen:
        store.replace(name, sealed_json({"model": digest}))
    return digest


def num_parameters(folder: Path) -> int | None:
    """Numbers in all weights, from the heads of the files alone; None for a model without weights.

    Raises:
        ConfigError: when a file is no safetensors file.
    """
    files = weight_files(folder)
    return sum(map(_num_parameters, files)) if files else None


def _num_parameters(path: Path) -> int:
    try:
        with path.open("rb") as stream:
            head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return sum(math.prod(tensor["shape"]) for name, tensor in head.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise ConfigError(f"{path}: is no safetensors file: {error}; save the model again") from None


def _seen(folder: Path) -> str:
    """The files as they are listed."""
    return fingerprint([asdict(stat_input(str(path))) for path in _identifying_files(folder)])


def _identifying_files(folder: Path) -> Iterator[Path]:
    yield folder / CONFIG_NAME
    yield from weight_files(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return sha256_of(stream)


def _require_loadable(folder: Path) -> None:
    if not (folder / CONFIG_NAME).is_file():
        raise ConfigError(f"model is {folder}: the folder has no {CONFIG_NAME}; expected a transformers folder")
    weights = [*weight_files(folder), *sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt")])]
    if weights and not any((folder / name).is_file() for name in _LOADED_NAMES):
        raise ConfigError(
            f"model is {folder}: its weights are {weights[0].name}, expected {' or '.join(_LOADED_NAMES)}; load it once"
            " with transformers and save it again with save_pretrained"
        )


def _download(model: str, revision: str) -> Path:
    # Slow to import, and most runs have their model on disk.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client raises its own, httpx's and OS errors, all meaning: not to be had
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"model {model} at revision {revision}: the hub does not give it: {reason}; check name, revision, access "
            "and network, or give a local folder"
        ) from None

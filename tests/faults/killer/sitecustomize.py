"""Imported by Python itself at the start of every process that has this folder in PYTHONPATH: kills a rank in a save.

``CPT_KILL`` holds the rank, a number and a kind of call: the process is killed in that call of this kind on files of its
checkpoints. ``write``: half of what is to be written into a slice file stands there. ``creation`` (of a folder or
file), ``fsync``, ``rename`` and ``removal`` (of what an old checkpoint is made of): right before the call. Nothing counts
before the process has begun a save: what is read or cleared away at its start is not meant.
"""

import io
import os
import signal
import sys
from pathlib import Path

_KINDS = {
    "open": "creation",
    "os.mkdir": "creation",
    "os.rename": "rename",
    "os.remove": "removal",
    "os.rmdir": "removal",
}
_rank, _number, _kind = os.environ["CPT_KILL"].split()
_seen = 0
_is_saving = False


def _count(kind: str) -> bool:
    """Whether the time has come."""
    global _seen
    _seen += kind == _kind
    return kind == _kind and _seen == int(_number)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _is_meant(path: object) -> bool:
    return "/checkpoints/" in str(path)


def _look(event: str, arguments: tuple) -> None:
    global _is_saving
    kind = _KINDS.get(event)
    if kind is None or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
        return
    path = arguments[0]
    if kind == "removal" and isinstance(arguments[1], int) and arguments[1] >= 0:  # a name in an open folder
        path = _path_of(arguments[1]) / str(path)
    if not _is_meant(path):
        return
    _is_saving = _is_saving or kind == "creation"
    if _is_saving and _count(kind):
        _kill()


def _fsync(descriptor: int) -> None:
    if _is_meant(_path_of(descriptor)) and _count("fsync"):
        _kill()
    _real_fsync(descriptor)


class _SliceFile(io.FileIO):
    def write(self, content: memoryview) -> int:
        if _count("write"):
            super().write(content[: len(content) // 2])
            _kill()
        return super().write(content)


def _open(file: object, mode: str = "r", *arguments: object) -> object:
    is_slice = mode == "xb" and str(file).endswith(".safetensors") and _is_meant(file)
    return _SliceFile(file, "xb") if is_slice else _real_open(file, mode, *arguments)


if os.environ.get("RANK") == _rank:
    _real_fsync, _real_open = os.fsync, io.open
    os.fsync, io.open = _fsync, _open
    sys.addaudithook(_look)

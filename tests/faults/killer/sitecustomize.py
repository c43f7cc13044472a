"""Imported by Python itself at the start of every process that has this folder in PYTHONPATH: kills a rank in a save.

``CPT_KILL`` holds the rank, a number and a kind of call: the process is killed in that call of this kind on files of its
checkpoints. ``write``: half of what is to be written into a slice file stands there. ``fsync``, ``removal`` (of files
and folders, such as those of an old checkpoint) and ``naming`` (open, mkdir, rename): right before the call.
"""

import io
import os
import signal
import sys
from pathlib import Path

_REMOVALS = {"os.remove", "os.rmdir"}
_NAMINGS = {"open", "os.mkdir", "os.rename"}
_rank, _number, _kind = os.environ["CPT_KILL"].split()
_seen = 0


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
    if event not in _REMOVALS | _NAMINGS:
        return
    path = arguments[0]
    if event in _REMOVALS and isinstance(arguments[1], int) and arguments[1] >= 0:  # a name in an open folder
        path = _path_of(arguments[1]) / str(path)
    if _is_meant(path) and _count("removal" if event in _REMOVALS else "naming"):
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

"""Stands between a process and its file system: counts the calls on some folders, and lets one of them go wrong.

A *step* is one call of the operating system that concerns a path below one of the folders. Reads and writes of files are
steps too, those of parquet writers included, which are made to write through a Python file for this.
"""

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

DURABLE = ("create", "write", "fsync", "mkdir", "link", "rename", "replace", "unlink", "rmdir")
"""Calls that change what is on the disk, or make it last."""
TAKES_SPACE = ("create", "write", "fsync", "mkdir", "link")
_PATCHED = (
    "open",
    "write",
    "fsync",
    "link",
    "rename",
    "replace",
    "mkdir",
    "unlink",
    "rmdir",
    "stat",
    "scandir",
    "listdir",
)


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and where.

    Attributes:
        step: number of the call, from 0.
        kind: ``kill_before``, ``kill_after``, ``short`` (half of the bytes are written) or the name of an errno.
        only: kinds of call that are counted.
        lasts: the error stays for every later call that takes space, as on a full disk.
    """

    step: int
    kind: str
    only: tuple[str, ...] = ()
    lasts: bool = False


@dataclass
class Shim:
    """Counts, and strikes once."""

    roots: dict[str, str]
    """Folder to what it is called in the name of a step."""
    fault: Fault | None = None
    steps: list[str] = field(default_factory=list)
    has_struck: bool = False

    def concerns(self, target: Any, dir_fd: int | None = None) -> bool:
        """Whether a path or descriptor lies below one of the folders."""
        if isinstance(target, int) or dir_fd is not None:
            descriptor = target if dir_fd is None else dir_fd
            try:
                target = _READLINK(f"/proc/self/fd/{descriptor}")
            except OSError:
                return False
        path = os.fsdecode(target)
        return any(path == root or path.startswith(root + "/") for root in self.roots)

    def call(self, kind: str, target: Any, act: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One step: counted, then done, or not."""
        if self.fault is not None and self.fault.only and kind not in self.fault.only:
            return act(*args, **kwargs)
        number = len(self.steps)
        shown = _shown(target, self.roots)
        if kind in ("link", "rename", "replace"):
            shown = f"{_shown(args[1], self.roots)} from {shown}"
        self.steps.append(f"{kind} {shown}")
        if self.fault is None:
            return self._noted(number, act, *args, **kwargs)
        is_hit = number == self.fault.step
        if self.fault.kind.startswith("kill"):
            return self._killed(is_hit, act, *args, **kwargs)
        if is_hit or (self.has_struck and self.fault.lasts and kind in TAKES_SPACE):
            self.has_struck = True
            if self.fault.kind == "short":
                return _write_half(kind, act, *args)
            code = getattr(errno, self.fault.kind)
            raise OSError(code, os.strerror(code))
        return act(*args, **kwargs)

    def _noted(self, number: int, act: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return act(*args, **kwargs)
        except OSError as error:
            self.steps[number] += f": {type(error).__name__}"
            raise

    def _killed(self, is_hit: bool, act: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if is_hit and self.fault.kind == "kill_before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return act(*args, **kwargs)
        finally:
            if is_hit:
                os.kill(os.getpid(), signal.SIGKILL)


_READLINK = os.readlink


@contextmanager
def watching(roots: dict[str, str], fault: Fault | None = None) -> Iterator[Shim]:
    """Every call below one of the folders passes a shim while the block lasts.

    Args:
        roots: absolute path of each folder to what it is called in the name of a step.
        fault: what goes wrong; None only counts.
    """
    shim = Shim(roots, fault)
    real = {name: getattr(os, name) for name in _PATCHED}
    real_open, real_init = builtins.open, pq.ParquetWriter.__init__
    for name, function in real.items():
        setattr(os, name, _watched(shim, name, function))
    builtins.open = io.open = _watched_open(shim, real_open)
    pq.ParquetWriter.__init__ = _watched_writer(shim, real_init)
    try:
        yield shim
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        builtins.open = io.open = real_open
        pq.ParquetWriter.__init__ = real_init


def _watched(shim: Shim, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def watched(target: Any = ".", *args: Any, **kwargs: Any) -> Any:
        if not shim.concerns(target, kwargs.get("dir_fd")):
            return function(target, *args, **kwargs)
        creates = name == "open" and args and args[0] & os.O_CREAT
        return shim.call("create" if creates else name, target, function, target, *args, **kwargs)

    return watched


class _WatchedFile(io.FileIO):
    """A file whose reads and writes are steps."""

    shim: Shim

    def readinto(self, buffer: Any) -> Any:
        return self.shim.call("read", self.name, super().readinto, buffer)

    def readall(self) -> Any:
        return self.shim.call("read", self.name, super().readall)

    def write(self, content: Any) -> Any:
        return self.shim.call("write", self.name, super().write, content)


def _open_watched(shim: Shim, file: Any, mode: str, *, closefd: bool = True) -> _WatchedFile:
    kind = "open" if "r" in mode else "create"
    raw = shim.call(kind, file, _WatchedFile, file, mode.replace("b", ""), closefd=closefd)
    raw.shim = shim
    return raw


def _watched_open(shim: Shim, real_open: Callable[..., Any]) -> Callable[..., Any]:
    def watched_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not shim.concerns(file):
            return real_open(file, mode, *args, **kwargs)
        raw = _open_watched(shim, file, mode, closefd=kwargs.get("closefd", True))
        stream = io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding="utf-8")

    return watched_open


def _watched_writer(shim: Shim, real_init: Callable[..., Any]) -> Callable[..., Any]:
    def watched_init(self: Any, where: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(where, str | Path) or not shim.concerns(where):
            real_init(self, where, *args, **kwargs)
            return
        raw = _open_watched(shim, where, "wb")
        real_init(self, raw, *args, **kwargs)
        self.file_handle = raw

    return watched_init


def _write_half(kind: str, act: Callable[..., Any], *args: Any) -> Any:
    *before, content = args
    half = bytes(content)[: len(content) // 2]
    written = act(*before, half) if half else 0
    if before:  # os.write says how much it wrote
        return written
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # Arrow writes the rest, and then there is no room


def _shown(target: Any, roots: dict[str, str]) -> str:
    path = _READLINK(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fsdecode(target)
    for root, name in roots.items():
        if path == root or path.startswith(root + "/"):
            return name + path.removeprefix(root)
    return path  # within a folder that is given by its descriptor


@dataclass
class OSCalls:
    """A function of ``os`` that fails with an errno the first ``times`` times, and remembers how it was called."""

    function: Callable[..., Any]
    code: int
    times: int
    arguments: list[tuple[Any, ...]] = field(default_factory=list)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Fail, or do it."""
        self.arguments.append(arguments)
        if len(self.arguments) <= self.times:
            raise OSError(self.code, os.strerror(self.code))
        return self.function(*arguments, **options)

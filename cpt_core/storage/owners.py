"""Who owns a staged file: its name says it, so that what a dead process left can be told apart.

In: the names below the staging folder.
Out: whether their owner has ended.
Promise: never True for a process that lives, whatever the clocks say; a process is known by machine, boot, process
namespace, pid and its start in ticks since that boot.
Never: judges a process that this one cannot see: on another machine, or in another container.
"""

import os
import socket
import uuid
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_DEAD_STATES = {"Z", "X"}


def owner_tag() -> str:
    """A new name that tells this process."""
    return "+".join([*_place(), str(os.getpid()), _start_ticks(os.getpid()) or "", uuid.uuid4().hex[:12]])


def owner_is_gone(tag: str) -> bool:
    """Whether the process that made this name has ended; False where this process cannot know."""
    parts = tag.split("+")
    if len(parts) != 7:
        return False
    host, machine, boot, namespace, pid, started, _ = parts
    here_host, here_machine, here_boot, here_namespace = _place()
    if (host, machine) != (here_host, here_machine) or not pid.isdecimal():
        return False
    if machine and boot != here_boot:
        return True
    return (boot, namespace) == (here_boot, here_namespace) and _start_ticks(int(pid)) != started


def owner_lives(tag: str) -> bool:
    """Whether this process sees the one that made this name; False where it cannot know."""
    parts = tag.split("+")
    if len(parts) != 7 or tuple(parts[:4]) != _place() or not parts[4].isdecimal():
        return False
    return _start_ticks(int(parts[4])) == parts[5]


@cache
def _place() -> tuple[str, str, str, str]:
    """Host, machine, boot and process namespace: what one pid is unique in."""
    namespace = str((_PROC / "self/ns/pid").readlink())
    return (
        socket.gethostname(),
        _first_digits(Path("/etc/machine-id")),
        _first_digits(_PROC / "sys/kernel/random/boot_id"),
        "".join(character for character in namespace if character.isdecimal()),
    )


def _first_digits(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()[:8]
    except FileNotFoundError:
        return ""  # a container need not have one


def _start_ticks(pid: int) -> str | None:
    """Start of a process in ticks since boot, which no change of the clock moves; None when there is none."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in _DEAD_STATES else fields[19]

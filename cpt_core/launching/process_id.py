"""Which process it is: never a later one that got the same number.

In: a process number.
Out: an identity that can be written down and recognised by another process, or after a restart of this machine.
Promise: only a live process of the same start on the same boot is taken for it.
Never: knows processes of other machines.
"""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """A process of this machine."""

    pid: int
    start_ticks: int
    """Clock ticks between the boot and its start: no change of the clock moves it."""
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """The identity of a process that exists, if only as a zombie."""
        return cls(pid, _stat(pid)[1], boot_id())

    def is_alive(self) -> bool:
        """Whether it still runs."""
        try:
            state, start_ticks = _stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state not in "ZX" and start_ticks == self.start_ticks and boot_id() == self.boot_id

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it still runs."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def send_group(self, number: signal.Signals) -> None:
        """Signal the process group that it leads, if it still runs."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)


@cache
def boot_id() -> str:
    """Names the time between two starts of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat(pid: int) -> tuple[str, int]:
    """State and start of a process; its name, in parentheses, may hold anything."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[19])

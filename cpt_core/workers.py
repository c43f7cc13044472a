"""Processes that compute for this one, each on a pipe of its own, so that the end of one concerns its work alone.

In: a function and its arguments; how long a process may give no sign of life.
Out: what the function returned, or the error that it raised; what the library logs in it.
Promise: a process that dies or falls silent is named with its last sign of life, and is replaced; no process outlives
the one that started it; results do not depend on which process computed them.
Never: runs a command line from outside, or shares a lock between processes.

A process is a fresh interpreter, without the caller's main module, its threads and its locks, and in a session of its
own, so that an interrupt from the terminal reaches only the one in charge.
"""

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import psutil

from cpt_core.errors import CptError, WorkerError

Result = TypeVar("Result")
Listener = Callable[[Any], None]
_PROGRAM = "from cpt_core.workers import main; main()"
_LOOK_SECONDS = 1.0
"""A worker looks so often whether its parent is still its parent."""
_SETTINGS = {"TOKENIZERS_PARALLELISM": "false"}
_DEFAULTS = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Arrow's own pool keeps what a process has freed, and one batch after the other gains nothing from that."""


@dataclass(frozen=True)
class SignOfLife:
    """What a worker says while it computes: how far it is, and how much memory it holds."""

    progress: Any
    rss_bytes: int


class Worker:
    """One process."""

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), str(os.getpid())]
            environment = _DEFAULTS | os.environ | _SETTINGS | {"PYTHONPATH": os.pathsep.join(sys.path)}
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._last_rss_bytes = 0

    def call(
        self, function: Callable[..., Result], arguments: dict[str, Any], on_progress: Listener, silence_seconds: float
    ) -> Result:
        """``function(**arguments, on_progress=…)`` in the process.

        Raises:
            WorkerError: when the process ended, or gave no sign of life for so long; it is gone then.
            CptError: of the function.
        """
        try:
            self._pipe.send((function, arguments))
            while self._pipe.poll(silence_seconds):
                kind, value = self._pipe.recv()
                if kind == "result":
                    return value
                if kind == "error":
                    raise value
                if kind == "log":
                    name, level, line = value
                    logging.getLogger(name).log(level, "%s", line)
                    continue
                self._last_rss_bytes = value.rss_bytes
                on_progress(value.progress)
        except (EOFError, ConnectionError):
            raise WorkerError(f"its process ended by itself ({self._ending()}){self._memory()}") from None
        self.stop()
        raise WorkerError(f"its process gave no sign of life for {silence_seconds:g} seconds{self._memory()}")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether it can be called."""
        return not self._pipe.closed and self._process.poll() is None

    def _ending(self) -> str:
        self._pipe.close()
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "killed by signal 9, as the system does when memory runs out"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _memory(self) -> str:
        return f"; it last held {self._last_rss_bytes / 1e6:,.0f} MB" if self._last_rss_bytes else ""


class WorkerPool:
    """As many processes as are used at the same time, started when they are needed."""

    def __init__(self, size: int, *, silence_seconds: float) -> None:
        self._free: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(size):
            self._free.put(None)
        self._silence_seconds = silence_seconds
        self._started: list[Worker] = []

    def call(self, function: Callable[..., Result], arguments: dict[str, Any], on_progress: Listener) -> Result:
        """Compute in the next free process; when it dies on the way, once more in a new one.

        Raises:
            WorkerError: when the second process ended too.
            CptError: of the function.
        """
        try:
            return self._call_once(function, arguments, on_progress)
        except WorkerError:
            return self._call_once(function, arguments, on_progress)

    def _call_once(self, function: Callable[..., Result], arguments: dict[str, Any], on_progress: Listener) -> Result:
        worker = self._free.get()
        try:
            if worker is None or not worker.is_alive:
                worker = Worker()
                self._started.append(worker)
            return worker.call(function, arguments, on_progress, self._silence_seconds)
        finally:
            self._free.put(worker)

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._started:
            worker.stop()


def serve(pipe: Connection) -> None:
    """The life of a worker: compute what comes, until nobody asks any more."""
    process, sending = psutil.Process(), threading.Lock()

    def say(kind: str, value: Any) -> None:
        with sending:
            pipe.send((kind, value))

    def tell(progress: Any) -> None:
        say("progress", SignOfLife(progress, process.memory_info().rss))

    _send_log(say)

    with suppress(EOFError, ConnectionError):
        while True:
            function, arguments = pipe.recv()
            try:
                answer = ("result", function(**arguments, on_progress=tell))
            except CptError as error:
                answer = ("error", error)
            except (ConnectionError, TimeoutError) as error:  # of a library that reads or writes over a network
                answer = ("error", WorkerError(f"{type(error).__name__}: {error}", is_transient=True))
            except Exception:  # our own mistake, told where it is seen
                answer = ("error", RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
            say(*answer)


def _send_log(say: Callable[[str, Any], None]) -> None:
    """What the library logs is told to the process in charge, which knows the run that it belongs to."""

    class Sender(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(EOFError, ConnectionError):
                say("log", (record.name, record.levelno, record.getMessage()))

    library = logging.getLogger("cpt_core")
    library.setLevel(logging.INFO)
    library.addHandler(Sender())


def _end_with_parent(parent: int) -> None:
    """A worker whose parent is gone stops at once instead of finishing for nobody."""
    with suppress(psutil.NoSuchProcess):
        while os.getppid() == parent:
            with suppress(psutil.TimeoutExpired):  # one that ended is waited for until somebody asks how it ended
                psutil.Process(parent).wait(timeout=_LOOK_SECONDS)
    os._exit(1)


def main() -> None:
    """Entry point of a worker process."""
    threading.Thread(target=_end_with_parent, args=(int(sys.argv[2]),), daemon=True).start()
    serve(Connection(int(sys.argv[1])))

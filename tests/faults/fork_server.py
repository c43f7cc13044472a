"""Runs the data stages again and again, each time in a fresh child of one warm process: a run takes milliseconds.

One JSON object a line on stdin asks for runs, one list of outcomes a line on stdout answers.
"""

import itertools
import json
import logging
import os
import signal
import sys
import time
import traceback
from contextlib import nullcontext
from typing import Any

import numpy.ma  # noqa: F401  (what a run imports late is imported once here, not in every child)
import pyarrow.compute  # noqa: F401  (the same)

from cpt_core.config_file import load_config
from cpt_core.errors import CptError
from cpt_core.storage import Store
from tests.faults.shim import Fault, watching
from tests.pipeline import packed


def main() -> None:
    """Answer until stdin ends."""
    logging.getLogger("cpt_core").setLevel(logging.ERROR)  # what is set aside is expected here
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


def _answer(job: dict[str, Any]) -> list[dict[str, Any]]:
    waits, start = os.pipe()  # all are there before any of them starts: they wait for the end of this pipe
    children = [_fork(job, overrides, waits, start) for overrides in job["variants"]]
    started = time.perf_counter()
    os.close(waits)
    os.close(start)
    if job["kill_after_seconds"] is not None:
        time.sleep(job["kill_after_seconds"])
        for pid, _ in children:
            os.kill(pid, signal.SIGKILL)
    return [_outcome(pid, pipe, started) for pid, pipe in children]


def _fork(job: dict[str, Any], overrides: list[str], waits: int, start: int) -> tuple[int, int]:
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        os.close(start)
        os.read(waits, 1)
        clock = {"started": time.monotonic()}
        answer = _run(job, overrides)
        clock["ended"] = time.monotonic()
        _write_all(writable, json.dumps(answer | clock).encode())
        os._exit(0)
    os.close(writable)
    return pid, readable


def _run(job: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    config = load_config(job["config"], [f"store_uri={job['store']}", *overrides])
    _shift_clock(job["clock_seconds"], job["clock_step_seconds"])
    fault = Fault(**job["fault"]) if job["fault"] else None
    steps: list[str] = []
    try:
        with watching(job["watched"], fault) if job["watched"] else nullcontext() as shim:
            steps = shim.steps if shim else []
            Store(config.store_uri).collect_garbage()
            packed(config)
    except CptError as error:
        return {"status": "error", "message": str(error), "steps": steps}
    except BaseException:
        return {"status": "crash", "message": traceback.format_exc(), "steps": steps}
    return {"status": "done", "message": "", "steps": steps}


def _shift_clock(seconds: float, step_seconds: float) -> None:
    """A wall clock that is wrong by so much, and gains so much with every look."""
    if not seconds and not step_seconds:
        return
    real, looks = time.time, itertools.count()
    time.time = lambda: real() + seconds + step_seconds * next(looks)
    time.time_ns = lambda: int(time.time() * 1e9)


def _outcome(pid: int, pipe: int, started: float) -> dict[str, Any]:
    with open(pipe, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - started
    if os.WIFSIGNALED(status):
        return {"status": "killed", "message": f"signal {os.WTERMSIG(status)}", "steps": [], "seconds": seconds}
    return {**json.loads(said), "seconds": seconds}


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


if __name__ == "__main__":
    main()

"""The shell around one process of a job: ``python -m cpt_core.launching.rank REFUSAL_FILE SIGNS MODULE JOB_FILE``.

In: a module to run as ``__main__``, the file for an error that a caller can act on, a pipe for signs of life;
standard input, a pipe whose other end only the guard holds.
Out: the module's own effects; after a ``CptError``, its class and message in the refusal file.
Promise: the process ends at once when the guard is gone or the module failed, with all that it started; on SIGUSR1
it writes to its log where each of its threads is.
Never: lets the interpreter shut down slowly after a failure: the rank that failed first must also end first.
"""

import faulthandler
import json
import os
import runpy
import signal
import sys
import threading
import traceback
from pathlib import Path

from cpt_core.errors import CptError
from cpt_core.launching.heartbeat import give_signs


def main() -> None:
    """Run the module; does not return."""
    refusal_file, signs, module, job_file = sys.argv[1:]
    threading.Thread(target=_end_with_guard, daemon=True).start()
    give_signs(int(signs))
    faulthandler.register(signal.SIGUSR1)
    sys.argv = [module, job_file]
    exit_code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        exit_code = 0
    except CptError as error:
        _write_refusal(Path(refusal_file), error)
        traceback.print_exc()
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _write_refusal(path: Path, error: CptError) -> None:
    staged = path.with_suffix(".tmp")
    staged.write_text(json.dumps({"error": type(error).__name__, "message": str(error)}), encoding="utf-8")
    staged.replace(path)


def _end_with_guard() -> None:
    """Wait until the guard's end of the pipe closes, which the kernel does however it dies."""
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""Imported by Python itself at the start of every process that has this folder in PYTHONPATH: a gate that stays shut.

``CPT_TEST_GATE`` holds a call and a pattern of paths, such as ``os.link */index/*``. The first process that is about to
make such a call makes the file ``CPT_TEST_GATE_REACHED`` and waits there to be killed.
"""

import os
import sys
import time
from fnmatch import fnmatchcase

_CALL, _, _PATTERN = os.environ.get("CPT_TEST_GATE", "").partition(" ")
_TARGETS = {"open": 0, "os.link": 1, "os.mkdir": 0, "os.rename": 1}
"""Call of the system to which of its arguments gets a name by it."""


def _wait_at_the_gate(event: str, arguments: tuple) -> None:
    if event == _CALL and fnmatchcase(str(arguments[_TARGETS[event]]), _PATTERN):
        os.close(os.open(os.environ["CPT_TEST_GATE_REACHED"], os.O_CREAT | os.O_WRONLY))
        while True:
            time.sleep(60)


if _CALL:
    sys.addaudithook(_wait_at_the_gate)

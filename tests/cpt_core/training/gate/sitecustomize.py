"""On the path of training processes: rank 0's part of the checkpoint of step 8 waits until $CPT_TEST_GATE, a pipe, opens."""

import io
import os

_open = io.open


def _open_when_allowed(file: object, *arguments: object) -> object:
    if "step-0000008/rank-00000" in str(file):
        with _open(os.environ["CPT_TEST_GATE"]):
            pass
    return _open(file, *arguments)


if os.environ.get("RANK") == "0":
    io.open = _open_when_allowed

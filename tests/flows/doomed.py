"""A tokenization that ends the process in which it runs, as the system does when memory runs out, or stops it."""

import os
import signal
from pathlib import Path
from typing import Any

from cpt_core.artifacts import Artifact
from cpt_core.tokenization import tokenize_shard

SHARD = "a-00001"


def tokenize_or_end(**arguments: Any) -> Artifact:
    """One shard ends its process as often as $CPT_TEST_DOOM says, a name of a signal and a number; others do not."""
    number, times, folder = os.environ["CPT_TEST_DOOM"].split(" ", 2)
    ends = sorted(Path(folder).glob("end-*"))
    if arguments["shard"].name == SHARD and len(ends) < int(times):
        (Path(folder) / f"end-{len(ends)}").touch()
        os.kill(os.getpid(), signal.Signals[number])
    return tokenize_shard(**arguments)

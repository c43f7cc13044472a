"""Runs that go as far as a test allows, so that they can be ended in the middle of their work.

The folder $CPT_TEST_GATES holds the files ``shards`` and ``steps``: how many of them may be done.
"""

import os
import time
from pathlib import Path


def wait_for(gate: str, number: int) -> None:
    """Return when the gate allows this number."""
    file = Path(os.environ["CPT_TEST_GATES"], gate)
    while int(file.read_text() or "0") < number:
        time.sleep(0.05)

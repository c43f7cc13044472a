"""On the path of training processes: a gate before each step is recorded."""

import json
import sys
from typing import Any

_dumps = json.dumps


def _dumps_when_allowed(value: Any, *arguments: Any, **options: Any) -> str:
    if isinstance(value, dict) and "learning_rate" in value and "step" in value:
        from tests.flows.gates import wait_for

        wait_for("steps", value["step"])
    return _dumps(value, *arguments, **options)


if any(word.startswith("cpt_core.launching") for word in sys.orig_argv):
    json.dumps = _dumps_when_allowed

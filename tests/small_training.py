"""The smallest training that is one, as a program in a process of its own.

It prints a JSON object for each notice, ``{"notice": ...}``, and in the end one with ``counts`` and ``notices``, or with
``error``.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cpt_core.storage import Store

_PROGRAM = """
import json, sys
from cpt_core.artifacts import read_record
from cpt_core.config import TrainingConfig
from cpt_core.errors import CptError
from cpt_core.storage import Store
from cpt_core.training import train_model

def say(**said):
    print(json.dumps(said), flush=True)

def notify(notice):
    notices.append(notice)
    say(notice=notice)

told, notices = json.loads(sys.argv[1]), []
store = Store(told["store"])
config = TrainingConfig(**told["config"])
try:
    trained = train_model(
        [read_record(store, told["packed"])], config, store=store, name="tiny",
        tokenizer_uri=told["tokenizer"], on_notice=notify,
    )
    say(counts=trained.counts, notices=notices)
except CptError as error:
    say(error=str(error), notices=notices)
"""


def small_training(
    store: Store, packed: str, *, model: Path, tokenizer: Path, launcher: dict[str, Any], **changed: Any
) -> list[str]:
    """The command that trains on this artifact of packed rows, two of them a step."""
    recipe = {
        "model": str(model),
        "global_batch_rows": 2,
        "micro_batch_rows": 1,
        "precision": "fp32",
        "zero_stage": 1,
        "device": "cpu",
        "launcher": launcher,
    }
    told = {"store": store.root_uri, "packed": packed, "tokenizer": str(tokenizer), "config": recipe | changed}
    return [sys.executable, "-c", _PROGRAM, json.dumps(told)]


def last_word(stdout: str) -> dict[str, Any]:
    """What the program said in the end."""
    said: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return said

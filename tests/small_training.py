"""The smallest training that is one, as a program in a process of its own, and a model that is small enough for it.

The program prints a JSON object for each notice, ``{"notice": ...}``, and in the end one with ``counts`` and ``notices``, or with
``error``.
"""

import json
import sys
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

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


def save_small_llama(folder: Path) -> Path:
    """A Llama of one layer for the byte tokenizer and rows of 64 tokens, without weights."""
    model = LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model.save_pretrained(folder)
    return folder

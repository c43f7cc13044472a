"""Secrets in the environment of every command of the job: none of them may be found anywhere afterwards.

A training starts processes on other machines by shells, job scripts and files of hosts; each is a place to lose one.
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import REPOSITORY, save_byte_tokenizer, write_jsonl
from tests.faults.row import Row
from tests.faults.runs import Runs
from tests.planted_secrets import DEBUG, PLANTED, SECRETS, SESSION_TOKEN, files_under, found_in, watched
from tests.small_training import save_small_llama

CPT = str(Path(sys.executable).parent / "cpt")
_SETTINGS_THAT_FAIL = ["--set", "training.max_steps=5", "--set", "training.launcher.environment.PYTHONHOME=/nowhere"]
COMMANDS = {
    "a run that trains": (0, ["run", "config.yaml"]),
    "a run whose training fails": (1, ["run", "config.yaml", *_SETTINGS_THAT_FAIL]),
    "an export": (0, ["export", "config.yaml", "--to", "exported"]),
    "a run that is refused": (2, ["run", "config.yaml", "--set", "training.zero_stage=7"]),
    "a look at what is there": (0, ["verify", "config.yaml"]),
}
"""What it is, how it ends, its arguments."""


def planted_secrets(runs: Runs, times: int) -> Row:
    """Each secret during each command, until so many were looked for."""
    return look_for_secrets(runs.new_store(), times)


def look_for_secrets(folder: Path, times: int) -> Row:
    """The same in a folder that may have a home already."""
    row = Row(
        "A secret in the environment (tokens, passwords, keys, proxies with passwords), at debug logging, is in no output,"
        " log, database, artifact, checkpoint, exported model or process list during " + ", ".join(COMMANDS),
        "python -m tests.faults --only planted_secrets",
    )
    config = _write_scene(folder)
    for what, (returncode, arguments) in COMMANDS.items():
        if row.tried >= times:
            break
        seen = watched(_start(arguments, config.parent))
        ended = "" if seen.returncode == returncode else f"ended with {seen.returncode}: {seen.output[-500:]}"
        haystack = seen.haystack(what) | files_under(folder)
        for secret in SECRETS:
            places = [place for place, _ in found_in(haystack, [secret])]
            row.note(f"{secret} during {what}", ended or ", ".join(places))
    return row


def _start(arguments: list[str], folder: Path) -> "subprocess.Popen[str]":
    environment = os.environ | PLANTED | SESSION_TOKEN | DEBUG | {"CPT_HOME": str(folder / "home")}
    pipe = subprocess.PIPE
    return subprocess.Popen([CPT, *arguments], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def _write_scene(folder: Path) -> Path:
    """A corpus, a tiny model, and a training that passes on what its processes have to know."""
    write_jsonl(folder / "corpus/a.jsonl", [f"document {number}" for number in range(64)])
    config = {
        "name": "secrets",
        "store_uri": str(folder / "store"),
        "discovery": {"sources": [{"name": "a", "uris": [str(folder / "corpus")]}]},
        "tokenization": {"tokenizer": str(save_byte_tokenizer(folder / "tokenizer"))},
        "packing": {"row_len_tokens": 64},
        "training": {
            "model": str(save_small_llama(folder / "model")),
            "max_steps": 4,
            "save_steps": 2,
            "global_batch_rows": 2,
            "micro_batch_rows": 1,
            "zero_stage": 1,
            "precision": "fp32",
            "device": "cpu",
            "launcher": {"processes_per_node": 2, "environment": {"PYTHONPATH": str(REPOSITORY)}},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "config.yaml"

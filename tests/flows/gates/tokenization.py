"""A tokenization with a gate before each shard, in whichever process it runs."""

from typing import Any

from cpt_core.artifacts import Artifact
from cpt_core.tokenization import tokenize_shard
from tests.flows.gates import wait_for


def tokenize_when_allowed(**arguments: Any) -> Artifact:
    """The first shard waits until one is allowed, and so on."""
    wait_for("shards", int(arguments["shard"].name[-5:]) + 1)
    return tokenize_shard(**arguments)

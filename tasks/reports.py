"""How far the workers of a cluster are with their batches: said with their signs of life, heard by the run.

In: on a worker, how far each shard is; in the run, what the store's owners of claims say.
Out: words; how far each shard is.
Promise: what cannot be read costs the display and nothing else.
Never: document text; knows Prefect.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import astuple

from cpt_core.claims import said_by_owners
from cpt_core.errors import StoreError
from cpt_core.manifest import Shard
from cpt_core.storage import Store
from cpt_core.tokenization import ShardProgress
from tasks.background import repeatedly

SECONDS_BETWEEN_LOOKS = 4.0

Heard = list[tuple[Shard, ShardProgress]]


class Report:
    """How far the shards of one batch are, by key; may be told from several threads."""

    def __init__(self) -> None:
        self._seen: dict[str, ShardProgress] = {}

    def note(self, key: str, progress: ShardProgress) -> None:
        """So far is a shard that is computed here."""
        self._seen[key] = progress

    def words(self) -> str:
        """All of it, in one line."""
        return json.dumps({key: astuple(progress) for key, progress in self._seen.copy().items()})


def following(store: Store, shards: Mapping[str, Shard], hear: Callable[[Heard], None]) -> AbstractContextManager[None]:
    """For the ``with`` block, call ``hear`` every few seconds, and at its end.

    Args:
        store: where the workers give their signs of life.
        shards: by key; of others nothing is heard.
        hear: told how far some of these shards are.
    """

    def listen() -> None:
        with suppress(StoreError):
            hear([found for words in said_by_owners(store) for found in _understood(words, shards)])

    return repeatedly(listen, SECONDS_BETWEEN_LOOKS, "cpt-reports")


def _understood(words: str, shards: Mapping[str, Shard]) -> Heard:
    """Nothing from those who say nothing, or were read while they spoke."""
    with suppress(ValueError, TypeError, AttributeError):
        return [(shards[key], ShardProgress(*counts)) for key, counts in json.loads(words).items() if key in shards]
    return []

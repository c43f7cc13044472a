"""Who computes what at the moment, so that two runs on one store share the work instead of doing it twice.

In: the key of an artifact, how to find it, how to compute it.
Out: the artifact.
Promise: only an optimisation: whatever happens to a claim, results stay right, because the first commit of a key wins;
a claim of a process that has ended is taken over, and so is one of another machine that gives no sign of life.
Never: compares clocks of two machines; a process is silent when its sign of life has not changed for as long as this
one has looked.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from cpt_core.artifacts import Artifact
from cpt_core.errors import StoreError
from cpt_core.storage import Store
from cpt_core.storage.owners import owner_is_gone, owner_lives, owner_tag

logger = logging.getLogger(__name__)

FOLDER = ".claims"
OWNERS = f"{FOLDER}/owners"
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 180.0
LOOK_SECONDS = 0.5


def said_by_owners(store: Store) -> Iterator[str]:
    """What everyone has said with the last sign of life."""
    for owner in store.files(OWNERS):
        with suppress(FileNotFoundError):
            yield store.read_bytes(f"{OWNERS}/{owner}").decode(errors="replace").partition(" ")[2]


class Claims:
    """The claims of one run; a context that gives signs of life until it ends. May be used from several threads.

    Args:
        store: what is computed for.
        words: what is said with each sign of life, in one line.
    """

    def __init__(self, store: Store, words: Callable[[], str] = str) -> None:
        self._store, self._words = store, words
        self._owner = owner_tag()
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="cpt-claims", daemon=True)
        self._heard: dict[str, tuple[bytes | None, float]] = {}

    def __enter__(self) -> Self:
        self._sweep()
        self._say(0)
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._heartbeat.join()
        with suppress(StoreError):
            self._store.forget(f"{OWNERS}/{self._owner}")

    def compute_once(
        self, key: str, name: str, find: Callable[[], Artifact | None], compute: Callable[[], Artifact]
    ) -> Artifact:
        """Compute an artifact, unless another run does: then wait for its result.

        Args:
            key: of the artifact.
            name: readable, for the line that says what is waited for.
            find: looks whether it is committed.
            compute: commits it.
        """
        has_waited = False
        while True:
            with self._held(key) as is_mine:
                if is_mine and not has_waited:
                    return compute()
                if (artifact := find()) is not None:
                    return artifact
                if is_mine:
                    return compute()
            if not has_waited:
                logger.info("%s is being computed by another run, which is waited for", name)
                has_waited = True
            time.sleep(LOOK_SECONDS)

    @contextmanager
    def _held(self, key: str) -> Iterator[bool]:
        """Whether this run may compute it; True also where the store takes no claims."""
        claim = f"{FOLDER}/{key}"
        try:
            is_mine = self._take(claim)
        except StoreError:
            yield True
            return
        try:
            yield is_mine
        finally:
            if is_mine:
                with suppress(StoreError):
                    self._store.forget(claim)

    def _take(self, claim: str) -> bool:
        if self._store.note(claim, self._owner.encode()):
            return True
        holder = self._read(claim)
        if holder is not None and not self._is_gone(holder.decode(errors="replace")):
            return False
        self._store.forget(claim)
        return self._store.note(claim, self._owner.encode())

    def _is_gone(self, owner: str) -> bool:
        """Whether the holder of a claim has ended, here, or has been silent for long enough, anywhere."""
        if owner_lives(owner):
            return False  # however long a loaded machine keeps it from saying so
        if owner_is_gone(owner):
            return True
        sign = self._read(f"{OWNERS}/{owner}") if owner else None
        before, since = self._heard.get(owner, (b"", 0.0))
        if sign != before:
            self._heard[owner] = (sign, time.monotonic())
            return False
        return time.monotonic() - since > SILENCE_SECONDS

    def _read(self, name: str) -> bytes | None:
        try:
            return self._store.read_bytes(name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _beat(self) -> None:
        number = 0
        while not self._ended.wait(BEAT_SECONDS):
            self._say(number := number + 1)

    def _say(self, number: int) -> None:
        with suppress(StoreError):
            self._store.replace(f"{OWNERS}/{self._owner}", f"{number} {self._words()}".encode())

    def _sweep(self) -> None:
        """Forget the claims and signs of processes of this machine that have ended."""
        with suppress(StoreError):
            for owner in self._store.files(OWNERS):
                if owner_is_gone(owner):
                    self._store.forget(f"{OWNERS}/{owner}")
            for claim in self._store.files(FOLDER):
                if owner_is_gone((self._read(f"{FOLDER}/{claim}") or b"").decode(errors="replace")):
                    self._store.forget(f"{FOLDER}/{claim}")

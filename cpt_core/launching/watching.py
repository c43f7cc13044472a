"""Is the job still alive? Asked by whoever waits for it.

In: a job's status files, by the clock of this machine alone.
Out: requests to stop, in the name of the rank that fell silent or that all others wait for.
With kind env every node has a watch of its own, which looks at all nodes' until the ranks have met, and then at the
first node's status.
Promise: a node that is lost, a rank that hangs and a launcher that does not end itself all end the job in time.
Never: compares times of two machines.
"""

import time
from dataclasses import dataclass

from cpt_core.launching.guard import SECONDS_BETWEEN_SIGNS
from cpt_core.launching.job import Job, JobHandle
from cpt_core.launching.neighbours import Neighbours
from cpt_core.launching.status import RankExit, SignOfLife, Status, StopRequest, ask_all_to_stop

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_LEAVE = 60.0
"""How long processes may take to part from each other after the job has succeeded."""
_FRACTION_OF_TIMEOUT = 0.8
"""A hang is named before the collective operations of those who wait break off and take the blame."""


@dataclass
class _Seen:
    """What was last seen of something, and when it changed."""

    value: int
    changed: float


class Watch:
    """Looks at a job about once a second."""

    def __init__(self, job: Job, handle: JobHandle) -> None:
        self._job = job
        self._handle = handle
        self._first: Status | None = None
        self._neighbours = Neighbours(job.records_folder, job.folder)
        self._watched = job.status().folder
        self._signs: dict[int, SignOfLife] = {}
        self._changes: dict[int, _Seen] = {}
        self._last_look = time.monotonic()
        self._meetings = _Seen(0, time.monotonic())
        self._next_look = 0.0
        self._is_ending_since: float | None = None

    def is_over(self) -> bool:
        """Whether the job has to be ended by force: it was asked to end, or has succeeded, and its time is up.

        Raises:
            OSError: when the status cannot be read now.
        """
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._look_for_silence(now)
        limit = self._seconds_left_to_end()
        self._next_look = now + SECONDS_BETWEEN_LOOKS
        if limit is None:
            self._is_ending_since = None
            return False
        self._is_ending_since = self._is_ending_since or now
        return now - self._is_ending_since > limit

    def _seconds_left_to_end(self) -> float | None:
        if self._job.stop_request() is not None:
            return self._handle.seconds_to_stop
        return SECONDS_TO_LEAVE if self._job.is_done() else None

    def _forgive_own_absence(self, now: float) -> None:
        """While this process itself stood still, or its file system did, nobody can be blamed for silence."""
        absence = now - self._last_look
        if absence > SECONDS_BETWEEN_SIGNS:
            for seen in [self._meetings, *self._changes.values()]:
                seen.changed += absence
        self._last_look = now

    def _look_for_silence(self, now: float) -> None:
        status = self._status()
        ended = status.ends()
        alive = status.alive()
        self._signs |= alive  # one that cannot be read any more is as good as one that does not change
        if self._first is None and len(alive) < self._job.launcher.world_size:
            self._look_at_neighbours()
        self._forgive_own_absence(now)
        running = [sign for rank, sign in self._signs.items() if rank not in ended]
        for sign in running:
            seen = self._changes.setdefault(sign.rank, _Seen(sign.written_ns, now))
            if seen.value != sign.written_ns:
                self._changes[sign.rank] = _Seen(sign.written_ns, now)
        if len(ended) < self._job.launcher.world_size:
            self._report_silent(running, now)
            self._report_hanging(running, now)

    def _look_at_neighbours(self) -> None:
        self._signs |= self._neighbours.alive()
        if (request := self._neighbours.stop_request()) is not None:
            self._job.status().ask_to_stop(request)

    def _status(self) -> Status:
        """What to look at; another one than before says nothing of the ranks of the one before."""
        self._first = self._first or self._job.first_status()
        status = self._first or self._job.status()
        if status.folder != self._watched:
            self._watched = status.folder
            self._signs.clear()
            self._changes.clear()
        return status

    def _report_silent(self, running: list[SignOfLife], now: float) -> None:
        """Guards end silent ranks themselves; this is for a guard, a node or a connection that is lost."""
        limit = self._job.launcher.silence_seconds + 2 * SECONDS_BETWEEN_SIGNS
        silent = [sign for sign in running if now - self._changes[sign.rank].changed > limit]
        if silent:
            self._fail(silent[0], f"was not heard of for {limit:g} seconds: it hangs, or its node is lost")

    def _report_hanging(self, running: list[SignOfLife], now: float) -> None:
        meetings = sum(sign.meetings for sign in running)
        if meetings != self._meetings.value or not meetings:
            self._meetings = _Seen(meetings, now)
        limit = _FRACTION_OF_TIMEOUT * self._job.launcher.timeout_seconds
        if running and now - self._meetings.changed > limit:
            awaited = min(running, key=lambda sign: sign.meetings)
            self._fail(awaited, f"was awaited by the others for {limit:g} seconds", dump_stacks=True)

    def _fail(self, sign: SignOfLife, why: str, *, dump_stacks: bool = False) -> None:
        failed = RankExit(sign.rank, sign.node, sign.host, None, sign.log, why)
        statuses = filter(None, [self._first, self._job.status()])
        ask_all_to_stop(statuses, StopRequest(str(failed), failed, dump_stacks=dump_stacks))

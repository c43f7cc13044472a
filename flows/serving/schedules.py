"""When a deployment runs by itself: what a user types, and what Prefect understands.

In: `--every 15m`, `--cron "0 3 * * *"` or `--watch`.
Out: ``Schedule``, for the deployment that does the whole of a configuration.
Promise: a schedule that means nothing is one line with an example.
Never: two schedules at once.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cpt_core.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHORTEST_SECONDS = 30
"""Starting a run takes seconds of its own."""
WATCH_SECONDS = 60


@dataclass(frozen=True)
class Schedule:
    """How often, and what: the whole job, or a look for new files that starts it."""

    every_seconds: int | None = None
    cron: str | None = None
    watches: bool = False

    def is_for(self, entrypoint: str, *, with_training: bool) -> bool:
        """Whether it belongs to the deployment of this entrypoint."""
        if self.watches:
            return entrypoint == "flows.watch_sources.watch_sources"
        whole = "continued_pretraining.continued_pretraining" if with_training else "prepare_corpus.prepare_corpus"
        return entrypoint == f"flows.{whole}"

    def as_prefect(self) -> dict[str, Any]:
        """The same for a deployment of Prefect."""
        return {"cron": self.cron} if self.cron else {"interval": timedelta(seconds=self.every_seconds or 0)}


def parse_schedule(*, every: str | None, cron: str | None, watch: bool) -> Schedule | None:
    """What the options of `cpt up` say; None when they say nothing.

    Raises:
        ConfigError: more than one of them, or one that means nothing.
    """
    given = [option for option, value in (("--every", every), ("--cron", cron), ("--watch", watch)) if value]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} are given, expected one of them")
    if every:
        return Schedule(every_seconds=_seconds(every))
    if cron:
        return Schedule(cron=_checked_cron(cron))
    return Schedule(every_seconds=WATCH_SECONDS, watches=True) if watch else None


def _seconds(every: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", every)
    if match is None:
        raise ConfigError(f"--every is {every}, expected a number with s, m, h or d, such as 15m")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds < _SHORTEST_SECONDS:
        raise ConfigError(f"--every is {every}, expected at least {_SHORTEST_SECONDS}s")
    return seconds


def _checked_cron(cron: str) -> str:
    from prefect.client.schemas.schedules import CronSchedule

    expected = 'expected minute, hour, day, month and weekday, such as "0 3 * * *" for 3:00 UTC'
    try:
        if len(cron.split()) == 5:
            return CronSchedule(cron=cron).cron
    except ValueError:
        pass
    raise ConfigError(f'--cron is "{cron}", {expected}')


def describe_schedule(schedule: dict[str, Any]) -> str:
    """A schedule of the server, in the words of the options."""
    if "cron" in schedule:
        return f'at "{schedule["cron"]}" {schedule.get("timezone") or "UTC"}'
    seconds = int(schedule["interval"]) if "interval" in schedule else 0
    unit = next((unit for unit, size in reversed(_UNITS.items()) if seconds and seconds % size == 0), "s")
    return f"every {seconds // _UNITS[unit]}{unit}" if seconds else "by a rule of its own"

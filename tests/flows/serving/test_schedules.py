"""A configuration that runs by itself: on new files, or by the clock."""

import re
from dataclasses import replace

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from cpt_core.errors import ConfigError
from flows.serving.api import ask
from flows.serving.operation import down, up
from flows.serving.overview import describe, status
from flows.serving.prefect_server import free_port
from flows.serving.schedules import Schedule, parse_schedule
from flows.watch_sources import look
from tests.conftest import write_jsonl


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        ({}, None),
        ({"every": "15m"}, Schedule(every_seconds=900)),
        ({"every": "2d"}, Schedule(every_seconds=172_800)),
        ({"cron": "0 3 * * *"}, Schedule(cron="0 3 * * *")),
        ({"watch": True}, Schedule(every_seconds=60, watches=True)),
    ],
    ids=str,
)
def test_what_the_options_mean(options, schedule):
    """`--every`, `--cron` and `--watch`, as a user types them."""
    assert parse_schedule(**{"every": None, "cron": None, "watch": False} | options) == schedule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": "15"}, "--every is 15, expected a number with s, m, h or d, such as 15m"),
        ({"every": "5s"}, "--every is 5s, expected at least 30s"),
        (
            {"cron": "every night"},
            '--cron is "every night", expected minute, hour, day, month and weekday, such as "0 3 * * *" for 3:00 UTC',
        ),
        ({"every": "1h", "watch": True}, "--every and --watch are given, expected one of them"),
    ],
    ids=str,
)
def test_a_schedule_that_means_nothing_is_one_line(options, message):
    """With an example of one that does."""
    with pytest.raises(ConfigError) as error:
        parse_schedule(**{"every": None, "cron": None, "watch": False} | options)
    assert str(error.value) == message


class Watched:
    """A served configuration that waits for its files."""

    def __init__(self, home, config):
        self.home, self.config = home, config
        self.api_url = str(up(config, home=home, port=free_port(), schedule=every_10_s()).api_url)

    def runs(self, flow: str) -> list[dict]:
        """Runs that were begun, the oldest first."""
        question = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"}
        return [run for run in ask(self.api_url, "flow_runs/filter", question) if run["start_time"]]

    def rows(self, run: dict) -> dict[str, str]:
        """Task run -> state."""
        found = ask(self.api_url, "task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        return {task["name"]: task["state_name"] for task in found}

    def shards(self, run: dict) -> dict[str, str]:
        """Shard -> state."""
        return {name: state for name, state in self.rows(run).items() if name.startswith("tokenize")}

    def screen(self) -> list[str]:
        """What `cpt status` shows but for the jobs, which come and go with each look, without what differs each time."""
        text = describe(replace(status(self.home), jobs=())).replace(self.api_url.removesuffix("/api"), "URL")
        return re.sub(r"started [-0-9]+ [:0-9]+ UTC", "started TIME", text).splitlines()

    def look(self) -> str:
        """One more look, at once."""
        with temporary_settings({PREFECT_API_URL: self.api_url}):
            return look(self.config)


def every_10_s() -> Schedule:
    """The sensor, more often than the command allows: the test waits for its looks."""
    return Schedule(every_seconds=10, watches=True)


@pytest.fixture
def watched(home, make_config):
    """No file is there yet."""
    try:
        yield Watched(home, make_config())
    finally:
        down(home)


@pytest.mark.timeout(1500)
def test_new_files_start_a_run_that_computes_only_them(watched, tmp_path, until):
    """The sensor waits for files, starts one run for each state of the sources, continues one that crashed, and leaves
    the rest to the store; by the clock, a run that finds nothing new computes nothing.
    """
    seen = status(watched.home)
    assert seen.schedules == ("cpt-watch/new-files every 10s",)
    assert watched.look().startswith(f"nothing to do yet: discovery.sources: a: {tmp_path / 'corpus'} matches no file")
    write_jsonl(tmp_path / "corpus/1.jsonl", ["the first file"])
    until(lambda: [run["state_type"] for run in watched.runs("cpt-prepare")] == ["COMPLETED"], 400)
    (first,) = watched.runs("cpt-prepare")
    assert watched.look() == f"nothing new; these files are those of the run {first['name']}, which is Completed"

    write_jsonl(tmp_path / "corpus/2.jsonl", ["the second file"])
    until(lambda: [run["state_type"] for run in watched.runs("cpt-prepare")] == ["COMPLETED"] * 2, 400)
    _, second = watched.runs("cpt-prepare")
    until(lambda: watched.shards(second) == {"tokenize a-00000": "Cached", "tokenize a-00001": "Completed"})

    crashed = {"state": {"type": "CRASHED", "message": "as asked"}, "force": True}
    ask(watched.api_url, f"flow_runs/{second['id']}/set_state", crashed)
    assert watched.look() == f"the run {second['name']} had crashed and is continued"
    until(lambda: [run["state_type"] for run in watched.runs("cpt-prepare")] == ["COMPLETED"] * 2, 400)

    *screen, watcher, following = watched.screen()
    assert screen == [
        "server       URL answers",
        "database     SQLite",
        "worker       online",
        "deployments  cpt-prepare/data-only, cpt-shard/retry-shard, cpt-train/train-only, cpt-watch/new-files,"
        " cpt/full-pipeline",
        "schedule     cpt-watch/new-files every 10s",
        "ended        Completed  cpt-prepare prepare test, started TIME",
        "ended        Completed  cpt-prepare prepare test, started TIME",
    ]
    assert (watcher.split()[0], watcher.split()[2]) == ("watcher", "cpt-watch")
    assert following == "next         PREFECT_API_URL=URL/api prefect deployment run cpt/full-pipeline"

    up(watched.config, home=watched.home, schedule=Schedule(every_seconds=3600))
    assert status(watched.home).schedules == ("cpt-prepare/data-only every 1h",)
    until(lambda: [run["state_type"] for run in watched.runs("cpt-prepare")] == ["COMPLETED"] * 3, 400)
    third = watched.runs("cpt-prepare")[2]
    cached = ("index test", "pack a-00000", "tokenize a-00000", "tokenize a-00001")
    until(lambda: watched.rows(third) == {"discover test": "Completed", **dict.fromkeys(cached, "Cached")})
    print(f"a run that found nothing new took {third['total_run_time']:.1f} s")
    assert third["total_run_time"] < 60
    assert any(run["auto_scheduled"] for run in watched.runs("cpt-watch"))

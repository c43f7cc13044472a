"""A configuration that runs by itself: on new files, or by the clock."""

from datetime import datetime, timedelta

import pytest

from cpt_core.errors import ConfigError
from flows.serving.api import ask
from flows.serving.operation import down, up
from flows.serving.overview import status
from flows.serving.schedules import Schedule, parse_schedule
from tests.conftest import write_jsonl
from tests.flows.serving.scheduled import Scheduled, watching
from tests.pipeline import packed


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


@pytest.fixture
def watched(home, make_config):
    """No file is there yet."""
    try:
        yield Scheduled(home, make_config(), watching())
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


@pytest.fixture
def by_the_clock(home, make_config):
    """Serve the configuration with these options of `cpt up`."""

    def serve(**options: str) -> Scheduled:
        return Scheduled(home, make_config(), parse_schedule(**{"every": None, "cron": None, "watch": False} | options))

    return serve


@pytest.mark.matrix  # the suite waits for one schedule, which is enough for every run of it
def test_every_half_a_minute_the_worker_runs_it_and_what_is_there_is_not_computed_again(by_the_clock, tmp_path, until):
    """The first run begins at once, the next one is the server's own: it finds nothing new and ends after seconds. One
    that is due while the first goes on is cancelled.
    """
    write_jsonl(tmp_path / "corpus/1.jsonl", ["the only file"])
    site = by_the_clock(every="30s")
    until(lambda: len(site.completed()) >= 2)
    first, second = site.completed()[:2]
    assert [run["auto_scheduled"] for run in (first, second)] == [False, True]
    discovered = {"discover test": "Completed"}
    others = ("index test", "pack a-00000", "tokenize a-00000")
    until(lambda: site.rows(first) == discovered | dict.fromkeys(others, "Completed"))
    until(lambda: site.rows(second) == discovered | dict.fromkeys(others, "Cached"))
    assert second["total_run_time"] < 60


def test_at_the_minute_the_worker_runs_it_and_only_the_new_file_is_computed(by_the_clock, make_config, tmp_path, until):
    """Nobody starts a run; the one of `--cron` is due at second 0 and begins soon after."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["the first file"])
    packed(make_config())
    write_jsonl(tmp_path / "corpus/2.jsonl", ["the second file"])
    site = by_the_clock(cron="* * * * *")
    assert status(site.home).schedules == ('cpt-prepare/data-only at "* * * * *" UTC',)
    assert site.runs() == []
    until(lambda: site.completed() != [])
    run = site.completed()[0]
    assert run["auto_scheduled"]
    due, begun = (datetime.fromisoformat(run[which]) for which in ("expected_start_time", "start_time"))
    assert (due.second, due.microsecond) == (0, 0)
    assert abs(begun - due) < timedelta(seconds=60)
    until(lambda: site.shards(run) == {"tokenize a-00000": "Cached", "tokenize a-00001": "Completed"})

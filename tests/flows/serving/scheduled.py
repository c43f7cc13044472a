"""A served configuration that runs by itself, and what a test asks of its runs."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_API_URL, temporary_settings

from cpt_core.config import PipelineConfig
from flows.serving.api import ask
from flows.serving.operation import up
from flows.serving.overview import describe, status
from flows.serving.prefect_server import free_port
from flows.serving.schedules import Schedule
from flows.watch_sources import look


class Scheduled:
    """`cpt up` with a schedule, on a port of its own."""

    def __init__(self, home: Path, config: PipelineConfig, schedule: Schedule | None) -> None:
        self.home, self.config = home, config
        self.api_url = str(up(config, home=home, port=free_port(), schedule=schedule).api_url)

    def runs(self, flow: str = "cpt-prepare") -> list[dict[str, Any]]:
        """Runs that were begun, the oldest first."""
        question = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"}
        return [run for run in ask(self.api_url, "flow_runs/filter", question) if run["start_time"]]

    def completed(self) -> list[dict[str, Any]]:
        """Runs of the data stages that have done their work, the oldest first."""
        return [run for run in self.runs() if run["state_type"] == "COMPLETED"]

    def rows(self, run: dict[str, Any]) -> dict[str, str]:
        """Task run -> state."""
        found = ask(self.api_url, "task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        return {task["name"]: task["state_name"] for task in found}

    def shards(self, run: dict[str, Any]) -> dict[str, str]:
        """Shard -> state."""
        return {name: state for name, state in self.rows(run).items() if name.startswith("tokenize")}

    def screen(self) -> list[str]:
        """What `cpt status` shows but for the jobs, which come and go with each look, without what differs each time."""
        text = describe(replace(status(self.home), jobs=())).replace(self.api_url.removesuffix("/api"), "URL")
        return re.sub(r"started [-0-9]+ [:0-9]+ UTC", "started TIME", text).splitlines()

    def look(self) -> str:
        """One more look for new files, at once."""
        with temporary_settings({PREFECT_API_URL: self.api_url}):
            return look(self.config)


def watching() -> Schedule:
    """`--watch`, more often than the command does: the test waits for its looks."""
    return Schedule(every_seconds=10, watches=True)

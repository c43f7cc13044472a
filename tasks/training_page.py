"""What the Prefect UI shows of a training: loss and learning rate while it runs, and its figures at the end.

In: the metrics of each step.
Out: a picture, replaced now and then, and a table.
"""

import time
from typing import Any

from cpt_core.artifacts import Artifact
from tasks.pictures import learning_curves, read_metrics
from tasks.run_page import Picture, show_table
from tasks.stage_lines import describe_step, describe_training
from tasks.tables import training_facts

SECONDS_BETWEEN_PICTURES = 10.0


class TrainingPage:
    """The page of one training."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._metrics: list[dict[str, Any]] = []
        self._picture = Picture("loss")
        self._last_shown = time.monotonic()

    def add(self, metrics: dict[str, Any]) -> None:
        """One more step."""
        self._metrics.append(metrics)
        if time.monotonic() - self._last_shown >= SECONDS_BETWEEN_PICTURES:
            self._last_shown = time.monotonic()
            self._show(self._metrics, f"step {metrics['step']:,}: {describe_step(metrics)}")

    def finish(self, trained: Artifact) -> None:
        """The training has ended; its file of metrics also knows the steps of earlier attempts."""
        summary = describe_training(trained)
        svg = self._show(read_metrics(trained) or self._metrics, summary)
        show_table("training-table", training_facts(trained), f"Training of {self._name}: {summary}", svg)

    def _show(self, metrics: list[dict[str, Any]], description: str) -> str:
        svg = learning_curves(self._name, metrics)
        self._picture.show(svg, f"Training of {self._name}: {description}")
        return svg

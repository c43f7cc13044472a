"""What a run shows of itself in the Prefect UI: tables, pictures, tags.

In: rows, pictures as SVG, words.
Out: artifacts of the run, or of the task run that asks.
Promise: a display that fails does not fail the work that it shows, and does not hold it up each time: after a failure
nothing of that run is tried for some minutes, but for what is shown only once, then it goes on; outside of a run
nothing happens.
Never: shows text of a document.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.artifacts import ImageArtifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import ArtifactSort
from prefect.context import FlowRunContext

from cpt_core.config import PipelineConfig
from cpt_core.errors import CptError
from tasks.cells import Link
from tasks.charts import data_uri
from tasks.markdown import escaped
from tasks.prepared import Prepared
from tasks.tables import Row, held_out_losses, outputs
from tasks.trained import Trained

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
STAGE_PAGES = {
    "tokenization": "tokenization-table",
    "indexing": "indexing-table",
    "packing": "packing-table",
    "training": "training-table",
    "evaluation": "held-out-loss",
}
"""Stage -> key of the table that describes what it has made."""
SECONDS_OF_PAUSE = 300.0
"""How long nothing of a run is shown after its server has failed: a try may take minutes where it only hangs."""

_lock = threading.Lock()
_goes_on: dict[UUID, float] = {}
"""When the display of a run goes on, by ``time.monotonic``; only of runs whose server has failed."""


def in_display(show: Callable[[], Result], *, is_only_chance: bool = False) -> Result | None:
    """Call ``show`` inside of a run; None when there is none, or when its server does not answer.

    Args:
        show: what shows something.
        is_only_chance: it is not shown again later, so it is tried in a pause, too.
    """
    context = FlowRunContext.get()
    run_id = context.flow_run.id if context and context.flow_run else None
    if run_id is None or (_is_paused(run_id) and not is_only_chance):
        return None
    try:
        return show()
    except CptError as error:
        logger.warning("something of this run is not shown in the UI: %s", error)
    except httpx.HTTPError as error:
        _pause(run_id, error)
    return None


def _is_paused(run_id: UUID) -> bool:
    return time.monotonic() < _goes_on.get(run_id, 0.0)


def _pause(run_id: UUID, error: httpx.HTTPError) -> None:
    """Told once a pause: several threads may have tried at the same time."""
    with _lock:
        if _is_paused(run_id):
            return
        _goes_on[run_id] = time.monotonic() + SECONDS_OF_PAUSE
    logger.warning(
        "nothing of this run is shown in the UI for %.0f s, then it is tried again: %s", SECONDS_OF_PAUSE, error
    )


def label_run(config: PipelineConfig) -> None:
    """Give the flow run the tags by which the UI finds it: cpt and the configuration's name."""

    def label() -> None:
        context = FlowRunContext.get()
        if context and context.flow_run:
            tags = {*context.flow_run.tags, "cpt", config.name}
            with get_client(sync_client=True) as client:
                client.update_flow_run(context.flow_run.id, tags=sorted(tags))

    in_display(label)


def show_table(key: str, rows: list[Row], description: str, picture: str | None = None) -> None:
    """A table with a picture (SVG) above it. Its description is markdown; its cells are text, unless they say so."""
    if picture:
        description = f"{description}\n\n![{key}]({data_uri(picture)})"
    if rows:
        table = [{column: escaped(cell) for column, cell in row.items()} for row in rows]
        in_display(lambda: create_table_artifact(table=table, key=key, description=description), is_only_chance=True)


def show_outputs(prepared: Prepared, trained: Trained | None = None) -> None:
    """The losses of the models side by side, and where everything lies that the run has made or used: each path to
    copy, its stage as a link to the page that describes it.
    """
    if trained and trained.base_losses and trained.trained_losses:
        scores = {"base": trained.base_losses, "trained": trained.trained_losses}
        show_table("held-out-loss", held_out_losses(scores), "Held-out loss before and after, in nats a token")
    pages = in_display(pages_of_stages, is_only_chance=True) or {}
    rows = [
        {**row, "stage": Link(row["stage"], pages[row["stage"]])} if row["stage"] in pages else row
        for row in outputs(prepared, trained)
    ]
    show_table("outputs", rows, "Where the outputs lie; `cpt inspect WHERE` looks into each")


def pages_of_stages() -> dict[str, str]:
    """Stage -> address in the UI of its table in this run, of several the newest. What is no address of the UI itself,
    such as a file or s3://, the UI takes out of a page.
    """
    context = FlowRunContext.get()
    assert context and context.flow_run
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=list(STAGE_PAGES.values()))),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[context.flow_run.id])),
            sort=ArtifactSort.CREATED_DESC,
        )
    by_key = {artifact.key: f"/artifacts/artifact/{artifact.id}" for artifact in reversed(found)}
    return {stage: by_key[key] for stage, key in STAGE_PAGES.items() if key in by_key}


def show_drawn(key: str, draw: Callable[[], str], description: str) -> str | None:
    """A picture; returns it, as SVG, for the table that belongs to it. Drawn only where there is a run to show it."""
    if (svg := in_display(draw, is_only_chance=True)) is not None:
        Picture(key).show(svg, description)
    return svg


class Picture:
    """A picture that may be shown again when there is more to see; the UI keeps one of it for a run."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._artifact_id: UUID | None = None

    def show(self, svg: str, description: str) -> None:
        """Create or replace it."""
        in_display(lambda: self._send(data_uri(svg), description))

    def _send(self, uri: str, description: str) -> None:
        if self._artifact_id is None:
            made = ImageArtifact(key=self._key, description=description, image_url=uri)
            self._artifact_id = made.create(_sync=True).id  # type: ignore[call-arg, union-attr]
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self._artifact_id, ArtifactUpdate(data=uri, description=description))

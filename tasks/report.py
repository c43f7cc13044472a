"""One page about what a configuration has made: its documents, its rows, its training, and where all of it lies.

In: a configuration and the store.
Out: HTML that is complete in itself.
Promise: the page asks nothing from anywhere, has no script, and shows what comes from the data as text.
Never: computes an artifact, or shows the text of a document.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from cpt_core.config import PipelineConfig
from cpt_core.errors import StoreError
from cpt_core.printable import printable
from cpt_core.storage import Store
from cpt_core.tokenization import noticed
from tasks.cells import Emphasis, Place
from tasks.charts import data_uri
from tasks.pictures import document_lengths, learning_curves, read_metrics, row_fill
from tasks.planning import RunPlan, plan_run
from tasks.prepared import Prepared
from tasks.stage_lines import describe_noticed
from tasks.tables import Row, held_out_losses, indexed_splits, outputs, packed_splits, tokenized_sources, training_facts
from tasks.trained import Trained

_ABOUT_ONE_RUN = {"computed", "cached", "failed", "taken from the store"}
"""Columns and facts that tell how a run came by its artifacts, which are all in the store now."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        rows: of its table.
        picture: above the table, as an address that holds it; None for none.
        note: a line of text below the heading.
    """

    title: str
    rows: list[Row]
    picture: str | None = None
    note: str = ""


def write_report(config: PipelineConfig, file: Path) -> RunPlan:
    """Write the page of a configuration; returns what was found in the store.

    Raises:
        StoreError: when the data stages are not complete, or the file cannot be written.
    """
    plan = plan_run(config, with_training=config.training is not None)
    if plan.prepared is None:
        missing = ", ".join(f"{unit.stage} {unit.name}" for unit in plan.to_do()[:3])
        raise StoreError(
            f"nothing to report on yet: {config.store_uri} lacks {len(plan.to_do()):,} artifacts of {config.name}"
            f" ({missing}, …); expected those of a finished `cpt prepare`: run it, then this again"
        )
    page = _template().render(
        name=config.name,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("cpt"),
        store=config.store_uri,
        figures=_figures(plan.prepared, plan.trained),
        sections=_sections(config, plan.prepared, plan.trained),
        to_do=[f"{unit.stage} {unit.name}" for unit in plan.to_do()],
        configuration=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{file} cannot be written ({error.strerror}); name another file with --to") from error
    return plan


def _figures(prepared: Prepared, trained: Trained | None) -> dict[str, str]:
    """What the page says first."""
    data = prepared.summary()
    figures = {
        "documents": f"{data['documents_out']:,}",
        "quarantined": f"{data['documents_quarantined']:,}",
        "tokens": f"{data['tokens']:,}",
        "rows": f"{data['rows']:,}",
        "padding": f"{data['padding_fraction']:.2%}",
    }
    if trained is not None:
        figures["steps"] = f"{trained.model.counts['steps']:,}"
        figures["loss, first to last step"] = " → ".join(
            f"{trained.model.counts[which]:.4f}" for which in ("first_loss", "final_loss")
        )
    return figures


def _sections(config: PipelineConfig, prepared: Prepared, trained: Trained | None) -> list[Section]:
    store, row_len_tokens = Store(config.store_uri), config.packing.row_len_tokens
    tokens = {shard.name: found for shard, found in zip(prepared.manifest.shards, prepared.tokens, strict=True)}
    sections = [
        Section(
            "Tokenization",
            tokenized_sources(prepared.manifest, tokens, failures={}),
            note=describe_noticed(noticed(prepared.tokens)),
        ),
        Section(
            "Documents",
            indexed_splits(prepared.index),
            data_uri(document_lengths(prepared.index, row_len_tokens, store)),
        ),
        Section("Rows", packed_splits(prepared.packed), data_uri(row_fill(prepared.packed, store))),
    ]
    if trained is not None:
        curves = data_uri(learning_curves(config.name, read_metrics(trained.model)))
        sections.append(Section("Training", training_facts(trained.model), curves))
        if trained.base_losses and trained.trained_losses:
            scores = {"base": trained.base_losses, "trained": trained.trained_losses}
            sections.append(Section("Held-out loss, nats a token", held_out_losses(scores)))
    sections.append(Section("Where everything lies", outputs(prepared, trained), note="`cpt inspect` looks into each."))
    return sections


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["printable"] = printable
    environment.tests["emphasis"] = lambda cell: isinstance(cell, Emphasis)
    environment.tests["place"] = lambda cell: isinstance(cell, Place)
    environment.globals["hidden"] = _is_about_one_run
    return environment.get_template("report.html")


def _is_about_one_run(name: Any) -> bool:
    return name in _ABOUT_ONE_RUN

"""What the command prints."""

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cpt_core.errors import CptError, ShardsFailedError

if TYPE_CHECKING:  # Prefect takes a second to import, and reads its settings when it does
    from tasks.planning import RunPlan

UNITS_SHOWN = 40

_wants_json = False


def want_json(wanted: bool) -> bool:
    """Remember that stdout holds exactly one JSON object, also when the command fails."""
    global _wants_json  # the error is printed after the command has lost its own arguments
    _wants_json = wanted
    return wanted


def print_json(values: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(values, indent=1, ensure_ascii=False))


def print_error(error: CptError) -> None:
    """One line on stderr; with ``--json`` also an object on stdout."""
    print(f"cpt: {' '.join(str(error).split())}", file=sys.stderr)
    if _wants_json:
        failed = sorted(error.failures) if isinstance(error, ShardsFailedError) else []
        with suppress(BrokenPipeError):
            print_json({"error": str(error), "shards_failed": failed})


def print_run(summary: dict[str, Any]) -> None:
    """The result of a run on one screen."""
    console = Console(highlight=False)
    if "shards_total" in summary:
        console.print(data_table(summary))
    if "hf_model_uri" in summary:
        console.print(training_table(summary))
    if summary.get("held_out_loss"):
        console.print(loss_table(summary["held_out_loss"]))
    if "hf_model_uri" in summary:
        console.print(f"model  {summary['hf_model_uri']}", soft_wrap=True)


def data_table(summary: dict[str, Any]) -> Table:
    """Documents, tokens and rows."""
    table = _pairs()
    table.add_row(
        "shards",
        f"{summary['shards_total']} ({summary['shards_computed']} computed, {summary['shards_cached']} cached)",
    )
    table.add_row(
        "documents",
        f"{summary['documents_in']:,} in = {summary['documents_out']:,} out"
        f" + {summary['documents_quarantined']:,} quarantined",
    )
    in_rows = summary["tokens"] - summary["tokens_dropped"]
    table.add_row(
        "tokens", f"{summary['tokens']:,} in = {in_rows:,} in rows + {summary['tokens_dropped']:,} dropped by policy"
    )
    table.add_row(
        "rows",
        f"{summary['rows']:,} of {summary['row_len_tokens']:,} tokens, padding {summary['padding_fraction']:.2%},"
        f" {summary['documents_split']:,} documents longer than a row",
    )
    return table


def training_table(summary: dict[str, Any]) -> Table:
    """Steps and speed."""
    table = _pairs()
    cached = ", cached" if summary["is_cached"] else ""
    resumed = f", resumed from step {summary['resumed_from_step']}" if summary["resumed_from_step"] else ""
    table.add_row("steps", f"{summary['steps']:,} ({summary['world_size']} processes{resumed}{cached})")
    speed = f" at {summary['tokens_per_second']:,.0f} tokens/s" if summary["tokens_per_second"] else ""
    mfu = f", MFU {summary['mfu']:.1%}" if summary["mfu"] is not None else ""
    table.add_row("trained on", f"{summary['tokens_seen']:,} tokens{speed}{mfu}")
    return table


def loss_table(held_out_loss: dict[str, dict[str, float]]) -> Table:
    """Held-out loss before and after, by source."""
    table = Table("held-out loss", box=None, pad_edge=False)
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    for source, loss in held_out_loss.items():
        change = loss["after"] - loss["before"]
        table.add_row(source, f"{loss['before']:.4f}", f"{loss['after']:.4f}", f"{change:+.4f}")
    return table


def print_plan(plan: "RunPlan") -> None:
    """Stages with their counts, then what would be computed and why."""
    console = Console(highlight=False)
    stages = list(dict.fromkeys(unit.stage for unit in plan.units))
    table = Table("stage", box=None, pad_edge=False)
    for column in ("cached", "compute", "waits"):
        table.add_column(column, justify="right")
    for stage in stages:
        statuses = [unit.status for unit in plan.units if unit.stage == stage]
        table.add_row(stage, *(str(statuses.count(status)) for status in ("cached", "compute", "waits")))
    console.print(table)
    about = "" if plan.tokens_are_exact else "about "
    steps = f", {plan.steps:,} steps" if plan.steps is not None else ""
    console.print(f"{about}{plan.tokens:,} tokens, {about}{plan.rows:,} rows{steps}")
    to_do = plan.to_do()
    for unit in to_do[:UNITS_SHOWN]:
        console.print(f"  {unit.status} {unit.stage} {unit.name}: {unit.why}", soft_wrap=True, markup=False)
    if len(to_do) > UNITS_SHOWN:
        console.print(f"  … and {len(to_do) - UNITS_SHOWN} more; `--json` lists all")
    if not to_do:
        console.print("nothing to do")


def _pairs() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(min_width=13)
    return table

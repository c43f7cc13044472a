"""What the command prints."""

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

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
    """One JSON object on stdout, in ASCII: no terminal is driven by it, and no file name is too odd for it."""
    print(json.dumps(values, indent=1))


def print_error(error: CptError) -> None:
    """One line on stderr; with ``--json`` also an object on stdout."""
    print(f"cpt: {one_line(str(error))}", file=sys.stderr)
    if _wants_json:
        failed = sorted(error.failures) if isinstance(error, ShardsFailedError) else []
        with suppress(BrokenPipeError):
            print_json({"error": str(error), "shards_failed": failed})


def one_line(text: str) -> str:
    """The text without anything that could drive a terminal or begin a line."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(line.split())


def print_run(summary: dict[str, Any]) -> None:
    """The result of a run on one screen."""
    lines = data_lines(summary) if "shards_total" in summary else []
    if "hf_model_uri" in summary:
        lines += training_lines(summary)
    if summary.get("held_out_loss"):
        lines += loss_lines(summary["held_out_loss"])
    if "hf_model_uri" in summary:
        lines.append(f"{'model':<13} {summary['hf_model_uri']}")
    print("\n".join(lines))


def data_lines(summary: dict[str, Any]) -> list[str]:
    """Documents, tokens and rows."""
    in_rows = summary["tokens"] - summary["tokens_dropped"]
    pairs = {
        "shards": f"{summary['shards_total']} ({summary['shards_computed']} computed,"
        f" {summary['shards_cached']} cached)",
        "documents": f"{summary['documents_in']:,} in = {summary['documents_out']:,} out"
        f" + {summary['documents_quarantined']:,} quarantined",
        "tokens": f"{summary['tokens']:,} in = {in_rows:,} in rows + {summary['tokens_dropped']:,} dropped by policy",
        "rows": f"{summary['rows']:,} of {summary['row_len_tokens']:,} tokens, padding"
        f" {summary['padding_fraction']:.2%}, {summary['documents_split']:,} documents split",
    }
    if repeated := summary["repeated_files"]:
        from tasks.stage_lines import describe_repeated

        pairs["note"] = describe_repeated(repeated)
    return [f"{name:<13} {text}" for name, text in pairs.items()]


def training_lines(summary: dict[str, Any]) -> list[str]:
    """Steps and speed."""
    from tasks.stage_lines import counted

    processes = counted(summary["world_size"], "process", "processes")
    cached = ", cached" if summary["is_cached"] else ""
    resumed = f", resumed from step {summary['resumed_from_step']}" if summary["resumed_from_step"] else ""
    speed = f" at {summary['tokens_per_second']:,.0f} tokens/s" if summary["tokens_per_second"] else ""
    mfu = f", MFU {summary['mfu']:.1%}" if summary["mfu"] is not None else ""
    return [
        f"{'steps':<13} {summary['steps']:,} ({processes}{resumed}{cached})",
        f"{'trained on':<13} {summary['tokens_seen']:,} tokens{speed}{mfu}",
    ]


def loss_lines(held_out_loss: dict[str, dict[str, float]]) -> list[str]:
    """Held-out loss before and after, by source."""
    width = max(13, *(len(source) for source in held_out_loss))
    lines = [f"{'held-out loss':<{width}}   before    after   change"]
    for source, loss in held_out_loss.items():
        change = loss["after"] - loss["before"]
        lines.append(f"{source:<{width}} {loss['before']:8.4f} {loss['after']:8.4f} {change:+8.4f}")
    return lines


def print_plan(plan: "RunPlan") -> None:
    """Stages with their counts, then what would be computed and why."""
    from tasks.stage_lines import counted, describe_repeated

    print(f"{'stage':<13}   cached  compute    waits")
    for stage in dict.fromkeys(unit.stage for unit in plan.units):
        statuses = [unit.status for unit in plan.units if unit.stage == stage]
        print(f"{stage:<13}", *(f"{statuses.count(status):8}" for status in ("cached", "compute", "waits")))
    about = "" if plan.tokens_are_exact else "about "
    steps = f", {counted(plan.steps, 'step')}" if plan.steps is not None else ""
    about_rows = "" if plan.prepared else "about "
    print(f"{about}{plan.tokens:,} tokens, {about_rows}{counted(plan.rows, 'training row')}{steps}")
    print(plan.disk.line())
    if plan.gpu is not None:
        print(plan.gpu.line())
    if plan.repeated_files:
        print(f"note: {describe_repeated(plan.repeated_files)}")
    if plan.too_many_bad_lines is not None:
        print(f"warning: the run will stop after {one_line(plan.too_many_bad_lines)}")
    to_do = plan.to_do()
    for unit in to_do[:UNITS_SHOWN]:
        print(f"  {unit.status} {unit.stage} {unit.name}{': ' if unit.why else ''}{one_line(unit.why)}")
    if len(to_do) > UNITS_SHOWN:
        print(f"  … and {len(to_do) - UNITS_SHOWN} more; `--json` lists all")
    if not to_do:
        print("nothing to do")

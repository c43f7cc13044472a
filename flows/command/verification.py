"""The command that audits: ``verify``."""

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpt_core.config_file import load_config
from flows.command.options import AsJson, ConfigPath, Overrides
from flows.command.output import one_line, print_json, want_json
from flows.command.progress_screen import progress_screen

if TYPE_CHECKING:
    from cpt_core.verification import Finding, OnProgress
    from flows.command.progress_screen import Screen
    from tasks.verification import Audit

FINDINGS_SHOWN = 40
REMEDIES = {
    "damage": "`cpt verify CONFIG --repair` sets the artifact aside, and the next run computes it again",
    "conservation": "the records are whole and disagree: please report it; delete the artifact's folder and run again",
    "unreferenced": "does no harm: nothing reads it; delete it to have its space back",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(
    config: ConfigPath,
    repair: Annotated[bool, typer.Option("--repair", help="Set damaged artifacts aside for the next run")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Every byte of everything the configuration names against its record, and every count against its neighbours."""
    from tasks.verification import audit_run

    want_json(as_json)
    loaded = load_config(config, overrides)
    with progress_screen() as screen:
        audit = audit_run(loaded, repair=repair, on_progress=_bar(screen))
    print_json(_summary(audit)) if as_json else print("\n".join(_lines(audit)))
    if not audit.is_clean:
        raise typer.Exit(1)


def _bar(screen: "Screen") -> "OnProgress":
    from tasks.listening import Progress

    def show(read_bytes: int, all_bytes: int) -> None:
        screen.show(Progress("verification", read_bytes >> 20, all_bytes >> 20, "MB", "against their records"))

    return show


def _summary(audit: "Audit") -> dict[str, Any]:
    return {
        "is_clean": audit.is_clean,
        "stages": _by_stage(audit),
        "findings": [
            {
                "uri": finding.uri,
                "problem": finding.problem,
                "detail": finding.detail,
                "remedy": _remedy(finding),
            }
            for finding in audit.findings
        ],
        "set_aside": audit.set_aside,
        "not_in_store": audit.not_in_store,
        "not_checked": audit.not_checked,
    }


def _by_stage(audit: "Audit") -> dict[str, dict[str, int]]:
    stages: dict[str, dict[str, int]] = defaultdict(lambda: {"artifacts": 0, "files": 0, "bytes": 0})
    for artifact in audit.artifacts:
        seen = stages[artifact.stage]
        seen["artifacts"] += 1
        seen["files"] += len(artifact.files)
        seen["bytes"] += sum(stored.size_bytes for stored in artifact.files.values())
    return dict(stages)


def _lines(audit: "Audit") -> list[str]:
    lines = [f"{'stage':<11} artifacts   files            bytes"]
    for stage, seen in _by_stage(audit).items():
        lines.append(f"{stage:<11} {seen['artifacts']:9,} {seen['files']:7,} {seen['bytes']:16,}")
    for stage, names in audit.not_in_store.items():
        shown = ", ".join(names[:FINDINGS_SHOWN]) + (" …" if len(names) > FINDINGS_SHOWN else "")
        lines.append(f"not in the store yet: {len(names):,} of {stage}: {shown}")
    lines += [f"not checked: {one_line(why)}" for why in audit.not_checked]
    lines.append(
        f"findings: {len(audit.findings):,}" if audit.findings else "all bytes are as recorded, and all counts add up"
    )
    for finding in audit.findings[:FINDINGS_SHOWN]:
        lines += [
            f"  {finding.problem}: {one_line(finding.uri)}: {one_line(finding.detail)}",
            f"    {_remedy(finding)}",
        ]
    if len(audit.findings) > FINDINGS_SHOWN:
        lines.append(f"  … and {len(audit.findings) - FINDINGS_SHOWN:,} more; `--json` lists all")
    lines += [f"set aside: {uri}; the next run computes it again" for uri in audit.set_aside]
    return lines


def _remedy(finding: "Finding") -> str:
    return REMEDIES["damage" if finding.is_damage else finding.problem]

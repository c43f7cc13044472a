"""Commands that only look: ``plan``, ``inspect``, ``trace``, ``report``."""

from pathlib import Path
from typing import Annotated

import typer

from cpt_core.config_file import load_config
from cpt_core.errors import ConfigError
from flows.command.options import AsJson, ConfigPath, Overrides
from flows.command.output import print_json, print_plan, want_json
from flows.command.progress_screen import discovery_bar, progress_screen


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(plan)
    app.command()(inspect)
    app.command()(trace)
    app.command()(report)


def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """What a run would compute, what is cached, and which part of a key changed."""
    from tasks.planning import plan_run

    want_json(as_json)
    loaded = load_config(config, overrides)
    with progress_screen() as screen:
        run_plan = plan_run(loaded, with_training=loaded.training is not None, on_progress=discovery_bar(screen))
    print_json(run_plan.summary()) if as_json else print_plan(run_plan)


def inspect(
    uri: Annotated[str, typer.Argument(help="Folder of an artifact")],
    rows: Annotated[int, typer.Option(min=1, help="Rows or documents shown")] = 3,
    as_json: AsJson = False,
) -> None:
    """Look into any artifact: counts, key, and its first rows decoded with their document borders."""
    from cpt_core.inspection import describe, inspect_artifact

    want_json(as_json)
    found = inspect_artifact(uri, rows)
    print_json(found) if as_json else print(describe(found))


def trace(
    config: ConfigPath,
    step: Annotated[int | None, typer.Option(metavar="N", help="The documents of this step, from 1")] = None,
    document: Annotated[
        str | None, typer.Option(metavar="SOURCE:FILE:LINE", help="The rows and steps of this document")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """From a training step to its documents, or from a document to its steps."""
    from flows.command.trace_screen import describe_document, describe_step
    from tasks.tracing import DocumentName, trace_document, trace_step

    want_json(as_json)
    loaded = load_config(config, overrides)
    if step is not None and document is None:
        traced = trace_step(loaded, step)
        print_json(traced) if as_json else print(describe_step(traced))
    elif document is not None and step is None:
        traced = trace_document(loaded, DocumentName.parse(document))
        print_json(traced) if as_json else print(describe_document(traced, with_steps=loaded.training is not None))
    else:
        raise ConfigError("cpt trace: expected exactly one of --step N and --document SOURCE:FILE:LINE")


def report(
    config: ConfigPath,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Default: NAME-report.html here")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """One HTML page: documents, rows, training, losses, and where everything lies. Opens without a server."""
    from tasks.report import write_report

    want_json(as_json)
    loaded = load_config(config, overrides)
    file = to or Path(f"{loaded.name}-report.html")
    plan = write_report(loaded, file)
    left = len(plan.to_do())
    if as_json:
        print_json({"report": str(file), "artifacts_missing": left})
    else:
        print(f"{file}{f': {left:,} artifacts are not in the store yet' if left else ''}")

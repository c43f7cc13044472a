"""Commands that only look: ``plan``, ``inspect``."""

from typing import Annotated

import typer

from cpt_core.config_file import load_config
from flows.command.options import AsJson, ConfigPath, Overrides
from flows.command.output import print_json, print_plan, want_json


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(plan)
    app.command()(inspect)


def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """What a run would compute, what is cached, and which part of a key changed."""
    from tasks.planning import plan_run

    want_json(as_json)
    loaded = load_config(config, overrides)
    run_plan = plan_run(loaded, with_training=loaded.training is not None)
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

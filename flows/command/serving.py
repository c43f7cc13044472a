"""Commands for the Prefect server on this machine: ``up``, ``down``, ``status``."""

from typing import TYPE_CHECKING, Annotated

import typer

from cpt_core.config_file import load_config
from flows.command.options import AsJson, Overrides
from flows.command.output import print_json, want_json

if TYPE_CHECKING:
    from flows.serving.overview import ServingStatus

DEMO_CONFIG = "deployments/parameters/demo.yaml"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    config: Annotated[str, typer.Argument(help="Default parameters of the deployments")] = DEMO_CONFIG,
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="Port of the Prefect server on 127.0.0.1")] = 4200,
    as_json: AsJson = False,
) -> None:
    """Start a Prefect server and a worker, and register the deployments."""
    from flows.serving import operation
    from flows.serving.environment import cpt_home

    want_json(as_json)
    _print_status(operation.up(load_config(config, overrides), home=cpt_home(), port=port), as_json)


def down(as_json: AsJson = False) -> None:
    """Stop exactly what `cpt up` started."""
    from flows.serving import operation
    from flows.serving.environment import cpt_home

    want_json(as_json)
    stopped = operation.down(cpt_home())
    if as_json:
        print_json({"stopped": stopped})
    else:
        print("\n".join(f"stopped {process}" for process in stopped) or "nothing was running")


def status(as_json: AsJson = False) -> None:
    """Server, worker, deployments and the last runs on one screen."""
    from flows.serving import overview
    from flows.serving.environment import cpt_home

    want_json(as_json)
    _print_status(overview.status(cpt_home()), as_json)


def _print_status(seen: "ServingStatus", as_json: bool) -> None:
    from flows.serving.overview import describe

    print_json(seen.as_json()) if as_json else print(describe(seen))

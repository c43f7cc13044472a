"""Commands for the Prefect server on this machine: ``up``, ``down``, ``status``."""

from dataclasses import asdict
from typing import Annotated

import typer

from cpt_core.config_file import load_config
from flows.command.options import AsJson, Overrides
from flows.command.output import print_json, want_json

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
    from flows import serving

    want_json(as_json)
    serving_status = serving.up(load_config(config, overrides), home=serving.cpt_home(), port=port)
    print_json(asdict(serving_status)) if as_json else print(serving.describe(serving_status))


def down(as_json: AsJson = False) -> None:
    """Stop exactly what `cpt up` started."""
    from flows import serving

    want_json(as_json)
    stopped = serving.down(serving.cpt_home())
    if as_json:
        print_json({"stopped": stopped})
    else:
        print("\n".join(f"stopped {process}" for process in stopped) or "nothing was running")


def status(as_json: AsJson = False) -> None:
    """Server, worker, deployments and the last runs on one screen."""
    from flows import serving

    want_json(as_json)
    serving_status = serving.status(serving.cpt_home())
    print_json(asdict(serving_status)) if as_json else print(serving.describe(serving_status))

"""Commands for the Prefect server on this machine: ``up``, ``down``, ``status``."""

from typing import TYPE_CHECKING, Annotated

import typer

from cpt_core.config_file import load_config
from flows.command.options import AsJson, Overrides
from flows.command.output import print_json, want_json

if TYPE_CHECKING:
    from flows.serving.overview import ServingStatus

_DATABASE = (
    "PostgreSQL for the server, such as postgresql://USER@HOST/DATABASE; its password from $PGPASSWORD or ~/.pgpass"
)

DEMO_CONFIG = "deployments/parameters/demo.yaml"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    config: Annotated[str, typer.Argument(help="Default parameters of the deployments")] = DEMO_CONFIG,
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="Port of the Prefect server")] = 4200,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on, by default 127.0.0.1; others need --auth")
    ] = None,
    auth: Annotated[
        bool, typer.Option("--auth", help="Ask for user and password, kept in the file auth of $CPT_HOME")
    ] = False,
    database_url: Annotated[str | None, typer.Option(help=_DATABASE)] = None,
    every: Annotated[str | None, typer.Option(help="Run the whole job every so often, such as 15m")] = None,
    cron: Annotated[
        str | None, typer.Option(help='Run the whole job at these times, such as "0 3 * * *" (UTC)')
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Run the whole job when input files come or change")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a Prefect server and a worker, and register the deployments."""
    from flows.serving import operation
    from flows.serving.environment import cpt_home
    from flows.serving.schedules import parse_schedule

    want_json(as_json)
    seen = operation.up(
        load_config(config, overrides),
        home=cpt_home(),
        port=port,
        options=operation.ServerOptions(host=host, database_url=database_url, with_auth=auth),
        schedule=parse_schedule(every=every, cron=cron, watch=watch),
    )
    _print_status(seen, as_json)


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

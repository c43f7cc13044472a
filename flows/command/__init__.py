"""The ``cpt`` command: what a user types, and what is printed.

In: a command line.
Out: progress on stderr, a summary or exactly one JSON object on stdout; exit code 0 done, 1 the run failed, 2 the
configuration or the command line is wrong, 130 or 143 it was stopped by SIGINT or SIGTERM.
Never: a traceback for a user's mistake.
"""

import logging
import os
import sys
from contextlib import suppress

import typer

from cpt_core.errors import CptError
from flows.command import demo, exporting, look, quarantine, running, serving, verification
from flows.command.output import print_error
from flows.command.stopping import end_if_signalled, end_on_signals

app = typer.Typer(
    name="cpt",
    help="Continued pretraining: from jsonl files to a further-trained model, cached by content.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
running.register(app)
look.register(app)
verification.register(app)
exporting.register(app)
serving.register(app)
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(demo.app, name="demo")


def main() -> None:
    """Entry point of the console command."""
    # Read by Prefect when it is imported; a run's own screen replaces its console log, the API keeps it all.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    logging.getLogger("websockets").setLevel(logging.INFO)  # at DEBUG it writes the token that Prefect sends
    end_on_signals()
    exit_code = _exit_code_of_command()
    end_if_signalled()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    # Native threads (Arrow's, for one) that are still starting make an ordinary exit abort with status 134, which
    # was seen on a busy machine after a command had done all its work.
    os._exit(exit_code)


def _exit_code_of_command() -> int:
    try:
        app()
    except CptError as error:
        print_error(error)
        return error.exit_code
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        end_if_signalled()  # what a signal breaks on its way out is no bug to show
        raise
    return 0

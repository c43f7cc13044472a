"""The command that hands a model on: ``export``."""

from pathlib import Path
from typing import Annotated

import typer

from cpt_core.config_file import load_config
from cpt_core.errors import ConfigError
from flows.command.options import AsJson, Overrides
from flows.command.output import print_json, want_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    source: Annotated[
        str, typer.Argument(metavar="CONFIG|FOLDER", help="YAML configuration, or a checkpoint's or training's folder")
    ],
    to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="New folder for the model")],
    checkpoint: Annotated[
        str | None, typer.Option(metavar="STEP", help="Such as 500 or step-0000500; default: the newest whole one")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """A checkpoint as a transformers folder: config, safetensors, tokenizer. Needs no GPU and little memory."""
    from tasks import export as exporting

    want_json(as_json)
    if Path(source).is_dir():
        if overrides:
            raise ConfigError(f"--set changes a configuration, but {source} is a folder; leave it out")
        folder = Path(source)
    else:
        folder = exporting.checkpoints_of(load_config(source, overrides))
    exported = exporting.export(folder, _step_of(checkpoint), Path(to))
    if as_json:
        print_json(exported.summary())
        return
    for line in exported.passed_over:
        print(line)
    print(f"step {exported.steps:,} of {Path(exported.checkpoint_uri).parent}: {exported.size_bytes:,} bytes")
    print(f"model         {exported.hf_model_uri}")


def _step_of(checkpoint: str | None) -> int | None:
    digits = checkpoint.removeprefix("step-") if checkpoint is not None else ""
    if checkpoint is not None and not digits.isdecimal():
        raise ConfigError(f"--checkpoint is {checkpoint!r}, expected a step such as 500 or step-0000500")
    return int(digits) if digits else None

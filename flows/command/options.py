"""Arguments that several commands share."""

from typing import Annotated

import typer

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML configuration")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one value; may be repeated")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout")]

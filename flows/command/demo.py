"""Commands that make the demo's inputs: ``demo corpus``, ``demo base``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make the inputs of the demo.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Where to write")]


@app.command()
def corpus(folder: Folder) -> None:
    """Write Python's own standard library as two sources of .jsonl files."""
    from cpt_core.demo_corpus import write_demo_corpus

    documents = write_demo_corpus(folder)
    print(f"{folder}: {len(documents)} files, {sum(documents.values()):,} documents")


@app.command()
def base(folder: Folder, corpus_folder: Annotated[Path, typer.Argument(help="Made by `cpt demo corpus`")]) -> None:
    """Write an untrained small model: a tokenizer trained on the corpus, and a configuration without weights."""
    from cpt_core.demo_base import write_untrained_model

    num_ids = write_untrained_model(folder, sorted(corpus_folder.glob("docs-train-*.jsonl")))
    print(f"{folder}: tokenizer of {num_ids:,} ids and config.json, no weights")

"""Commands for rejected lines: ``quarantine list``, ``quarantine show``, ``quarantine retry``."""

import itertools
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpt_core.config_file import load_config
from cpt_core.errors import ConfigError
from cpt_core.storage import Store
from flows.command.options import AsJson, ConfigPath, Overrides
from flows.command.output import one_line, print_json, want_json
from flows.command.progress_screen import progress_screen

if TYPE_CHECKING:
    from cpt_core.tokenization import RejectedLine
    from tasks.quarantine import RetriedShard

SHARDS_SHOWN = 40

app = typer.Typer(help="Rejected lines: counts, the lines, and their repair.", no_args_is_help=True)

Source = Annotated[str | None, typer.Option(help="Only this source")]
Reason = Annotated[str | None, typer.Option(help="Only lines rejected for this reason")]
Limit = Annotated[int, typer.Option(min=1, help="How many lines are shown")]
Write = Annotated[
    str | None, typer.Option(metavar="FILE", help="Write a repairs file with one entry for each line, all of them")
]


@app.command("list")
def list_counts(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Rejected lines by source and reason, and by shard, as the store has them."""
    from tasks.quarantine import find_quarantine, summarise

    want_json(as_json)
    summary = summarise(find_quarantine(load_config(config, overrides)))
    print_json(summary) if as_json else print("\n".join(_count_lines(summary)))


@app.command()
def show(
    config: ConfigPath,
    source: Source = None,
    reason: Reason = None,
    limit: Limit = 20,
    write: Write = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """The rejected lines, or with --write a file in which they can be repaired."""
    from tasks.quarantine import find_quarantine, rejected_lines

    want_json(as_json)
    loaded = load_config(config, overrides)
    found = find_quarantine(loaded, source)
    lines = rejected_lines(found, Store(loaded.store_uri), reason)
    total = sum(sum(each.reasons(reason).values()) for each in found)
    if write is not None:
        _write_entries(write, lines)
        print_json({"file": write, "entries": total}) if as_json else print(_next_step(write, total))
        return
    shown = list(itertools.islice(lines, limit))
    if as_json:
        print_json({"lines_total": total, "lines": [line.shown() for line in shown]})
        return
    print("\n".join(text for line in shown for text in _describe(line)) or "no rejected line matches")
    if total > len(shown):
        print(f"… and {total - len(shown):,} more; `--limit N` shows more of them, `--write FILE` writes them all")


@app.command()
def retry(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compute the shards that hold repaired lines, and no other."""
    from tasks.quarantine import retry_repairs

    want_json(as_json)
    loaded = load_config(config, overrides)
    with progress_screen() as screen:
        retried = retry_repairs(loaded, tell=partial(screen.stage, "tokenization"))
    if as_json:
        print_json({"shards": [each.as_json() for each in retried]})
    else:
        print("\n".join(_outcome_lines(retried)) or "no entry of the repairs file has a replacement yet")


def _count_lines(summary: dict[str, Any]) -> list[str]:
    from tasks.stage_lines import describe_noticed

    rejected, documents = summary["documents_quarantined"], summary["documents_in"]
    repaired = f", {summary['documents_repaired']:,} repaired" if summary["documents_repaired"] else ""
    lines = [f"{rejected:,} of {documents:,} documents are quarantined{repaired}"]
    lines += [describe_noticed(summary["noticed"])] if summary["noticed"] else []
    if summary["reasons"]:
        width = max(6, *(len(row["source"]) for row in summary["reasons"]))
        lines += ["", f"{'source':<{width}}  {'reason':<16}   lines    share"]
        lines += [
            f"{row['source']:<{width}}  {row['reason']:<16} {row['lines']:7,} {row['fraction']:8.3%}"
            for row in summary["reasons"]
        ]
        lines += ["", *_shard_lines(summary["shards"])]
    for name, meaning in (
        ("repairs_wait", "repairs not computed yet, `cpt quarantine retry` does it"),
        ("not_tokenized", "not tokenized yet"),
    ):
        lines += [f"{meaning}: {_some(summary[name])}"] if summary[name] else []
    return lines


def _shard_lines(shards: list[dict[str, Any]]) -> list[str]:
    width = max(5, *(len(row["shard"]) for row in shards[:SHARDS_SHOWN]))
    lines = [f"{'shard':<{width}}   lines  file"]
    lines += [f"{row['shard']:<{width}} {row['lines']:7,}  {one_line(row['file'])}" for row in shards[:SHARDS_SHOWN]]
    more = len(shards) - SHARDS_SHOWN
    return [*lines, f"… and {more:,} more; `--json` lists all"] if more > 0 else lines


def _some(names: list[str]) -> str:
    more = len(names) - SHARDS_SHOWN
    return ", ".join(names[:SHARDS_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _describe(line: "RejectedLine") -> list[str]:
    from cpt_core.inspection import escape

    place = f"{one_line(line.file)}:{line.line}"
    offset = f" at byte {line.byte_offset:,}" if line.byte_offset >= 0 else ""
    return [f"{place}{offset}: {line.reason}, {escape(line.detail)}", f"  {escape(line.shown()['raw'])}"]


def _write_entries(path: str, lines: "Iterable[RejectedLine]") -> None:
    try:
        with Path(path).open("x", encoding="utf-8") as stream:
            for line in lines:
                stream.write(json.dumps(line.entry()) + "\n")  # ASCII: also for file names that are not UTF-8
    except FileExistsError:
        raise ConfigError(f"{path}: exists already and may hold repairs; name a file that does not exist") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


def _next_step(path: str, entries: int) -> str:
    return (
        f'{path}: {entries:,} entries. Put the repaired line of each in place of its `"replacement": null`, set '
        f"tokenization.repairs to the file, and run `cpt quarantine retry CONFIG`"
    )


def _outcome_lines(retried: "list[RetriedShard]") -> list[str]:
    lines = []
    for each in retried:
        how = "was in the store already" if each.tokens.is_cached else "computed"
        unmatched = f", {each.unmatched:,} without a rejected line at its place" if each.unmatched else ""
        still = len(each.still_rejected)
        lines.append(f"{each.shard.name}: {how}; {each.repaired:,} repaired, {still:,} still rejected{unmatched}")
        for line in each.still_rejected:
            lines += [f"  {text}" for text in _describe(line)]
    return lines

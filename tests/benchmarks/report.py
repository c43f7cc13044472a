"""Writes what was measured: one file for machines, one page for people, one picture.

Every figure comes from the run itself; medians, with the smallest and the largest of the repeats.
"""

import json
import os
import platform
import shlex
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.materials import PEER_PACKAGES
from tests.benchmarks.measure import Measurement, Subject

OWN_PACKAGES = ("cpt", "pyarrow", "polars", "numpy", "tokenizers", "gigatoken")
BAR_HEIGHT, BAR_GAP, LABEL_WIDTH, BARS_WIDTH, VALUE_WIDTH = 18, 6, 300, 420, 130
OWN_COLOUR, PEER_COLOUR = "#1f6feb", "#9aa4b2"


def report(subject: Subject, measurements: list[Measurement]) -> dict[str, Any]:
    """One subject, and where and when it was measured, as plain values."""
    return {
        "versions": {name: version(name) for name in OWN_PACKAGES} | {"peers": PEER_PACKAGES},
        "subjects": [_subject(subject, measurements) | {"machine": _machine()}],
    }


def write_report(found: dict[str, Any], folder: Path, name: str, order: list[str]) -> None:
    """``name``.json, .md and .svg in a folder.

    Other subjects that stand there stay, if they were measured with the same versions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    if file.exists():
        found = _joined(json.loads(file.read_text()), found, order)
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (folder / f"{name}.svg").write_text(_picture(found["subjects"]))
    (folder / f"{name}.md").write_text(_page(found, name))


def _joined(before: dict[str, Any], found: dict[str, Any], order: list[str]) -> dict[str, Any]:
    if before["versions"] != found["versions"]:
        return found
    subjects = {subject["name"]: subject for subject in before["subjects"] + found["subjects"]}
    return found | {"subjects": sorted(subjects.values(), key=lambda subject: order.index(subject["name"]))}


def _machine() -> dict[str, Any]:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _subject(subject: Subject, measurements: list[Measurement]) -> dict[str, Any]:
    baseline = next((found.median for found in measurements if found.name == subject.baseline), None)
    peers = {contender.name for contender in subject.contenders if contender.is_peer}
    return {
        "name": subject.name,
        "title": subject.title,
        "unit": subject.unit,
        "baseline": subject.baseline,
        "columns": subject.facts,
        "notes": subject.notes,
        "measured_on": datetime.now(UTC).date().isoformat(),
        "contenders": [
            {
                "name": found.name,
                "is_peer": found.name in peers,
                "median": found.median,
                "min": min(found.amounts),
                "max": max(found.amounts),
                "amounts": found.amounts,
                "ratio": found.median / baseline if baseline else None,
                "peak_rss_mb": round(found.peak_rss_mb),
                "facts": found.facts,
            }
            for found in measurements
        ],
    }


def _page(found: dict[str, Any], name: str) -> str:
    versions = dict(found["versions"])
    peers = ", ".join(versions.pop("peers"))
    lines = [
        "# Benchmarks",
        "",
        "By `make bench`: medians and ranges. Each table was measured in one run on one machine, so compare within it.",
        "",
        f"Own environment: {', '.join(f'{package} {number}' for package, number in versions.items())}.",
        f"Peers: {peers}.",
        "",
        f"![Medians]({name}.svg)",
    ]
    for subject in found["subjects"]:
        lines += ["", f"## {subject['title']}", "", *_table(subject)]
        if subject["notes"]:
            lines += ["", subject["notes"]]
        lines += ["", *_circumstances(subject)]
    return "\n".join(lines) + "\n"


def _circumstances(subject: dict[str, Any]) -> list[str]:
    """When, how and where it was measured."""
    repeats = max(len(contender["amounts"]) for contender in subject["contenders"])
    machine = subject["machine"]
    return [
        f"{subject['measured_on']}, {repeats} repeats, by `{_command(subject['name'])}` on {machine['cpu']},",
        f"{machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}.",
    ]


def _command(subject: str) -> str:
    return f"python -m tests.benchmarks {shlex.quote(subject)}"


def _table(subject: dict[str, Any]) -> list[str]:
    ratio = [f"× {subject['baseline']}"] if subject["baseline"] else []
    headings = ["", subject["unit"], "range", *ratio, *subject["columns"].values(), "peak RSS, MB"]
    lines = [f"| {' | '.join(headings)} |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    for contender in subject["contenders"]:
        cells = [contender["name"], _number(contender["median"])]
        cells.append(f"{_number(contender['min'])} - {_number(contender['max'])}")
        cells += [f"{contender['ratio']:.1f}"] if ratio else []
        cells += [_cell(contender["facts"].get(fact)) for fact in subject["columns"]]
        cells.append(f"{contender['peak_rss_mb']:,}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:,}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _picture(subjects: list[dict[str, Any]]) -> str:
    """Bars of the medians, subject below subject, each on a scale of its own."""
    parts, y = [], 10
    for subject in subjects:
        y += 22
        title = f"{subject['title']} ({subject['unit']})"
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{escape(title)}</text>')
        longest = max(contender["median"] for contender in subject["contenders"])
        for contender in subject["contenders"]:
            y += BAR_HEIGHT + BAR_GAP
            parts += _bar(contender, longest, y)
        y += 14
    width = LABEL_WIDTH + BARS_WIDTH + VALUE_WIDTH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 10}"'
        ' font-family="sans-serif" font-size="13">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{chr(10).join(parts)}\n</svg>\n'
    )


def _bar(contender: dict[str, Any], longest: float, y: int) -> list[str]:
    length = max(1.0, contender["median"] / longest * BARS_WIDTH)
    colour = PEER_COLOUR if contender["is_peer"] else OWN_COLOUR
    top = y - BAR_HEIGHT + 5
    return [
        f'<text x="{LABEL_WIDTH - 8}" y="{y}" text-anchor="end">{escape(contender["name"])}</text>',
        f'<rect x="{LABEL_WIDTH}" y="{top}" width="{length:.1f}" height="{BAR_HEIGHT}" fill="{colour}"/>',
        f'<text x="{LABEL_WIDTH + length + 6:.1f}" y="{y}">{_number(contender["median"])}</text>',
    ]

"""The benchmarks' frame: a contender in a process of its own, and what is made of its figures."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from tests.benchmarks.measure import Contender, Measurement, Subject, measure
from tests.benchmarks.report import report, write_report


def test_a_contender_tells_its_amounts_and_facts_and_its_memory_is_seen():
    """A thousand lengths of 53 to 460 tokens: 33 rows are the fewest, and they are reached."""
    arguments = {"documents": 1000, "row_len_tokens": 8192, "lengths": "short"}
    found = measure(Contender("ours", "plan_rows", arguments), repeats=3)
    assert len(found.amounts) == 3
    assert found.facts["rows"] == found.facts["fewest_rows"] == 33
    assert found.peak_rss_mb > 10


def test_a_contender_that_fails_is_named_with_what_it_said():
    """No figure is made up for it."""
    with pytest.raises(RuntimeError, match=r"(?s)ours ended with 1:.*KeyError: 'row_len_tokens'"):
        measure(Contender("ours", "plan_rows", {"documents": 10}), repeats=1)


def test_the_page_shows_medians_ranges_ratios_and_facts(tmp_path):
    """Ours at 40, 50 and 60 units a second beside a peer at 2.5: twenty times as much."""
    subject = Subject(
        name="packing",
        title="Packing",
        unit="M tokens/s",
        contenders=[Contender("ours", "x", {}), Contender("the <peer>", "y", {}, is_peer=True)],
        baseline="the <peer>",
        facts={"padding": "padding", "lost": "tokens lost"},
        notes="A note.",
    )
    measurements = [
        Measurement("ours", [40.0, 60.0, 50.0], 123.4, {"padding": "0.01%", "lost": 0}),
        Measurement("the <peer>", [2.5, 2.5, 2.5], 4567.8, {"padding": "20%", "lost": 1234}),
    ]
    write_report(report(subject, measurements), tmp_path, "benchmarks", order=["packing"])
    (found,) = json.loads((tmp_path / "benchmarks.json").read_text())["subjects"]
    machine = found["machine"]
    assert (tmp_path / "benchmarks.md").read_text().split("## Packing\n\n")[1] == (
        "|  | M tokens/s | range | × the <peer> | padding | tokens lost | peak RSS, MB |\n"
        "|---|---:|---:|---:|---:|---:|---:|\n"
        "| ours | 50 | 40 - 60 | 20.0 | 0.01% | 0 | 123 |\n"
        "| the <peer> | 2.5 | 2.5 - 2.5 | 1.0 | 20% | 1,234 | 4,568 |\n"
        "\n"
        "A note.\n"
        "\n"
        f"{found['measured_on']}, 3 repeats, by `python -m tests.benchmarks packing` on {machine['cpu']},\n"
        f"{machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}.\n"
    )
    assert found["contenders"][0]["amounts"] == [40.0, 60.0, 50.0]
    assert machine["cores"] >= 1
    bars = ElementTree.parse(tmp_path / "benchmarks.svg").getroot()
    widths = [bar.get("width") for bar in bars.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths == ["100%", "420.0", "21.0"]


def test_a_subject_that_is_measured_again_replaces_itself_alone(tmp_path):
    """In the order of the command line; figures of other versions are not kept beside those of these."""
    found = {name: report(_subject(name), [Measurement("ours", [1.0], 1.0, {})]) for name in ("b", "a")}
    again = report(_subject("b"), [Measurement("ours", [2.0], 1.0, {})])
    later = again | {"versions": {**again["versions"], "cpt": "9.9.9"}}

    seen = []
    for each in (found["b"], found["a"], again, later):
        write_report(each, tmp_path, "benchmarks", order=["a", "b"])
        subjects = json.loads((tmp_path / "benchmarks.json").read_text())["subjects"]
        seen.append([(subject["name"], subject["contenders"][0]["median"]) for subject in subjects])
    assert seen == [[("b", 1.0)], [("a", 1.0), ("b", 1.0)], [("a", 1.0), ("b", 2.0)], [("b", 2.0)]]


def _subject(name: str) -> Subject:
    return Subject(name=name, title=name, unit="MB/s", contenders=[Contender("ours", "x", {})])

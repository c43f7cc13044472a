"""What the Prefect UI shows of a run: its rows, tables, pictures, tags and log, asked of a real server."""

import base64
import json
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from prefect import flow
from prefect.artifacts import update_progress_artifact

from cpt_core.manifest import Shard
from cpt_core.tokenization import ShardProgress
from flows.prepare_corpus import prepare_corpus
from flows.serving.api import ask
from tasks.progress import StageProgress
from tasks.run_page import pages_of_stages, show_table
from tasks.throughput import Throughput
from tests.browser import chromium, click, wait_for_text
from tests.conftest import write_jsonl


@pytest.fixture
def two_sources(tmp_path, make_config):
    """Three files of source a, one of them with a bad line, and one file of source b."""
    for number in range(3):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [f"document {number}", "x" * 30])
    with (tmp_path / "corpus/2.jsonl").open("a") as stream:
        stream.write("{\n")
    write_jsonl(tmp_path / "other/1.jsonl", ["b"])
    sources = [{"name": name, "uris": [str(tmp_path / folder)]} for name, folder in (("a", "corpus"), ("b", "other"))]
    return make_config(discovery={"sources": sources}, tokenization={"max_bad_fraction": 0.5})


@pytest.fixture
def run(prefect_api):
    """Run the data flow; the id of its flow run."""

    def run_flow(config) -> str:
        state = prepare_corpus(config, return_state=True)
        assert state.is_completed()
        return str(state.state_details.flow_run_id)

    return run_flow


def artifacts_of(api_url: str, run_id: str) -> dict[str, dict]:
    """Key -> artifact."""
    question = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 100}
    return {artifact["key"]: artifact for artifact in ask(api_url, "artifacts/filter", question)}


def table(artifact: dict) -> list[str]:
    """Header and rows, their cells separated by bars."""
    rows = json.loads(artifact["data"])
    return [" | ".join(rows[0]), *(" | ".join(row.values()) for row in rows)]


def test_the_tables_say_what_became_of_every_source(run, prefect_api, two_sources, tmp_path):
    """After each stage; where the outputs lie, as text to copy beside a link to the table of their stage; computed at
    first, then cached.
    """
    first = artifacts_of(prefect_api, run(two_sources))
    assert table(first["discovery-table"]) == [
        "source | files | shards | bytes | cannot be used",
        "a | 3 | 3 | 200 | 0",
        "b | 1 | 1 | 14 | 0",
        "**all** | 4 | 4 | 214 | 0",
    ]
    assert table(first["tokenization-table"]) == [
        "source | files | shards | computed | cached | failed | documents | quarantined | tokens",
        "a | 3 | 3 | 3 | 0 | 0 | 6 | 1 json_syntax | 132",
        "b | 1 | 1 | 1 | 0 | 0 | 1 | none | 3",
        "**all** | 4 | 4 | 4 | 0 | 0 | 7 | 1 json_syntax | 135",
    ]
    assert table(first["rejected-lines"]) == [
        "file | rejected | by reason",
        f"`{tmp_path}/corpus/2.jsonl` | 1 | 1 json_syntax",
    ]
    assert table(first["indexing-table"]) == [
        "source | split | documents | tokens | tokens a document | longest, tokens",
        "a | train | 6 | 132 | 22.0 | 32",
        "b | train | 1 | 3 | 3.0 | 3",
    ]
    assert table(first["packing-table"]) == [
        "source | split | computed | cached | rows | padding | tokens | dropped | documents | cut",
        "a | train | 1 | 0 | 9 | 8.33% | 132 | 0 | 6 | 3",
        "b | train | 1 | 0 | 1 | 81.25% | 3 | 0 | 1 | 0",
    ]
    outputs = [re.sub("-[0-9a-f]{8}`$", "-KEY`", line) for line in table(first["outputs"])]
    tokenization, indexing, packing = (
        f"[{stage}](/artifacts/artifact/{first[f'{stage}-table']['id']})"
        for stage in ("tokenization", "indexing", "packing")
    )
    assert outputs == [
        "stage | what | where",
        f"{tokenization} | a-00000 | `{tmp_path}/store/tokens/a-00000-KEY`",
        f"{tokenization} | a-00001 | `{tmp_path}/store/tokens/a-00001-KEY`",
        f"{tokenization} | a-00002 | `{tmp_path}/store/tokens/a-00002-KEY`",
        f"{tokenization} | b-00000 | `{tmp_path}/store/tokens/b-00000-KEY`",
        f"{indexing} | test | `{tmp_path}/store/index/test-KEY`",
        f"{packing} | a-00000 | `{tmp_path}/store/packed/a-00000-KEY`",
        f"{packing} | b-00000 | `{tmp_path}/store/packed/b-00000-KEY`",
    ]
    assert set(first) == {
        "discovery",
        "discovery-table",
        "tokenization",
        "tokenization-table",
        "rejected-lines",
        "indexing",
        "indexing-table",
        "document-lengths",
        "packing",
        "packing-table",
        "packing-fill",
        "outputs",
    }
    assert (first["discovery"]["data"], first["discovery"]["description"]) == (
        100.0,
        "discovery: 4 files, 4 shards, 214 bytes; 214 bytes read to identify them",
    )
    again = artifacts_of(prefect_api, run(two_sources))
    assert again["discovery"]["description"] == "discovery: 4 files, 4 shards, 214 bytes; already identified"
    assert table(again["tokenization-table"])[-1] == "**all** | 4 | 4 | 0 | 4 | 0 | 7 | 1 json_syntax | 135"
    assert table(again["packing-table"])[1:] == [
        "a | train | 0 | 1 | 9 | 8.33% | 132 | 0 | 6 | 3",
        "b | train | 0 | 1 | 1 | 81.25% | 3 | 0 | 1 | 0",
    ]


def test_a_run_has_tags_and_its_rows_have_readable_names_and_states(run, prefect_api, two_sources, until):
    """One row a shard, by its name; a second run shows each of them as Cached."""
    run(two_sources)
    run_id = run(two_sources)

    def rows() -> dict[str, str]:
        found = ask(prefect_api, "task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return {row["name"]: row["state_name"] for row in found}

    expected = {
        "discover test": "Completed",
        "index test": "Cached",
        "pack a-00000": "Cached",
        "pack b-00000": "Cached",
        **{f"tokenize a-{number:05d}": "Cached" for number in range(3)},
        "tokenize b-00000": "Cached",
    }
    until(lambda: rows() == expected)
    (flow_run,) = ask(prefect_api, "flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    assert (flow_run["name"], flow_run["tags"]) == ("prepare test", ["cpt", "test"])


def test_pictures_show_in_the_browser_and_come_from_nowhere_else(run, prefect_api, two_sources, tmp_path):
    """Each is in the artifact itself; Chromium draws it, and asks no other host for anything."""
    artifacts = artifacts_of(prefect_api, run(two_sources))
    ui_url = prefect_api.removesuffix("/api")
    with chromium(tmp_path / "profile") as browser:
        for key, title, description in (
            ("document-lengths", "Lengths of 7 documents", "Documents of test by length"),
            ("packing-fill", "Fill of 10 rows", "Packing of test"),
        ):
            picture = artifacts[key]
            head, code = picture["data"].split(",")
            assert (picture["type"], head) == ("image", "data:image/svg+xml;base64")
            texts = [element.text for element in ET.fromstring(base64.b64decode(code)).iter() if element.text]
            assert texts[0] == title
            browser.get(f"{ui_url}/artifacts/artifact/{picture['id']}")
            wait_for_text(browser, description)
            shown = "return [...document.images].map(image => [image.naturalWidth, image.src.slice(0, 15)])"
            assert [720, "data:image/svg+"] in browser.execute_script(shown)
            asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
            assert [name for name in asked if not name.startswith((ui_url, "data:", "blob:"))] == []


def test_each_output_leads_to_the_page_of_its_stage_when_it_is_clicked(run, prefect_api, two_sources, tmp_path):
    """In Chromium: the page opens beside the list, with its table and picture; the path stays there to be copied."""
    artifacts = artifacts_of(prefect_api, run(two_sources))
    ui_url = prefect_api.removesuffix("/api")
    opened = {}
    with chromium(tmp_path / "profile") as browser:
        browser.get(f"{ui_url}/artifacts/artifact/{artifacts['outputs']['id']}")
        wait_for_text(browser, f"{tmp_path}/store/index/test-")
        (listed,) = browser.window_handles
        for place, text in (
            ("tokens/a-00001", "Tokenization of test: 4 shards computed, 0 cached"),
            ("index/test", "Index of test: computed"),
            ("packed/b-00000", "Packing of test: 2 groups computed, 0 cached"),
        ):
            click(browser, f"//code[contains(., '/store/{place}-')]/preceding::a[1]")
            browser.switch_to.window(browser.window_handles[-1])
            wait_for_text(browser, text)
            opened[place] = browser.current_url.removeprefix(f"{ui_url}/artifacts/artifact/")
            browser.close()
            browser.switch_to.window(listed)
    assert opened == {
        "tokens/a-00001": artifacts["tokenization-table"]["id"],
        "index/test": artifacts["indexing-table"]["id"],
        "packed/b-00000": artifacts["packing-table"]["id"],
    }


def test_after_a_retry_the_pages_of_the_stages_are_those_of_the_last_attempt(prefect_api):
    """A table that was shown twice in one run; stages that have shown nothing have no page."""

    @flow
    def packs_again() -> dict[str, str]:
        for attempt in ("first", "second"):
            show_table("packing-table", [{"attempt": attempt}], attempt)
        return pages_of_stages()

    state = packs_again(return_state=True)
    question = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    ids = {found["description"]: found["id"] for found in ask(prefect_api, "artifacts/filter", question)}
    assert sorted(ids) == ["first", "second"]
    assert state.result() == {"packing": f"/artifacts/artifact/{ids['second']}"}


def test_the_log_of_a_run_has_a_line_for_each_shard(run, prefect_api, two_sources, until):
    """What was computed and what was cached, where a person looks for it; never the text of a document."""
    run_id = run(two_sources)
    question = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200}

    def messages() -> list[str]:
        return [line["message"] for line in ask(prefect_api, "logs/filter", question)]

    until(lambda: sum(message.startswith("1 of 1 computed in") for message in messages()) == 6)
    assert [message for message in messages() if "document 1" in message] == []


def test_the_server_hears_of_discovery_and_of_indexing_while_they_read(run, prefect_api, two_sources, monkeypatch):
    """Four files, read by threads that know of no run, then four token shards; nothing is held back here."""
    monkeypatch.setattr("tasks.progress.SECONDS_BETWEEN_UPDATES", 0.0)
    told: list[str] = []

    def update(artifact_id, progress, description):
        told.append(f"{progress:.0f} %, {description.partition(';')[0]}")
        return update_progress_artifact(artifact_id, progress=progress, description=description)

    monkeypatch.setattr("tasks.progress.update_progress_artifact", update)
    one_at_a_time = two_sources.model_copy(
        update={"orchestration": two_sources.orchestration.model_copy(update={"workers": 1})}
    )
    run(one_at_a_time)
    assert [line for line in told if ", discovery" in line] == [
        "0 %, discovery: 0 of 4 files",
        "31 %, discovery: 0 of 4 files",
        "31 %, discovery: 1 of 4 files",
        "62 %, discovery: 1 of 4 files",
        "62 %, discovery: 2 of 4 files",
        "93 %, discovery: 2 of 4 files",
        "93 %, discovery: 3 of 4 files",
        "100 %, discovery: 3 of 4 files",
        "100 %, discovery: 4 files, 4 shards, 214 bytes",
    ]
    assert [line for line in told if ", indexing" in line] == [
        "25 %, indexing: 1 of 4 shards",
        "50 %, indexing: 2 of 4 shards",
        "75 %, indexing: 3 of 4 shards",
        "100 %, indexing: 4 of 4 shards",
        "100 %, indexing: computed",
    ]


def test_progress_tells_documents_tokens_speed_and_time_left_every_two_seconds(prefect_api, monkeypatch):
    """A shard of 6 MB that takes six seconds, with a thousand calls a second: the server hears of it three times."""
    clock = [100.0]
    for module in ("progress", "throughput"):
        monkeypatch.setattr(f"tasks.{module}.time", SimpleNamespace(monotonic=lambda: clock[0]))
    told: list[str] = []

    def update(artifact_id, progress, description):
        told.append(f"{progress:.0f} %, {description}")
        update_progress_artifact(artifact_id, progress=progress, description=description)

    monkeypatch.setattr("tasks.progress.update_progress_artifact", update)
    shard = Shard("a", 0, "0.jsonl", "jsonl", "text", 0, 6_000_000, 6_000_000, 1, {"sha256": "0"})

    @flow
    def tokenize() -> None:
        seen, progress = Throughput([shard]), StageProgress("tokenization", 1, "shards")
        for millisecond in range(1, 6001):
            clock[0] = 100.0 + millisecond / 1000
            seen.note(shard, ShardProgress(millisecond, 500 * millisecond, 1000 * millisecond))
            progress.advance(0, seen.line(), seen.fraction())

    state = tokenize(return_state=True)
    assert told == [
        "33 %, tokenization: 0 of 1 shards; 2,000 documents, 1,000,000 tokens, 1.0 MB/s, 4 s left",
        "67 %, tokenization: 0 of 1 shards; 4,000 documents, 2,000,000 tokens, 1.0 MB/s, 2 s left",
        "100 %, tokenization: 0 of 1 shards; 6,000 documents, 3,000,000 tokens, 1.0 MB/s",
    ]
    shown = artifacts_of(prefect_api, str(state.state_details.flow_run_id))["tokenization"]
    assert f"{shown['data']:.0f} %, {shown['description']}" == told[-1]

"""A document is followed to its rows and steps, and a step back to its documents."""

import json

import pytest

from cpt_core.packed_rows import PackedRows
from cpt_core.storage import Store
from tests.conftest import byte_ids, write_jsonl
from tests.pipeline import packed

TRAINING = {
    "model": "none",
    "global_batch_rows": 2,
    "micro_batch_rows": 1,
    "num_train_epochs": 3,
    "warmup_steps": 0,
}


@pytest.fixture
def traced_corpus(tmp_path, make_config):
    """Two sources, one held out; a rejected and a blank line; a document longer than a row; two equal files."""
    write_jsonl(tmp_path / "corpus/1.jsonl", [f"text {number}" for number in range(5)])
    (tmp_path / "corpus/2.jsonl").write_bytes(b'{"text": "' + b"long" * 6 + b'"}\n\n[]\n{"text": "end"}\n')
    for name in ("3.jsonl", "4.jsonl"):
        write_jsonl(tmp_path / "corpus" / name, ["equal"])
    write_jsonl(tmp_path / "held_out/1.jsonl", ["secret"])
    sources = [
        {"name": "a", "uris": [str(tmp_path / "corpus")]},
        {"name": "h", "uris": [str(tmp_path / "held_out")], "held_out_fraction": 1.0},
    ]
    config = make_config(discovery={"sources": sources}, tokenization={"max_bad_fraction": 1.0}, training=TRAINING)
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    return config, packed(config)


def test_a_document_is_followed_to_its_steps_and_back(command, traced_corpus, tmp_path):
    """Three epochs, three steps; each of them lists the document, and its row holds the document's ids."""
    config, artifacts = traced_corpus
    traced = json.loads(command("trace", "config.yaml", "--document", "a:corpus/1.jsonl:4", "--json").stdout)
    assert traced["quarantined"] == []
    (document,) = traced["documents"]
    (row,) = document.pop("rows")
    place = {"source": "a", "file": f"{tmp_path}/corpus/1.jsonl", "line": 4, "byte_offset": 57}
    assert document == {**place, "shard": "a-00000", "document": 3}
    part = {"first_token": 0, "num_tokens": 8}
    assert {name: row[name] for name in part} == part

    train = [artifact for artifact in artifacts if artifact.counts["split"] == "train"]
    ids = PackedRows(Store(config.store_uri), train)[row["row"]].input_ids.tolist()
    wanted = [0, *byte_ids("text 3"), 1]
    assert wanted in [ids[start : start + 8] for start in range(len(ids))]

    assert len(row["steps"]) == 3
    for step in row["steps"]:
        listed = json.loads(command("trace", "config.yaml", "--step", str(step), "--json").stdout)
        documents = [found for each in listed["rows"] if each["row"] == row["row"] for found in each["documents"]]
        assert {**place, **part, "equal_files": []} in documents


def test_all_steps_together_hold_every_document_once_an_epoch(traced_corpus):
    """Nothing is lost between the files and the steps: 3 epochs of all tokens, the last step filled up."""
    from tasks.tracing import trace_step

    config, artifacts = traced_corpus
    first = trace_step(config, 1)
    steps = [first, *(trace_step(config, step) for step in range(2, first["steps_total"] + 1))]
    train = [artifact for artifact in artifacts if artifact.counts["split"] == "train"]
    num_tokens = sum(artifact.counts["num_tokens"] for artifact in train)
    pieces = [piece for step in steps for row in step["rows"] for piece in row["documents"]]
    assert sum(piece["num_tokens"] for piece in pieces) == 3 * num_tokens
    assert sum(len(step["rows"]) + step["empty_rows"] for step in steps) == 2 * len(steps)
    assert {(piece["file"].rpartition("/")[2], piece["line"]) for piece in pieces} == {
        *(("1.jsonl", line) for line in range(1, 6)),
        ("2.jsonl", 1),
        ("2.jsonl", 4),
        ("3.jsonl", 1),
    }
    assert {tuple(piece["equal_files"]) for piece in pieces if piece["file"].endswith("3.jsonl")} == {
        (pieces[0]["file"].rpartition("/")[0] + "/4.jsonl",)
    }


def test_a_long_document_lies_in_several_rows(command, traced_corpus, tmp_path):
    """Every part has its own steps; together they are the document."""
    traced = json.loads(command("trace", "config.yaml", "--document", "a:2.jsonl:1", "--json").stdout)
    rows = traced["documents"][0]["rows"]
    assert sorted((row["first_token"], row["num_tokens"]) for row in rows) == [(0, 16), (16, 10)]
    assert [len(row["steps"]) for row in rows] == [3, 3]


def test_lines_that_are_not_trained_on_say_why(command, traced_corpus, tmp_path):
    """Rejected ones and held-out ones."""
    rejected = command("trace", "config.yaml", "--document", "a:2.jsonl:3").stdout
    assert rejected == (
        f"a {tmp_path}/corpus/2.jsonl:3 is quarantined: not_object, the value is an array, expected an object\n"
    )
    held_out = command("trace", "config.yaml", "--document", "h:1.jsonl:1").stdout.splitlines()
    assert held_out[0] == f"h {tmp_path}/held_out/1.jsonl:1: document 0 of h-00000"
    assert held_out[1].endswith(": tokens 0 to 7; held out, never trained on")


def test_a_step_is_shown_on_a_screen(command, traced_corpus):
    """Rows, and the documents in each."""
    lines = command("trace", "config.yaml", "--step", "1").stdout.splitlines()
    assert lines[0].startswith("step 1 of ")
    assert lines[0].endswith(" tokens")
    assert sum(line.startswith("row ") for line in lines) == 2
    assert all(line.startswith(("row ", "  a /")) for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected exactly one of --step N and --document SOURCE:FILE:LINE"),
        (["--step", "0"], "--step 0: the run has steps 1 to "),
        (["--document", "a:1"], "--document a:1: expected SOURCE:FILE:LINE, such as"),
        (["--document", "b:1.jsonl:1"], "--document: no source b; the sources are a, h"),
        (["--document", "a:9.jsonl:1"], "--document: no input file of this source ends with 9.jsonl"),
        (["--document", "a:2.jsonl:2"], "/2.jsonl:2: no document there; the line is blank, or the file is shorter"),
        (["--step", "1", "--set", "packing.seed=1"], "the packed rows of test are not there; run `cpt prepare CONFIG`"),
    ],
)
def test_a_mistake_is_one_line(command, traced_corpus, arguments, message):
    """Exit code 2."""
    result = command("trace", "config.yaml", *arguments)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr

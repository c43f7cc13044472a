"""Rejected lines as a user meets them: counted, shown, repaired, and computed again."""

import json

import pytest

from tasks.stage_lines import describe_tokens
from tests.conftest import write_jsonl
from tests.pipeline import packed, tokenized


@pytest.fixture
def bad_corpus(tmp_path, make_config):
    """Two files, the first with three rejected lines; one of them tries to clear the terminal."""
    write_jsonl(tmp_path / "corpus/2.jsonl", ["three"])
    (tmp_path / "corpus/1.jsonl").write_bytes(b'{"text": "one"}\n{"text": \x1b[2J\x9b}\n[]\n{"text": "two"}\n{\n')
    config = make_config()
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    return config


def complete(path, replacements: dict[int, str]) -> None:
    """Fill in the replacement of some lines of a repairs file."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for entry in entries:
        entry["replacement"] = replacements.get(entry["line"])
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def test_list_counts_what_the_store_has(command, bad_corpus, tmp_path):
    """It computes nothing; shards that are not tokenized yet are named."""
    before = command("quarantine", "list", "config.yaml")
    assert before.stdout.splitlines() == [
        "0 of 0 documents are quarantined",
        "not tokenized yet: a-00000, a-00001",
    ]
    tokenized(bad_corpus)
    assert command("quarantine", "list", "config.yaml").stdout.splitlines() == [
        "3 of 6 documents are quarantined",
        "",
        "source  reason             lines    share",
        "a       invalid_utf8           1  16.667%",
        "a       json_syntax            1  16.667%",
        "a       not_object             1  16.667%",
        "",
        "shard     lines  file",
        f"a-00000       3  {tmp_path}/corpus/1.jsonl",
    ]


def test_list_prints_one_json_object(command, bad_corpus, tmp_path):
    """With everything that the screen cuts."""
    tokenized(bad_corpus)
    reasons = {"invalid_utf8": 1, "json_syntax": 1, "not_object": 1}
    listed = json.loads(command("quarantine", "list", "config.yaml", "--json").stdout)
    assert sorted(listed.pop("reasons"), key=lambda row: row["reason"]) == [
        {"source": "a", "reason": reason, "lines": 1, "fraction": 1 / 6} for reason in reasons
    ]
    assert listed == {
        "documents_in": 6,
        "documents_out": 3,
        "documents_quarantined": 3,
        "documents_repaired": 0,
        "noticed": {},
        "shards": [{"shard": "a-00000", "file": f"{tmp_path}/corpus/1.jsonl", "lines": 3, "reasons": reasons}],
        "repairs_wait": [],
        "not_tokenized": [],
    }


def test_list_and_the_line_of_the_stage_say_what_was_noticed(command, tmp_path, make_config):
    """What is no fault of a line and yet worth a look; a corpus without any of it has no such line."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/1.jsonl").write_bytes(
        b'\xef\xbb\xbf{"text": "a\\u0000"}\n{"text": "</s>"}\n{"text": "<s>"}\n{"te'
    )
    (tmp_path / "corpus/2.jsonl").write_bytes(b"")
    config = make_config()
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    shards, _, _ = tokenized(config)
    noticed = (
        "noticed: 1 file that may be cut off, 1 byte order mark, 1 document with NUL, "
        "2 documents with a special token as text, 1 file without a document"
    )
    assert command("quarantine", "list", "config.yaml").stdout.splitlines()[:2] == [
        "1 of 4 documents are quarantined",
        noticed,
    ]
    assert json.loads(command("quarantine", "list", "config.yaml", "--json").stdout)["noticed"] == {
        "maybe_truncated": 1,
        "byte_order_marks": 1,
        "documents_with_nul": 1,
        "documents_with_special_tokens": 2,
        "files_without_documents": 1,
    }
    assert describe_tokens([shard.tokens for shard in shards]) == (
        f"2 shards computed, 0 cached; 3 documents, 15 tokens, quarantined: 1 json_syntax; {noticed}"
    )


def test_show_prints_lines_that_cannot_drive_a_terminal(command, bad_corpus, tmp_path):
    """Each with file, line, byte offset, reason, and its bytes escaped."""
    tokenized(bad_corpus)
    file = f"{tmp_path}/corpus/1.jsonl"
    assert command("quarantine", "show", "config.yaml", "--limit", "2").stdout.splitlines() == [
        f"{file}:2 at byte 16: invalid_utf8, byte 13 of the line is not UTF-8",
        r'  {"text": \x1b[2J\x9b}',
        f"{file}:3 at byte 32: not_object, the value is an array, expected an object",
        "  []",
        "… and 1 more; `--limit N` shows more of them, `--write FILE` writes them all",
    ]
    chosen = json.loads(command("quarantine", "show", "config.yaml", "--reason", "not_object", "--json").stdout)
    assert chosen["lines_total"] == 1
    assert [(line["line"], line["size_bytes"], line["raw"]) for line in chosen["lines"]] == [(3, 2, "[]")]
    assert command("quarantine", "show", "config.yaml", "--reason", "too_deep").stdout == "no rejected line matches\n"


def test_repaired_lines_are_computed_by_retry_and_by_nothing_else(command, bad_corpus, tmp_path):
    """From the written file to a run whose tokenization has nothing left to do."""
    tokenized(bad_corpus)
    assert command("quarantine", "show", "config.yaml", "--write", "repairs.jsonl").stdout == (
        'repairs.jsonl: 3 entries. Put the repaired line of each in place of its `"replacement": null`, set '
        "tokenization.repairs to the file, and run `cpt quarantine retry CONFIG`\n"
    )
    with_repairs = ("config.yaml", "--set", "tokenization.repairs=repairs.jsonl")
    assert command("quarantine", "retry", *with_repairs).stdout == (
        "no entry of the repairs file has a replacement yet\n"
    )
    complete(tmp_path / "repairs.jsonl", {2: '{"text": "mended"}', 3: "[1]"})
    waiting = command("quarantine", "list", *with_repairs).stdout.splitlines()
    assert waiting[0] == "3 of 6 documents are quarantined"
    assert waiting[-1] == "repairs not computed yet, `cpt quarantine retry` does it: a-00000"

    computed = command("quarantine", "retry", *with_repairs)
    assert computed.stderr == (
        "tokenization  tokenizer backend huggingface: the corpus is too small for the check of gigatoken to pay\n"
    )
    assert computed.stdout.splitlines() == [
        "a-00000: computed; 1 repaired, 1 still rejected",
        f"  {tmp_path}/corpus/1.jsonl:3 at byte 32: not_object, the value is an array, expected an object; not repaired: "
        "the replacement is not_object, the value is an array, expected an object",
        "    []",
    ]
    found = command("quarantine", "retry", *with_repairs, "--json")
    again = json.loads(found.stdout)
    assert found.stderr == ""
    assert [(row["shard"], row["is_cached"], row["repaired"], row["unmatched"]) for row in again["shards"]] == [
        ("a-00000", True, 1, 0)
    ]
    assert command("quarantine", "list", *with_repairs).stdout.splitlines()[0] == (
        "2 of 6 documents are quarantined, 1 repaired"
    )
    units = json.loads(command("plan", *with_repairs, "--json").stdout)["units"]
    assert [unit["status"] for unit in units if unit["stage"] == "tokenization"] == ["cached", "cached"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "config.yaml", "--source", "b"], "--source b: no such source; the sources are a"),
        (["show", "config.yaml", "--write", "config.yaml"], "config.yaml: exists already and may hold repairs; name a"),
        (["show", "config.yaml", "--write", "no/folder"], "no/folder: cannot be written: No such file or directory"),
        (["retry", "config.yaml"], "tokenization.repairs is missing; name the file that"),
        (["retry", "config.yaml", "--set", "tokenization.repairs=x"], "/x: cannot be read: no such file"),
    ],
)
def test_a_mistake_is_one_line(command, bad_corpus, arguments, message):
    """Exit code 2."""
    result = command("quarantine", *arguments)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


def test_plan_warns_of_too_many_bad_lines_and_prepare_refuses_them_at_once(command, bad_corpus):
    """The plan is shown all the same; a run that can only fail starts no server."""
    packed(bad_corpus)
    reason = "tokenization: 3 of 6 documents are quarantined, more than tokenization.max_bad_fraction = 0.0 allows. "
    plan = command("plan", "config.yaml")
    assert plan.returncode == 0
    assert "packing              1        0        0" in plan.stdout
    assert f"\nwarning: the run will stop after {reason}" in plan.stdout
    result = command("prepare", "config.yaml")
    assert result.returncode == 1
    assert result.stderr.startswith(f"cpt: {reason}")
    assert result.stderr.count("\n") == 1

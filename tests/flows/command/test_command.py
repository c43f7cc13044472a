"""The command as a user meets it: exit codes, one JSON object, one line for a mistake."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpt_core.storage import Store
from cpt_core.tokenization.parity import Verdict, remember_verdict
from tests.conftest import write_jsonl
from tests.flows.homes import new_home

CPT = str(Path(sys.executable).parent / "cpt")


@pytest.fixture
def cpt(home_with_schema, tmp_path, make_config):
    """Run the command in a folder with a configuration and a corpus of two files."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["one", "two"])
    write_jsonl(tmp_path / "corpus/2.jsonl", ["three"])
    (tmp_path / "config.yaml").write_text(make_config().model_dump_json(), encoding="utf-8")
    environment = os.environ | {"CPT_HOME": str(new_home(home_with_schema, tmp_path / "home"))}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [CPT, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_prepare_prints_exactly_one_json_object_and_then_is_done(cpt, tmp_path):
    """Progress goes to stderr; the second time no server is started at all."""
    first = cpt("prepare", "config.yaml", "--json")
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    expected = {
        "documents_in": 3,
        "documents_out": 3,
        "documents_quarantined": 0,
        "tokens": 17,
        "shards_total": 2,
        "shards_cached": 0,
        "shards_computed": 2,
        "shards_failed": [],
        "rows": 2,
        "row_len_tokens": 16,
        "padding_fraction": 15 / 32,
        "documents_split": 0,
        "tokens_dropped": 0,
        "tokenizer_backend": "huggingface",
    }
    assert {name: summary[name] for name in expected} == expected
    assert sorted(summary["seconds"]) == ["discovery", "indexing", "packing", "tokenization"]
    assert [len(summary["artifacts"][name]) for name in ("tokens", "packed")] == [2, 1]
    why = "tokenization  tokenizer backend huggingface: the corpus is too small for the check of gigatoken to pay"
    assert first.stderr.splitlines().count(why) == 1
    assert "tokenization  2 shards computed, 0 cached; 3 documents, 17 tokens" in first.stderr

    again = cpt("prepare", "config.yaml", "--json")
    assert json.loads(again.stdout)["shards_cached"] == 2
    assert again.stderr.splitlines() == [
        "tokenization  0 shards computed, 2 cached; 3 documents, 17 tokens, quarantined: none",
        "indexing      cached; 3 documents of 1 source split",
        "packing       0 groups computed, 1 cached; 2 rows of 16 tokens, padding 46.88%",
        "every stage is in the store already: nothing to do",
    ]


def test_prepare_prints_a_screen_for_people(cpt, tmp_path, tokenizer_folder):
    """The conservation law stands on it, and above it why gigatoken did not encode; demanded, it is an error."""
    digest = hashlib.sha256((tokenizer_folder / "tokenizer.json").read_bytes()).hexdigest()
    remember_verdict(Store(str(tmp_path / "store")), digest, Verdict(False, "it gives other ids for the text 'x'"))
    demanded = cpt("retry-shard", "config.yaml", "a-00000", "--set", "tokenization.backend=gigatoken")
    assert (demanded.returncode, demanded.stderr) == (
        2,
        f"cpt: tokenization.backend: gigatoken is refused for {tokenizer_folder}/tokenizer.json: it gives other ids "
        "for the text 'x'; use auto or huggingface\n",
    )
    alone = cpt("retry-shard", "config.yaml", "a-00000")
    assert alone.stdout.splitlines()[0] == "a-00000: computed; 2 documents, 10 tokens"
    assert alone.stderr == (
        "tokenization  tokenizer backend huggingface: not gigatoken: it gives other ids for the text 'x'\n"
    )
    assert cpt("retry-shard", "config.yaml", "a-00000").stderr == ""
    result = cpt("prepare", "config.yaml")
    assert (
        "tokenization  tokenizer backend huggingface: not gigatoken: it gives other ids for the text 'x'\n"
    ) in result.stderr
    assert result.stdout.splitlines() == [
        "shards        2 (1 computed, 1 cached)",
        "documents     3 in = 3 out + 0 quarantined",
        "tokens        17 in = 17 in rows + 0 dropped by policy",
        "rows          2 of 16 tokens, padding 46.88%, 0 documents split",
    ]


def test_a_failing_shard_gives_exit_code_1_and_its_name(cpt, tmp_path):
    """The JSON object says which shards are missing; stderr holds one line and no traceback."""
    (tmp_path / "corpus/2.jsonl").write_bytes(b"\x1f\x8bnot gzip")
    result = cpt("prepare", "config.yaml", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["shards_failed"] == ["a-00001"]
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("cpt: tokenization: 1 shard(s) failed, all others are committed. a-00001: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "nothing.yaml"], "nothing.yaml: no such file; expected the path of a YAML configuration"),
        (["prepare", "config.yaml", "--set", "packing.row_len=1"], "packing.row_len is not a key; did you mean"),
        (["run", "config.yaml"], "training is missing; add a training section"),
        (["inspect", "nowhere/x/y"], "holds no artifact.json that can be read; expected"),
        (
            ["prepare", "config.yaml", "--set", "discovery.sources.0.uris=[gone/*.jsonl]"],
            "gone/*.jsonl matches no file",
        ),
    ],
)
def test_a_wrong_configuration_or_command_line_gives_exit_code_2_and_one_line(cpt, arguments, message):
    """What was seen, what was expected, where: and nothing else."""
    result = cpt(*arguments)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_plan_and_inspect_look_without_computing(cpt, tmp_path):
    """The plan names what would run; inspect shows rows with their document borders."""
    plan = cpt("plan", "config.yaml")
    assert "  compute tokenization a-00000: new" in plan.stdout
    assert not (tmp_path / "store/tokens").exists()
    uri = json.loads(cpt("prepare", "config.yaml", "--json").stdout)["artifacts"]["packed"][0]
    assert "nothing to do" in cpt("plan", "config.yaml").stdout
    changed = json.loads(cpt("plan", "config.yaml", "--json", "--set", "packing.row_len_tokens=8").stdout)
    assert [unit for unit in changed["units"] if unit["status"] != "cached"] == [
        {"stage": "packing", "name": "a-00000", "status": "compute", "why": "row_len_tokens: 16 -> 8"}
    ]
    assert "tokens: <s>three</s>" in cpt("inspect", uri).stdout


def test_an_input_file_that_repeats_another_is_told_in_one_line(cpt, tmp_path):
    """By the plan, on the screen of the run and in its JSON object; its documents count all the same."""
    (tmp_path / "corpus/3\n.jsonl").write_bytes((tmp_path / "corpus/2.jsonl").read_bytes())
    line = (
        "1 input file repeats the content of another, and its documents count again: "
        f"a {tmp_path}/corpus/3\\n.jsonl is a {tmp_path}/corpus/2.jsonl"
    )
    assert f"note: {line}" in cpt("plan", "config.yaml").stdout.splitlines()
    assert cpt("prepare", "config.yaml").stdout.splitlines()[1:] == [
        "documents     4 in = 4 out + 0 quarantined",
        "tokens        24 in = 24 in rows + 0 dropped by policy",
        "rows          2 of 16 tokens, padding 25.00%, 0 documents split",
        f"note          {line}",
    ]
    (repeated,) = json.loads(cpt("prepare", "config.yaml", "--json").stdout)["repeated_files"]
    assert repeated["file"] == f"{tmp_path}/corpus/3\n.jsonl"


def test_help_needs_no_prefect(cpt):
    """Starting to read costs less than importing the orchestrator."""
    command = [sys.executable, "-c", "import flows.command, sys; sys.exit('prefect' in sys.modules)"]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert "Continued pretraining: from jsonl files" in cpt("--help").stdout

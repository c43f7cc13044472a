"""Whatever a file is called and whatever its lines hold, a command prints lines of its own and drives no terminal."""

import gzip
import json
import unicodedata

import pytest

from tests.conftest import write_jsonl
from tests.pipeline import packed

ODD = "a\x1b[2J\nfindings: 0\r\x9b\udcff b.jsonl"
"""Clears the screen, begins a line that looks like one of ours, and is no UTF-8."""


@pytest.fixture
def odd_corpus(tmp_path, make_config) -> str:
    """A file with such a name, whose lines are no better; its configuration is config.yaml, and its data are packed."""
    path = write_jsonl(tmp_path / "corpus" / ODD, ["one\x1b[2J\ntwo \x9b", "three"])
    with path.open("ab") as stream:
        stream.write(b'{"te\\u001b[2Jxt": 1}\n{"text": "\x1b[2J\x9b"}\n')
    config = make_config(tokenization={"max_bad_fraction": 1.0})
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    packed(config)
    return str(path)


def is_harmless(text: str) -> bool:
    """Whether nothing in it drives a terminal: no control character but the ends of lines."""
    return all(character == "\n" or unicodedata.category(character) not in ("Cc", "Cs") for character in text)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["plan", "config.yaml", "--set", "discovery.fingerprint_inputs=stat"], "compute tokenization a-00000"),
        (["prepare", "config.yaml"], "documents     4 in = 2 out + 2 quarantined"),
        (["quarantine", "list", "config.yaml"], "findings: 0"),
        (["quarantine", "show", "config.yaml"], "invalid_utf8"),
        (["verify", "config.yaml"], "all bytes are as recorded"),
        (["retry-shard", "config.yaml", "a-00000"], "was in the store already"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_what_a_command_prints_is_harmless(command, odd_corpus, arguments, shown):
    """On both streams."""
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    assert shown in result.stdout
    assert is_harmless(result.stdout + result.stderr)
    assert not any(line.startswith("findings: 0") for line in result.stdout.splitlines())


def test_what_is_looked_into_is_harmless(command, odd_corpus, tmp_path):
    """Decoded documents and rows, and rejected lines."""
    for folder in sorted(path.parent for path in tmp_path.glob("store/*/*/artifact.json")):
        result = command("inspect", str(folder))
        assert result.returncode == 0
        assert is_harmless(result.stdout)
    assert "one\\x1b[2J\\ntwo \\x9b" in command("inspect", str(folder)).stdout


def test_a_plan_in_mode_stat_shows_other_names_harmlessly(command, make_config, odd_corpus, tmp_path):
    """There the name is a part of the key, and the plan says that it changed."""
    config = make_config(
        tokenization={"max_bad_fraction": 1.0},
        discovery={"fingerprint_inputs": "stat", "sources": [{"name": "a", "uris": [str(tmp_path / "corpus")]}]},
    )
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    packed(config)
    (tmp_path / "corpus" / ODD).rename(tmp_path / "corpus" / f"z{ODD}")
    result = command("plan", "config.yaml")
    assert "input.uri: " in result.stdout
    assert is_harmless(result.stdout)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["line", "json"])
def test_an_error_about_such_a_file_is_one_harmless_line(command, odd_corpus, tmp_path, as_json):
    """The name is escaped, not left out; the line before it is about the tokenizer."""
    (tmp_path / "corpus" / ODD).write_bytes(gzip.compress(b"{}\n" * 1000)[:-3])
    result = command("retry-shard", "config.yaml", "a-00000", *as_json)
    assert result.returncode == 1
    engine, error = result.stderr.splitlines()
    assert engine.startswith("tokenization  tokenizer backend huggingface: ")
    assert "corpus/a\\x1b[2J\\nfindings: 0\\r\\x9b\\udcff b.jsonl: gzip data is truncated" in error
    assert is_harmless(result.stderr + result.stdout)
    if as_json:
        assert "gzip data is truncated" in json.loads(result.stdout)["error"]


def test_where_a_document_went_is_told_harmlessly(command, odd_corpus, tmp_path):
    """A file is named as the lists name it, or as it is."""
    for line in ("1", "4"):
        result = command("trace", "config.yaml", "--document", f"a:{odd_corpus}:{line}")
        assert result.returncode == 0, result.stderr
        assert is_harmless(result.stdout)

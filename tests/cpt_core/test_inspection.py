"""A look into artifacts."""

import pytest

from cpt_core.errors import ConfigError
from cpt_core.inspection import describe, inspect_artifact
from tests.conftest import write_jsonl
from tests.pipeline import packed, tokenized


def test_a_packed_row_is_shown_with_its_document_borders(tmp_path, make_config):
    """Each piece is decoded with the tokenizer that the store remembers."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["ab", "c"])
    (artifact,) = packed(make_config(packing={"strategy": "greedy"}))
    found = inspect_artifact(artifact.uri, 1)
    key = artifact.key_parts["token_shards"][0][:12]
    assert describe(found).splitlines()[-3:] == [
        "row 0: 7 tokens in 2 documents, 9 padding",
        f"  | a {key} document 0, 4 tokens: <s>ab</s>",
        f"  | a {key} document 1, 3 tokens: <s>c</s>",
    ]


def test_a_token_shard_shows_documents_and_rejected_lines(tmp_path, make_config):
    """Control characters of a corpus are escaped before they reach a terminal."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.jsonl").write_bytes(b'{"text": "a\\u001b[31m"}\n{"x\x1b": 1\n{"y\\u001b": 1}\n')
    shards, _, _ = tokenized(make_config())
    lines = describe(inspect_artifact(shards[0].tokens.uri, 3)).splitlines()
    assert lines[-8:] == [
        "document at line 1: 8 tokens",
        "  <s>a\\x1b[31m</s>",
        "",
        "quarantined line 2: json_syntax, unexpected control character in string at character 3",
        '  {"x\\x1b": 1',
        "",
        "quarantined line 3: missing_field, no field 'text'; the keys are: y\\x1b",
        '  {"y\\u001b": 1}',
    ]


@pytest.mark.parametrize("uri", ["nothing", "a/b/c"])
def test_a_uri_without_an_artifact_is_an_error(tmp_path, uri):
    """The expected form is named."""
    with pytest.raises(ConfigError, match="expected the folder of an artifact, such as STORE/packed/NAME"):
        inspect_artifact(str(tmp_path / uri) if "/" in uri else uri, 1)

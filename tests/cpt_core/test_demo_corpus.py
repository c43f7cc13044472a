"""The corpus and the untrained model of the demo."""

import json

import pytest

from cpt_core.demo_base import write_untrained_model
from cpt_core.demo_corpus import write_demo_corpus
from cpt_core.errors import ConfigError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The demo's corpus."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, write_demo_corpus(folder)


def texts(path) -> dict[str, str]:
    """Documents of a file by the module they come from."""
    return {record["source"]: record["text"] for record in map(json.loads, path.read_text().splitlines())}


def test_two_sources_in_several_files(corpus):
    """Documentation and code, each with training files and one held-out file."""
    folder, documents = corpus
    assert sorted(documents) == [
        "code-held-out.jsonl",
        "code-train-0.jsonl",
        "code-train-1.jsonl",
        "code-train-2.jsonl",
        "code-train-3.jsonl",
        "docs-held-out.jsonl",
        "docs-train-0.jsonl",
        "docs-train-1.jsonl",
        "docs-train-2.jsonl",
    ]
    assert all(len(texts(folder / name)) == count > 10 for name, count in documents.items())


def test_a_module_is_held_out_of_both_sources_or_of_none(corpus):
    """The base model has not seen the documentation of held-out code."""
    folder, _ = corpus
    held_out = {s for kind in ("code", "docs") for s in texts(folder / f"{kind}-held-out.jsonl")}
    trained = {s for path in folder.glob("*-train-*.jsonl") for s in texts(path)}
    assert held_out.isdisjoint(trained)


def test_code_has_no_documentation_strings(corpus):
    """What is documentation in one source is not code in the other."""
    folder, _ = corpus
    code = {source: text for path in folder.glob("code-*.jsonl") for source, text in texts(path).items()}
    docs = {source: text for path in folder.glob("docs-*.jsonl") for source, text in texts(path).items()}
    sentence = "Decode a Base64 encoded byte string."
    assert sentence not in code["python/base64.py"]
    assert "def b64decode" in code["python/base64.py"]
    assert "b64decode\nDecode the Base64 encoded bytes-like object" in docs["python/base64.py"]


def test_the_untrained_model_is_a_tokenizer_and_a_configuration(corpus, tmp_path):
    """Equal files give an equal folder; there are no weights."""
    folder, _ = corpus
    files = sorted(folder.glob("docs-train-*.jsonl"))
    assert write_untrained_model(tmp_path / "a", files) == write_untrained_model(tmp_path / "b", files) == 4096
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_an_empty_corpus_folder_is_an_error(tmp_path):
    """The command that writes the corpus is named."""
    with pytest.raises(ConfigError, match="write it first with `cpt demo corpus`"):
        write_untrained_model(tmp_path, [])

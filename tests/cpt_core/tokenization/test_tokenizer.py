"""BOS and EOS exactly once, text as text."""

import hashlib
import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from cpt_core.config import TokenizationConfig
from cpt_core.errors import ConfigError
from cpt_core.tokenization import load_tokenizer
from cpt_core.tokenization.probe import PROBE
from cpt_core.tokenization.tokenizer import with_borders
from tests.benchmarks.materials import LLAMA
from tests.benchmarks.materials import tokenizer_folder as fetched_folder
from tests.conftest import SHARED, byte_ids, save_byte_tokenizer


def load(folder, **options):
    """The tokenizer of a folder under these options."""
    return load_tokenizer(TokenizationConfig(tokenizer=str(folder), **options))


@pytest.mark.parametrize("adds_bos", [False, True], ids=["Llama-3 style", "Llama-3.1 style"])
def test_bos_and_eos_stand_once_whatever_the_tokenizer_adds_by_itself(tmp_path, adds_bos):
    """A tokenizer that puts its own BOS does not lead to two."""
    tokenizer = load(save_byte_tokenizer(tmp_path / "t", adds_bos=adds_bos))
    tokenized = tokenizer.encode(["ab", "c"])
    assert tokenized.ids.tolist() == [0, 99, 100, 1, 0, 101, 1]
    assert tokenized.lengths.tolist() == [4, 3]
    assert tokenized.ids.dtype == np.int32


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"add_bos": False}, [99, 1]),
        ({"add_eos": False}, [0, 99]),
        ({"add_bos": False, "add_eos": False}, [99]),
        ({"eos_token": "<s>"}, [0, 99, 0]),
    ],
)
def test_borders_follow_the_configuration(tokenizer_folder, options, ids):
    """Each can be left out, and EOS can be another token than the tokenizer's own."""
    assert load(tokenizer_folder, **options).encode(["a"]).ids.tolist() == ids


def test_text_that_looks_like_a_special_token_is_text(tokenizer_folder):
    """A document cannot end itself."""
    assert load(tokenizer_folder).encode(["a</s>"]).ids.tolist() == [0, *byte_ids("a</s>"), 1]


def test_nothing_is_truncated(tmp_path):
    """A tokenizer.json that carries a truncation of 3 tokens does not cut documents."""
    folder = save_byte_tokenizer(tmp_path / "t")
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    assert len(load(folder).encode(["abcdefgh"]).ids) == 10


def test_borders_are_put_in_by_array_arithmetic():
    """Empty documents get their borders too."""
    tokenized = with_borders(np.array([5, 6, 7], dtype=np.int32), np.array([2, 0, 1]), 0, 1)
    assert tokenized.ids.tolist() == [0, 5, 6, 1, 0, 1, 0, 7, 1]
    assert tokenized.lengths.tolist() == [4, 2, 3]


def test_the_identity_holds_the_ids_of_the_probe(tokenizer_folder):
    """With BOS and EOS: a library that encodes any of its characters differently gives other keys."""
    ids = np.array([0, *byte_ids(PROBE), 1], dtype="<i4")
    assert load(tokenizer_folder).identity["probe_ids_sha256"] == hashlib.sha256(ids.tobytes()).hexdigest()


def test_the_probe_has_what_tokenizers_disagree_about():
    """Characters of every category that is assigned, and both forms of what a normalizer changes."""
    categories = {unicodedata.category(character) for character in PROBE}
    assert categories == {
        *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"),
        *("Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"),
    }
    assert all(unicodedata.normalize(form, PROBE) != PROBE for form in ("NFC", "NFD", "NFKC", "NFKD"))
    assert len(PROBE) == 1984


def test_the_identity_changes_with_the_file_and_with_the_tokens(tmp_path):
    """It is part of every token shard's key."""
    first, second = save_byte_tokenizer(tmp_path / "a"), save_byte_tokenizer(tmp_path / "b", adds_bos=True)
    assert load(first).identity == load(first).identity
    assert load(first).identity != load(second).identity
    assert load(first).identity != load(first, add_bos=False).identity


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), {}, "has no tokenizer.json; save the fast tokenizer there"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), {}, "tokenizer.json: cannot be loaded"),
        (
            lambda f: (f / "tokenizer_config.json").write_text("{}"),
            {},
            "names no EOS token; set tokenization.eos_token",
        ),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), {}, "tokenizer_config.json: not valid JSON"),
        (
            lambda f: None,
            {"eos_token": "<end>"},
            "tokenization.eos_token: '<end>' is not in the tokenizer's vocabulary",
        ),
    ],
)
def test_an_unusable_tokenizer_is_named(tokenizer_folder, prepare, options, message):
    """Each reason gives its own line, before any document is read."""
    prepare(tokenizer_folder)
    with pytest.raises(ConfigError) as caught:
        load(tokenizer_folder, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("number", [999_999, -7, True, [1, 2], "1"])
def test_an_end_token_that_is_not_one_id_is_refused(tokenizer_folder, number):
    """Instruct configurations list several; a wrong one would train on ids that do not exist."""
    (tokenizer_folder / "tokenizer_config.json").unlink()
    (tokenizer_folder / "config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": number}))
    with pytest.raises(ConfigError, match=r"is not one id of the tokenizer; set tokenization\.eos_token"):
        load(tokenizer_folder)


@pytest.mark.parametrize("settings", ["5", "null", "[1]", '{"eos_token": 5}', '{"eos_token": ["a"]}'])
def test_odd_settings_are_one_line(tokenizer_folder, settings):
    """Whatever JSON the small files hold."""
    (tokenizer_folder / "tokenizer_config.json").write_text(settings)
    with pytest.raises(ConfigError, match="tokeniz"):
        load(tokenizer_folder)


def test_a_hub_id_needs_a_revision_and_an_answering_hub(monkeypatch):
    """What is no folder is a hub id; offline, the failure is one line."""
    with pytest.raises(
        ConfigError, match=r"org/name is no folder; expected a folder with tokenizer\.json, or a hub id"
    ):
        load("org/name")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0123456789" * 4
    with pytest.raises(ConfigError, match=f"org/name at {commit} cannot be fetched from the hub") as caught:
        load("org/name", revision=commit)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the vectors are not at hand")
@pytest.mark.parametrize("name", ["gpt2", "llama2", "mistral01"])
@pytest.mark.parametrize("vectors", ["small", "mixed"])
@pytest.mark.parametrize("backend", ["huggingface", "gigatoken"])
def test_published_vectors_are_reproduced(name, vectors, backend):
    """Ids of adversarial text equal the published ones, by either engine."""
    require_published_ids(SHARED / "tokenizers" / name, vectors, name, backend)


@pytest.mark.matrix
@pytest.mark.skipif(not SHARED.is_dir(), reason="the vectors are not at hand")
@pytest.mark.parametrize("vectors", ["small", "mixed"])
@pytest.mark.parametrize("backend", ["huggingface", "gigatoken"])
def test_published_vectors_are_reproduced_by_a_tokenizer_fetched_by_name(vectors, backend):
    """Llama-3.2 has the vocabulary of Llama-3.1."""
    require_published_ids(fetched_folder(LLAMA), vectors, "llama32", backend)


def require_published_ids(folder, vectors, name, backend):
    """Lines with special tokens in the text are left out: there the vectors hold special ids, which we refuse."""
    published = SHARED / "vectors"
    lines = (published / f"{vectors}_input.txt").read_bytes().decode().split("\n")[:-1]
    if vectors == "small":
        lines = [line.replace("\\n", "\n").replace("\\s", " ").replace("\\x", "") for line in lines]
    expected = [
        [int(token) for token in line.replace(",", " ").split()]
        for line in (published / f"{vectors}_tokens_{name}.txt").read_text().split("\n")[: len(lines)]
    ]
    tokenized = replace(load(folder, add_bos=False, add_eos=False), backend=backend).encode(lines)
    ends = np.cumsum(tokenized.lengths)
    found = [ids.tolist() for ids in np.split(tokenized.ids, ends[:-1])]
    plain = [i for i, line in enumerate(lines) if not any(token in line for token in SPECIAL)]
    assert len(plain) > len(lines) // 2
    assert [found[i] for i in plain] == [expected[i] for i in plain]


SPECIAL = ("<s>", "</s>", "<unk>", "<|endoftext|>")

"""A tokenizer on a machine that has the store and nothing else."""

import hashlib
import shutil
import tempfile
from dataclasses import replace

import pytest

from cpt_core.config import TokenizationConfig
from cpt_core.errors import ConfigError, StoreError
from cpt_core.tokenization import load_tokenizer, remember_tokenizer, tokenizer_here
from tests.conftest import byte_ids


@pytest.fixture
def sent(tokenizer_folder, store, tmp_path, monkeypatch):
    """The tiny tokenizer, known to the store, after its folder is gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    tokenizer = load_tokenizer(TokenizationConfig(tokenizer=str(tokenizer_folder)))
    remember_tokenizer(tokenizer, store)
    shutil.rmtree(tokenizer_folder)
    return tokenizer


def test_its_file_comes_from_the_store_once(sent, store):
    """The second time it is there already, and the store may be away."""
    here = tokenizer_here(sent, store)
    assert here.encode(["ab"]).ids.tolist() == [0, *byte_ids("ab"), 1]
    assert here == replace(sent, folder=here.folder)
    store.local_path("tokenizers").rename(store.local_path("away"))
    assert tokenizer_here(sent, store) == here


def test_a_file_here_that_was_changed_is_fetched_again(sent, store):
    """Whoever changed it."""
    here = tokenizer_here(sent, store)
    here.file.write_bytes(b"{}")
    assert (
        hashlib.sha256(tokenizer_here(sent, store).file.read_bytes()).hexdigest()
        == (sent.identity["tokenizer_json_sha256"])
    )


def test_without_its_file_in_the_store_it_cannot_be_had(sent, store):
    """One line, which says what mends it."""
    (file,) = store.local_path("tokenizers").iterdir()
    file.write_bytes(b"{}")
    with pytest.raises(StoreError, match=r"tokenizers/[0-9a-f]{64}.json: is absent or damaged"):
        tokenizer_here(sent, store)


def test_another_library_version_is_refused(sent, store):
    """Its ids might differ from what the keys promise."""
    other = replace(sent, identity=sent.identity | {"tokenizers_version": "0.1.2"})
    with pytest.raises(ConfigError, match=r"this worker has tokenizers [0-9.]+, but the run has 0\.1\.2"):
        tokenizer_here(other, store)

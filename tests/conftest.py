"""A tiny tokenizer whose ids can be read by eye, a store, and writers of corpora."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from cpt_core.config import PipelineConfig
from cpt_core.storage import Store
from tests.s3_server import S3Server, s3_server

REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"
"""Real corpora and models, where they are at hand; no test needs them."""
PATIENCE_SECONDS = 400
"""How long a test waits for what has to come, on a machine that may be busy; where it is promised within a time, that."""

BOS_ID, EOS_ID = 0, 1


def byte_ids(text: str) -> list[int]:
    """Ids of a text under the tiny tokenizer: every byte b is the id b + 2."""
    return [byte + 2 for byte in text.encode()]


def save_byte_tokenizer(folder: Path, *, adds_bos: bool = False) -> Path:
    """A tokenizer without merges: <s> is 0, </s> is 1, byte b is b + 2."""
    vocabulary = {"<s>": BOS_ID, "</s>": EOS_ID}
    for byte, character in sorted(_byte_level_alphabet().items()):
        vocabulary[character] = byte + 2
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS_ID)]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _byte_level_alphabet() -> dict[int, str]:
    """The printable character that byte-level BPE uses for each byte (Radford et al. 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def write_jsonl(path: Path, texts: list[str]) -> Path:
    """One document a line under ``text``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder of its own."""
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server for all tests that ask for one."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """The tiny tokenizer."""
    return save_byte_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def make_config(tmp_path: Path, tokenizer_folder: Path) -> Callable[..., PipelineConfig]:
    """A configuration over ``corpus/`` of the test's folder; sections given by keyword are merged in."""

    def make(**sections: dict[str, object]) -> PipelineConfig:
        values: dict[str, object] = {
            "name": "test",
            "store_uri": str(tmp_path / "store"),
            "discovery": {"sources": [{"name": "a", "uris": [str(tmp_path / "corpus")]}]},
            "tokenization": {"tokenizer": str(tokenizer_folder)} | sections.pop("tokenization", {}),
            "packing": {"row_len_tokens": 16} | sections.pop("packing", {}),
        }
        return PipelineConfig.model_validate(values | sections)

    return make


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool], float], None]:
    """Wait for something to become true, or fail."""

    def wait(true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"not true after {seconds} s"
            time.sleep(0.1)

    return wait

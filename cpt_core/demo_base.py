"""The demo's model before any training: a byte-level BPE tokenizer and a Llama configuration without weights.

In: .jsonl files to train the tokenizer on.
Out: a folder that ``training.model`` accepts and initialises from its seed.
Promise: equal files give an equal folder.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import orjson
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from cpt_core.errors import ConfigError

NUM_IDS = 4096
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
MODEL_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": NUM_IDS,
    "hidden_size": 144,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "dtype": "float32",
}


def write_untrained_model(folder: Path, corpus_files: list[Path]) -> int:
    """Train the tokenizer and write the folder; returns the number of token ids.

    Raises:
        ConfigError: when there are no corpus files.
    """
    if not corpus_files:
        raise ConfigError("no docs-train-*.jsonl in the corpus folder; write it first with `cpt demo corpus`")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_IDS,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(corpus_files), trainer=trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(MODEL_CONFIG, indent=1) + "\n", encoding="utf-8")
    return int(tokenizer.get_vocab_size())


def _texts(corpus_files: list[Path]) -> Iterator[str]:
    for path in corpus_files:
        for line in path.read_bytes().splitlines():
            yield orjson.loads(line)["text"]

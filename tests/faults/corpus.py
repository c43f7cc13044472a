"""A corpus small enough to be prepared hundreds of times: plain, compressed, and with lines that are no documents."""

import gzip
import json
from pathlib import Path

import yaml

from tests.conftest import save_byte_tokenizer, write_jsonl


def write_scene(folder: Path) -> Path:
    """Corpus, tokenizer and a configuration without a store: the configuration's path."""
    corpus = folder / "corpus"
    write_jsonl(corpus / "a" / "one.jsonl", [f"document {number} of the first file" for number in range(6)])
    lines = "".join(json.dumps({"text": f"compressed {number}"}) + "\n" for number in range(4))
    (corpus / "a" / "two.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    write_jsonl(corpus / "b" / "three.jsonl", ["kept", "a longer document than a row of sixteen tokens", "kept too"])
    with (corpus / "b" / "three.jsonl").open("ab") as stream:
        stream.write(b'{"text": "broken\n{"text": 5}\n')
    config = {
        "name": "scene",
        "store_uri": "replaced",
        "discovery": {
            "sources": [
                {"name": "a", "uris": [str(corpus / "a")]},
                {"name": "b", "uris": [str(corpus / "b")], "held_out_fraction": 0.8},
            ]
        },
        "tokenization": {
            "tokenizer": str(save_byte_tokenizer(folder / "tokenizer")),
            "max_bad_fraction": 1.0,
            "backend": "huggingface",  # the parity gate of the other one would take ten times as long as the run
        },
        "packing": {"row_len_tokens": 16},
    }
    path = folder / "scene.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path

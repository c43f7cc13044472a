"""The components of a tokenizer, and which of them gigatoken is trusted with.

In: the settings in tokenizer.json.
Out: its components; the first one that is not known, or None.
Promise: known is what GPT-2, Llama 2 and 3.1, Mistral 0.1 and Qwen 3 are made of, for which the engines are compared on
whole corpora: every field that has a part in the ids of a text, with its value. A field of another name is not known.
Never: looks at post_processor, decoder, truncation and padding, which have no part in the ids of a bare text.
"""

import json
from typing import Any

Settings = dict[str, Any]

_LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_WORDS = _LLAMA_3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
_NO_AFFIXES = {"dropout": (None, 0.0), "continuing_subword_prefix": (None, ""), "end_of_word_suffix": (None, "")}
_SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
_WITHOUT_EFFECT = {"type", "vocab", "merges", "trim_offsets"}
_MATCHING = ("normalized", "lstrip", "rstrip", "single_word")
"""What may give an added token other text than its own content, or less of it."""

# kind -> type -> field -> values; None stands for a field that is absent.
_BYTE_LEVEL: dict[str, dict[str, dict[str, tuple[Any, ...]]]] = {
    "model": {
        "BPE": {
            **_NO_AFFIXES,
            "unk_token": (None,),
            "fuse_unk": (None, False),
            "byte_fallback": (None, False),
            "ignore_merges": (None, False, True),
        }
    },
    "normalizer": {"NFC": {}},
    "pre_tokenizer": {
        "ByteLevel": {"add_prefix_space": (False,), "use_regex": (None, True, False)},
        "Split": {
            "pattern": ({"Regex": _LLAMA_3_WORDS}, {"Regex": _QWEN_WORDS}),
            "behavior": ("Isolated",),
            "invert": (False,),
        },
    },
}
_BYTE_FALLBACK: dict[str, dict[str, dict[str, tuple[Any, ...]]]] = {
    "model": {
        "BPE": {
            **_NO_AFFIXES,
            "unk_token": ("<unk>",),
            "fuse_unk": (True,),
            "byte_fallback": (True,),
            "ignore_merges": (None, False),
        }
    },
    "normalizer": {"Prepend": {"prepend": ("▁",)}, "Replace": {"pattern": ({"String": " "},), "content": ("▁",)}},
    "pre_tokenizer": {"Metaspace": {"replacement": ("▁",), "prepend_scheme": ("first",), "split": (False,)}},
}


def components(settings: Settings, kind: str) -> list[Settings]:
    """The model, the normalizers or the pre_tokenizers of a tokenizer, without the sequences that hold them."""
    component = settings.get(kind)
    if component is None:
        return []
    if kind == "model" and "type" not in component and "merges" in component:  # as the tokenizers library reads it
        return [{"type": "BPE", **component}]
    if component.get("type") != "Sequence":
        return [component]
    return [part for member in component[_SEQUENCES[kind]] for part in components({kind: member}, kind)]


def unknown_component(settings: Settings) -> str | None:
    """The first part of a tokenizer that is not known, in words, or None."""
    family = _BYTE_FALLBACK if settings["model"].get("byte_fallback") else _BYTE_LEVEL
    for kind, known in family.items():
        for component in components(settings, kind):
            if (unknown := _unknown_part(component, known)) is not None:
                return f"the {kind} {unknown}"
    for token in settings.get("added_tokens") or []:
        for field in _MATCHING:
            if token.get(field) and not token.get("special"):
                return f"the added token {token['content'][:20]!a} with {field}"
    return None


def added_token_texts(settings: Settings) -> list[str]:
    """Texts in which every added token stands alone, in words, twice, cut off, and beside the next one."""
    tokens = [token["content"] for token in settings.get("added_tokens") or []]
    return [
        text
        for token, following in zip(tokens, tokens[1:] + tokens[:1], strict=True)
        for text in (token, f"x{token}y {token} ", f"{token}{token}\n{token[:-1]}", f"{token}{following}{token[1:]}")
    ]


def _unknown_part(component: Settings, known: dict[str, dict[str, tuple[Any, ...]]]) -> str | None:
    kind = component.get("type")
    if kind not in known:
        return str(kind)
    for field in sorted(component.keys() | known[kind].keys(), key=str):
        if field not in _WITHOUT_EFFECT and component.get(field) not in known[kind].get(field, ()):
            return f"{kind} with {field} {json.dumps(component.get(field))[:60]}"
    return None

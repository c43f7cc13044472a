"""Tokenization: one shard -> one token shard.

``load_tokenizer`` finds what a tokenizer is; ``tokenize_shard`` reads lines, keeps the bad ones aside, encodes the
good ones with BOS and EOS exactly once, and commits.
"""

from cpt_core.tokenization.quality import quarantined_by_reason, require_few_bad_lines
from cpt_core.tokenization.shard import token_key_parts, tokenize_shard
from cpt_core.tokenization.tokenizer import TextTokenizer, load_tokenizer, remember_tokenizer

__all__ = [
    "TextTokenizer",
    "load_tokenizer",
    "quarantined_by_reason",
    "remember_tokenizer",
    "require_few_bad_lines",
    "token_key_parts",
    "tokenize_shard",
]

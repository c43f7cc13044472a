"""Tokenization: one shard -> one token shard.

``load_tokenizer`` finds what a tokenizer is, ``choose_backend`` which engine encodes; ``tokenize_shard`` reads lines,
keeps the bad ones aside, encodes the good ones with BOS and EOS exactly once, and commits.
"""

from cpt_core.tokenization.backend import choose_backend
from cpt_core.tokenization.carried import tokenizer_here
from cpt_core.tokenization.quality import (
    describe_reasons,
    noticed,
    quarantined_by_file,
    quarantined_by_reason,
    require_few_bad_lines,
)
from cpt_core.tokenization.quarantine import RejectedLine, read_rejected_lines
from cpt_core.tokenization.remembered import recall_tokenizer
from cpt_core.tokenization.repairs import place_of, with_repairs
from cpt_core.tokenization.shard import ShardProgress, find_tokens, token_key_parts, tokenize_shard
from cpt_core.tokenization.tokenizer import TextTokenizer, load_tokenizer, remember_tokenizer

__all__ = [
    "RejectedLine",
    "ShardProgress",
    "TextTokenizer",
    "choose_backend",
    "describe_reasons",
    "find_tokens",
    "load_tokenizer",
    "noticed",
    "place_of",
    "quarantined_by_file",
    "quarantined_by_reason",
    "read_rejected_lines",
    "recall_tokenizer",
    "remember_tokenizer",
    "require_few_bad_lines",
    "token_key_parts",
    "tokenize_shard",
    "tokenizer_here",
    "with_repairs",
]

"""Tokenization: one shard -> one token shard.

``load_tokenizer`` finds what a tokenizer is; ``tokenize_shard`` reads lines, keeps the bad ones aside, encodes the
good ones with BOS and EOS exactly once, and commits.
"""

from cpt_core.tokenization.shard import token_key_parts, tokenize_shard
from cpt_core.tokenization.tokenizer import TextTokenizer, load_tokenizer

__all__ = ["TextTokenizer", "load_tokenizer", "token_key_parts", "tokenize_shard"]

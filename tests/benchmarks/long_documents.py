"""Long documents: one line of ever more bytes -> a committed token shard."""

from tests.benchmarks.materials import kernel_corpus, tokenizer_folder
from tests.benchmarks.measure import Contender, Subject

TEXT_MB, QUICK_TEXT_MB = (1, 4, 16, 40, 100), (1, 4)
UNBROKEN_MB, QUICK_UNBROKEN_MB = (1, 4, 16, 100), (1, 4)
CORPUS_BYTES = 200_000_000
KINDS = {
    "text": "text",
    "unbroken": "text without white space",
    "one character": "one character",
}

_NOTES = """
One document in one line of jsonl, Llama-3.1's tokenizer, by this process alone, whose engine has not met a word when a
repeat starts; the corpus is the Linux kernel, its files one after the other. Longer stretches without a space or line
break between two letters than tokenization.max_unbroken_characters (16 million by default) are not encoded but
quarantined.
"""


def subject(quick: bool) -> Subject:
    """One contender a kind of text and a size."""
    corpus = str(kernel_corpus(CORPUS_BYTES // 10 if quick else CORPUS_BYTES))
    common = {"corpus": corpus, "tokenizer": str(tokenizer_folder())}
    unbroken = QUICK_UNBROKEN_MB if quick else UNBROKEN_MB
    sizes = {"text": QUICK_TEXT_MB if quick else TEXT_MB, "unbroken": unbroken, "one character": unbroken}
    return Subject(
        name="long documents",
        title="Long documents",
        unit="MB/s",
        contenders=[
            Contender(f"{size_mb} MB of {name}", "tokenize_long", common | {"kind": kind, "size_mb": size_mb})
            for kind, name in KINDS.items()
            for size_mb in sizes[kind]
        ],
        facts={"seconds": "seconds", "tokens": "tokens", "quarantined": "quarantined"},
        notes=_NOTES.strip(),
    )

"""Growth: the data half of the job on ever more text, as a user runs it from the shell."""

from tests.benchmarks.materials import kernel_corpus
from tests.benchmarks.measure import Contender, Subject

SIZES_MB, QUICK_SIZES_MB = (100, 200, 400, 600, 800, 1200), (20, 80)
SHARD_SIZE, DEFAULT_SHARD_SIZE = "32MB", "256MB"
WORKERS = 2

_NOTES = """
`cpt prepare` from the shell: Prefect's embedded server, discovery, tokenization by two worker processes, index, packed
rows of 8,192 tokens. Corpus: sources and documentation of the Linux kernel, Llama-3.1's tokenizer. Memory is that of
all processes together, the server among them; seconds include their start, which weighs on the small sizes. Shards of
32 MB, so that the smallest corpus has work for both workers; the largest also in shards of the default size.
"""


def subject(quick: bool) -> Subject:
    """One contender a size."""
    sizes = [(size_mb, SHARD_SIZE) for size_mb in (QUICK_SIZES_MB if quick else SIZES_MB)]
    if not quick:
        sizes.append((SIZES_MB[-1], DEFAULT_SHARD_SIZE))
    return Subject(
        name="growth",
        title="Growth of time and memory",
        unit="MB/s",
        contenders=[_prepare(size_mb, shard_size) for size_mb, shard_size in sizes],
        facts={"size_mb": "MB", "seconds": "seconds", "tokens": "tokens", "padding": "padding"},
        repeats=3,
        quick_repeats=1,
        notes=_NOTES.strip(),
    )


def _prepare(size_mb: int, shard_size: str) -> Contender:
    corpus = str(kernel_corpus(size_mb * 1_000_000))
    arguments = {"corpus": corpus, "workers": WORKERS, "shard_size_bytes": shard_size}
    return Contender(
        f"cpt prepare, {size_mb:,} MB in shards of {shard_size}", "prepare_ours", arguments, starts_commands=True
    )

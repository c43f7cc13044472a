"""What a stage has done, in one line: the same on the screen of a run and for what the store had already.

In: artifacts.
Out: text for people.
"""

from typing import Any

from cpt_core.artifacts import Artifact
from cpt_core.printable import printable
from cpt_core.tokenization import describe_reasons, noticed, quarantined_by_reason

FILES_SHOWN = 3
_NOTICED = {
    "maybe_truncated": ("file", " that may be cut off"),
    "byte_order_marks": ("byte order mark", ""),
    "documents_with_nul": ("document", " with NUL"),
    "documents_with_special_tokens": ("document", " with a special token as text"),
    "files_without_documents": ("file", " without a document"),
}


def describe_repeated(repeated: list[dict[str, str]]) -> str:
    """Which input files have the content of another, in one line: all their documents count."""
    shown = ["{source} {file} is {first_source} {first_file}".format_map(each) for each in repeated[:FILES_SHOWN]]
    shown += [f"and {len(repeated) - FILES_SHOWN:,} more"] if len(repeated) > FILES_SHOWN else []
    who = f"{counted(len(repeated), 'input file')} {'repeats' if len(repeated) == 1 else 'repeat'}"
    whose = "its" if len(repeated) == 1 else "their"
    return printable(f"{who} the content of another, and {whose} documents count again: {'; '.join(shown)}")


def describe_tokens(tokens: list[Artifact]) -> str:
    """The stage in one line."""
    cached = sum(artifact.is_cached for artifact in tokens)
    documents, num_tokens = (sum(artifact.counts[name] for artifact in tokens) for name in ("documents_out", "tokens"))
    reasons = describe_reasons(quarantined_by_reason(tokens))
    return (
        f"{counted(len(tokens) - cached, 'shard')} computed, {cached:,} cached; {counted(documents, 'document')}, "
        f"{counted(num_tokens, 'token')}, "
        f"quarantined: {reasons or 'none'}{describe_noticed(noticed(tokens), before='; ')}"
    )


def describe_noticed(counts: dict[str, int], before: str = "") -> str:
    """What was no fault and is worth a look, after ``before``; nothing when there is nothing."""
    shown = [f"{counted(counts[name], noun)}{what}" for name, (noun, what) in _NOTICED.items() if name in counts]
    return f"{before}noticed: {', '.join(shown)}" if shown else ""


def describe_index(index: Artifact) -> str:
    """The stage in one line."""
    how = "cached" if index.is_cached else "computed"
    documents = counted(index.counts["documents"], "document")
    return f"{how}; {documents} of {counted(len(index.counts['sources']), 'source split')}"


def describe_packed(packed: list[Artifact]) -> str:
    """The stage in one line."""
    cached = sum(artifact.is_cached for artifact in packed)
    rows, padding = (sum(artifact.counts[name] for artifact in packed) for name in ("rows", "padding_tokens"))
    row_len_tokens = packed[0].counts["row_len_tokens"] if packed else 0
    fraction = padding / (rows * row_len_tokens) if rows else 0.0
    return (
        f"{counted(len(packed) - cached, 'group')} computed, {cached:,} cached; "
        f"{counted(rows, 'row')} of {row_len_tokens:,} tokens, "
        f"padding {fraction:.2%}"
    )


def describe_losses(losses: Artifact, which: str) -> str:
    """The stage in one line."""
    how = ", cached" if losses.is_cached else ""
    listed = ", ".join(f"{source} {score['loss']:.4f}" for source, score in losses.counts["sources"].items())
    return f"{which} model{how}: held-out loss {listed}"


def describe_step(metrics: dict[str, Any]) -> str:
    """One step in words."""
    mfu = f", MFU {metrics['mfu']:.1%}" if metrics.get("mfu") is not None else ""
    return (
        f"loss {metrics['loss']:.4f}, learning rate {metrics['learning_rate']:.2e}, "
        f"{metrics['tokens_per_second']:,.0f} tokens/s{mfu}"
    )


def describe_training(trained: Artifact) -> str:
    """The stage in one line."""
    counts = trained.counts
    steps, processes = counted(counts["steps"], "step"), counted(counts["world_size"], "process", "processes")
    how = "cached" if trained.is_cached else f"{steps} by {processes}"
    return f"{how}; loss {counts['first_loss']:.4f} -> {counts['final_loss']:.4f}, {counts['tokens_seen']:,} tokens"


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number with its word: 1 step, 40 steps."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"

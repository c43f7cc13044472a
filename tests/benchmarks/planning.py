"""What a run would do, for a corpus that nobody has at hand."""

from tests.benchmarks.measure import Contender, Subject

SHARDS, QUICK_SHARDS = 1_000_000, 50_000

_NOTES = """
The planner behind `cpt plan` is given a manifest of made-up shards of 52.5 MB each (15 million tokens at its guess of
3.5 bytes a token) and an empty store: it computes the key of every shard, asks the store for it and for the nearest
artifact of that name, and keeps one line a shard. Files are not listed. Memory of the manifest itself is in the peak.
"""


def subject(quick: bool) -> Subject:
    """Ours alone, at sizes that show how time and memory grow."""
    largest = QUICK_SHARDS if quick else SHARDS
    return Subject(
        name="plan",
        title="Planning a run",
        unit="shards/s",
        contenders=[
            Contender(f"{shards:,} shards", "plan_run", {"shards": shards}) for shards in (largest // 10, largest)
        ],
        facts={
            "tokens": "tokens",
            "seconds": "seconds",
            "manifest_rss_mb": "of the peak, manifest, MB",
            "peak_rss_mb_of_process": "peak of the process, MB",
            "gpu_hours": "GPU-hours",
        },
        notes=_NOTES.strip(),
    )

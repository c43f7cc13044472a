"""Where a training's results lie: in its record relative to the store, for whoever opens them absolute.

In: the values of a record or a report.
Out: the same with other paths.
Promise: a store that is moved, or mounted elsewhere, finds its models; what lies outside of it keeps its absolute path.
Never: says whether something is there.
"""

from pathlib import Path
from typing import Any

from cpt_core.storage import Store

_PLACES = ("checkpoint_uri", "hf_model_uri")


def for_record(values: dict[str, Any], store: Store) -> dict[str, Any]:
    """Absolute paths that lie in the store become relative to it."""
    root = store.local_path("")
    if root is None:
        return values
    inside = {
        name: str(Path(values[name]).relative_to(root.resolve()))
        for name in _PLACES
        if name in values and Path(values[name]).is_relative_to(root.resolve())
    }
    return values | inside


def from_record(values: dict[str, Any], store: Store) -> dict[str, Any]:
    """Paths that are relative to the store become absolute."""
    root = store.local_path("")
    if root is None:
        return values
    return values | {name: str(root.resolve() / values[name]) for name in _PLACES if name in values}

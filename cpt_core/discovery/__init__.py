"""Discovery: sources -> the manifest of shards.

``discover_sources`` lists the files, cuts large ones at line borders without copying, and identifies each
shard by the sha256 of its bytes, remembered so that an unchanged file is not read again.
``list_sources`` only lists them.
"""

from cpt_core.discovery.counting import DiscoveryProgress, OnProgress
from cpt_core.discovery.discover import discover_sources, list_sources

__all__ = ["DiscoveryProgress", "OnProgress", "discover_sources", "list_sources"]

"""Packing: document index and token shards -> rows of exactly ``row_len_tokens``.

``plan`` decides on numbers alone which piece of which document goes to which row; ``groups`` decides which shards
are packed together; ``rows`` moves the tokens; ``stage`` commits.
"""

from cpt_core.packing.groups import PackGroup, plan_pack_groups
from cpt_core.packing.stage import pack_group, pack_key_parts

__all__ = ["PackGroup", "pack_group", "pack_key_parts", "plan_pack_groups"]

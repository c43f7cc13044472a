"""The only door to file systems: input files to read, and the store to commit to.

In: URIs (``/a/b``, ``s3://bucket/key``, ``memory://x``) and, for the store, names relative to its root.
Out: listings sorted bytewise, byte streams, files published whole.
Promise: a published file is complete, durable and never replaced; two writers of one name cannot both win.
Never: renames a folder to publish it, trusts a clock, or leaves a half-written file under a final name.

``inputs`` reads what users own; ``store`` keeps what the pipeline makes, on a ``local_folder`` or an ``object_store``;
``durable`` writes files that survive, ``owners`` knows whose temporary files nobody will finish, ``failures`` says what
an error of the file system means; ``local_inputs`` walks folders and follows links or not; ``filesystem`` knows
fsspec; ``s3`` makes s3fs keep these promises, with ``retrying`` and ``s3_errors``.
"""

from cpt_core.storage.filesystem import CHUNK_BYTES, sha256_of
from cpt_core.storage.inputs import FileStat, expand, open_input, require_utf8, stat_input
from cpt_core.storage.store import DAMAGED_FOLDER, Store

__all__ = [
    "CHUNK_BYTES",
    "DAMAGED_FOLDER",
    "FileStat",
    "Store",
    "expand",
    "open_input",
    "require_utf8",
    "sha256_of",
    "stat_input",
]

"""Every table that crosses a stage: its columns, their units, and the check at the boundary.

Token shard, one row a document::

    input_ids    large_list<int32>  BOS + text + EOS
    num_tokens   int32              length of input_ids, so that indexing need not decode them
    line         int64              line in the input file, from 1 (row number for parquet input)
    byte_offset  int64              start of that line in the uncompressed input file (-1 for parquet input)

Quarantine, one row a rejected line, beside the token shard that needs it::

    line, byte_offset               as above
    size_bytes   int64              length of the line without its line end
    sha256       string             of the whole line without its line end, in hexadecimal
    reason       string             code, see cpt_core.tokenization.parsing
    detail       string             what was wrong, without any document text
    raw          binary             the line itself, capped

What stands for the line of parquet input is the row's text; a null has no bytes.

The file's name is in neither: equal bytes under another path are the same artifact. `cpt quarantine` joins it from the
manifest.

Document index, one row a document, in order of (source, shard, row)::

    source       string             name of the source
    shard        int32              ordinal of the shard within its source
    row          int64              row in the token shard
    num_tokens   int32
    split        string             train | held_out

Shard totals, beside the document index, one row a token shard::

    source, shard                   as above
    tokens_key   string             key of the token shard
    train_documents, train_tokens, held_out_documents, held_out_tokens   int64

Packed shard, one row a training row::

    input_ids    list<int32>        exactly row_len_tokens ids; padding only at the end
    seq_lengths  list<int32>        lengths of the segments, padding included as the last: they sum to row_len_tokens
    num_tokens   int32              ids that are not padding
    pieces       list<struct>       for each segment that is not padding: where its tokens come from
        source      string
        tokens_key  string          first 12 digits of the key of the token shard; an ordinal would change
                                    whenever a file is added before it
        document    int64           row in the token shard
        first_token int64           of the document
        num_tokens  int32
"""

import pyarrow as pa

from cpt_core.errors import StoreError

_ITEM = "element"
"""Items that cannot be null are written and read faster."""

TOKEN_SHARD = pa.schema(
    [
        pa.field("input_ids", pa.large_list(pa.field(_ITEM, pa.int32(), nullable=False)), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("byte_offset", pa.int64(), nullable=False),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),
        pa.field("byte_offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("raw", pa.binary(), nullable=False),
    ]
)

DOCUMENT_INDEX = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)

SHARD_TOTALS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("tokens_key", pa.string(), nullable=False),
        *[
            pa.field(f"{split}_{unit}", pa.int64(), nullable=False)
            for split in ("train", "held_out")
            for unit in ("documents", "tokens")
        ],
    ]
)

PIECE = pa.struct(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("tokens_key", pa.string(), nullable=False),
        pa.field("document", pa.int64(), nullable=False),
        pa.field("first_token", pa.int64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
    ]
)

PACKED_SHARD = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.field(_ITEM, pa.int32(), nullable=False)), nullable=False),
        pa.field("seq_lengths", pa.list_(pa.field(_ITEM, pa.int32(), nullable=False)), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("pieces", pa.list_(pa.field(_ITEM, PIECE, nullable=False)), nullable=False),
    ]
)

TRAIN = "train"
HELD_OUT = "held_out"
_REMEDY = "delete this artifact's folder and run again"


def require_columns(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    """Raise ``StoreError`` unless ``found`` has the names of ``expected``, in order, with equal types.

    Only names and types of the top level are compared: parquet renames the item field of a list.
    """
    if found.names != expected.names:
        raise StoreError(f"{where}: columns are {found.names}, expected {expected.names}; {_REMEDY}")
    for name in expected.names:
        found_type, expected_type = found.field(name).type, expected.field(name).type
        if _item_type(found_type) != _item_type(expected_type):
            raise StoreError(f"{where}: column {name} is {found_type}, expected {expected_type}; {_REMEDY}")


def _item_type(data_type: pa.DataType) -> str:
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        return f"list<{_item_type(data_type.value_type)}>"
    if pa.types.is_struct(data_type):
        fields = ",".join(f"{field.name}:{_item_type(field.type)}" for field in data_type)
        return f"struct<{fields}>"
    return str(data_type)

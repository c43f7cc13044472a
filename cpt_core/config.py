"""The configuration of a run: one frozen model, one section a stage.

In: plain values, as a YAML file gives them.
Out: ``PipelineConfig``, validated across its sections; the schema that the Prefect UI shows as a form.
Promise: an unknown key, a wrong value or a contradiction is refused, with field, value and expectation.
Never: reads a file, looks at the machine, or holds a knob twice.

The sentence under a field is its documentation, in the form and in the JSON schema.
"""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from cpt_core.errors import ConfigError

Bytes = Annotated[ByteSize, WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]})]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every section: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SourceConfig(Section):
    """A named set of input files."""

    name: Name
    """Name of the source; begins the names of its shards."""
    uris: Annotated[list[str], Field(min_length=1)]
    """Directories, files or globs, on any file system that fsspec knows. A directory stands for all .jsonl,
    .jsonl.gz, .jsonl.zst and .parquet files below it."""
    text_field: str = "text"
    """Field (or parquet column) that holds the document's text."""
    held_out_fraction: Fraction = 0.0
    """Fraction of the documents kept out of training for evaluation; 1.0 makes the source evaluation only."""


class DiscoveryConfig(Section):
    """Which files there are."""

    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    """The corpora, each packed apart from the others."""
    fingerprint_inputs: Literal["content", "stat"] = "content"
    """content: an input is identified by the sha256 of its bytes. stat: by path, size and modification time,
    for corpora too large to be read twice; line numbers then count from the start of a cut file's shard."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [source.name for source in self.sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"source names must differ, but {', '.join(repeated)} stands more than once")
        return self


class TokenizationConfig(Section):
    """From text to token ids."""

    tokenizer: str
    """A folder with tokenizer.json, or a hub id together with `revision`."""
    revision: str | None = None
    """Commit of the hub repository; required for a hub id, meaningless for a folder."""
    add_bos: bool = True
    """Put exactly one BOS before each document, where the tokenizer has one."""
    add_eos: bool = True
    """Put exactly one EOS after each document."""
    bos_token: str | None = None
    """Overrides the tokenizer's own BOS token."""
    eos_token: str | None = None
    """Overrides the tokenizer's own EOS token (instruct tokenizers name the end of a turn, not of a document)."""
    shard_size_bytes: Annotated[Bytes, Field(ge=1024)] = ByteSize(256_000_000)
    """Larger .jsonl files are cut into ranges of about this size, in bytes, at line borders."""
    max_bad_fraction: Fraction = 0.0
    """The run fails at the end of tokenization when more than this fraction of all documents was quarantined."""
    backend: Literal["auto", "huggingface"] = "auto"
    """Encoding engine; auto takes the fastest one that gives the ids of the tokenizers library."""


class PackingConfig(Section):
    """From documents to rows of the context length."""

    row_len_tokens: Annotated[int, Field(ge=2, le=2**24)] = 8192
    """Length of every training row, in tokens."""
    strategy: Literal["best_fit", "greedy", "concat"] = "best_fit"
    """best_fit: best-fit-decreasing over the length histogram. greedy: next document into the current row while
    it fits. concat: one stream cut at every row_len_tokens."""
    long_documents: Literal["split", "truncate", "drop"] = "split"
    """What to do with a document longer than a row; dropped tokens are counted."""
    seed: int = 3407
    """Seed of the order of rows within a packed shard, and of the choice of held-out documents."""
    group_size_tokens: Annotated[int, Field(ge=1)] = 2**26
    """Documents are packed in groups of shards of about this many tokens: bounds memory, about 12 bytes a token."""


class LauncherConfig(Section):
    """How the training processes are started."""

    kind: Literal["local", "env"] = "local"
    """local: processes on this machine. env: the cluster starts the same command once a node, with
    $WORLD_SIZE (nodes), $RANK (this node), $MASTER_ADDR and $MASTER_PORT."""
    num_nodes: PositiveInt = 1
    """Number of nodes."""
    processes_per_node: PositiveInt = 1
    """Training processes on each node: one for each GPU."""
    environment: dict[str, str] = {}
    """Variables added to the environment of every process, such as NCCL_SOCKET_IFNAME. No secrets: it is recorded."""
    timeout_seconds: PositiveInt = 1800
    """How long a collective operation may wait for a rank before the job fails, in seconds."""

    @property
    def world_size(self) -> int:
        """Number of training processes in all."""
        return self.num_nodes * self.processes_per_node

    @model_validator(mode="after")
    def _local_is_one_node(self) -> Self:
        if self.kind == "local" and self.num_nodes != 1:
            raise ValueError(f"kind local is one machine, but num_nodes is {self.num_nodes}; use kind env")
        return self


class TrainingConfig(Section):
    """From packed rows to a further-trained model."""

    model: str
    """A transformers folder, or a hub id together with `revision`. A folder with config.json but no weights is
    initialised from `seed`."""
    revision: str | None = None
    """Commit of the hub repository; required for a hub id, meaningless for a folder."""
    num_train_epochs: PositiveInt = 1
    """How often every row is seen. Ignored when max_steps is set."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps, whatever that is in epochs."""
    global_batch_rows: PositiveInt = 512
    """Rows in one optimizer step, over all ranks and accumulation steps."""
    micro_batch_rows: PositiveInt = 4
    """Rows that one process passes through the model at once."""
    learning_rate: PositiveFloat = 4.0e-5
    """Peak learning rate."""
    min_learning_rate: NonNegativeFloat = 0.0
    """Learning rate at the end of the decay."""
    warmup_steps: NonNegativeInt = 50
    """Steps of linear rise from 0 to the peak."""
    lr_scheduler: Literal["cosine", "linear", "constant", "warmup_stable_decay"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Last fraction of all steps in which warmup_stable_decay falls linearly."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay, on matrices only: never on norms and biases."""
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    adam_eps: PositiveFloat = 1.0e-8
    """AdamW's epsilon."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm; 0 switches clipping off."""
    zero_stage: Literal[0, 1, 2, 3] = 3
    """What DeepSpeed partitions over the ranks: 1 optimizer, 2 gradients as well, 3 weights as well."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Number format of weights and activations; bf16 keeps fp32 master weights."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass to save memory."""
    document_borders: bool = True
    """Attention and positions stop at document borders."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation of transformers; it is probed at the start and refused if it ignores borders."""
    save_steps: PositiveInt = 500
    """A checkpoint is sealed every so many steps."""
    keep_last: Annotated[int, Field(ge=2)] = 2
    """How many sealed checkpoints are kept."""
    seed: int = 3407
    """Seed of the row order and of everything random in training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where torch finds it."""
    peak_tflops: PositiveFloat | None = None
    """Peak of one device in TFLOP/s for the precision in use, for MFU; None means MFU is not reported."""
    tensorboard: bool = False
    """Also write the metrics as TensorBoard events (needs the extra `track`)."""
    output_dir: str | None = None
    """Folder on a file system that all nodes share, for checkpoints and logs; by default inside the store, and
    required when the store is not a folder."""
    launcher: LauncherConfig = LauncherConfig()
    """How the processes are started."""

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches of each process in one optimizer step."""
        return self.global_batch_rows // (self.micro_batch_rows * self.launcher.world_size)

    @model_validator(mode="after")
    def _global_batch_divides(self) -> Self:
        rows_at_once = self.micro_batch_rows * self.launcher.world_size
        if self.global_batch_rows % rows_at_once:
            raise ValueError(
                f"global_batch_rows is {self.global_batch_rows}, expected a multiple of num_nodes x processes_per_node"
                f" x micro_batch_rows = {self.launcher.num_nodes} x {self.launcher.processes_per_node}"
                f" x {self.micro_batch_rows} = {rows_at_once}"
            )
        return self

    @model_validator(mode="after")
    def _minimum_below_peak(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate is {self.min_learning_rate}, expected at most learning_rate = {self.learning_rate}"
            )
        return self


class EvaluationConfig(Section):
    """Loss on held-out documents, before and after training."""

    max_rows_per_source: PositiveInt = 64
    """At most this many held-out rows of each source are scored."""


class OrchestrationConfig(Section):
    """How the stages are run; changes no result."""

    runner: Literal["threads"] = "threads"
    """Where shards are computed."""
    workers: NonNegativeInt = 0
    """Shards computed at the same time; 0 means one for each core."""


class PipelineConfig(Section):
    """A whole run: five steps and their evaluation."""

    name: Name
    """Readable prefix of artifact folders and run names."""
    store_uri: str
    """Where artifacts live: a folder or any fsspec URI."""
    discovery: DiscoveryConfig
    """Which files there are."""
    tokenization: TokenizationConfig
    """From text to token ids."""
    packing: PackingConfig = PackingConfig()
    """From documents to rows."""
    training: TrainingConfig | None = None
    """From rows to a model; may be absent when only data are prepared."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Loss on held-out documents."""
    orchestration: OrchestrationConfig = OrchestrationConfig()
    """How the stages are run."""

    def require_training(self) -> TrainingConfig:
        """The training section.

        Raises:
            ConfigError: when there is none.
        """
        if self.training is None:
            raise ConfigError("training is missing; add a training section with the key `model`, or use `cpt prepare`")
        return self.training

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
    model_validator,
)

from cpt_core.config_values import Bytes, Commit, DeepSpeedSettings, Fraction, Name, Uri
from cpt_core.errors import ConfigError
from cpt_core.redaction import secret_in_variable


class Section(BaseModel):
    """Base of every section: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SourceConfig(Section):
    """A named set of input files."""

    name: Name
    """Name of the source; begins the names of its shards."""
    uris: Annotated[list[Uri], Field(min_length=1)]
    """Directories, files or globs, on any file system that fsspec knows. A directory stands for all .jsonl,
    .jsonl.gz, .jsonl.zst and .parquet files below it."""
    text_field: str = "text"
    """Field (or parquet column) that holds the document's text."""
    follow_links: bool = False
    """Read what symbolic links inside a directory or a glob lead to, also outside of it (download caches are made of
    links). Otherwise such a link is refused by name."""
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
    revision: Commit | None = None
    """Commit of the hub repository, 40 hexadecimal digits; required for a hub id, meaningless for a folder."""
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
    repairs: str | None = None
    """A JSONL file with repaired lines, made by `cpt quarantine show CONFIG --write FILE`; its replacements are read
    in place of the rejected lines, and only the shards that hold them are computed again."""
    backend: Literal["auto", "gigatoken", "huggingface"] = "auto"
    """Encoding engine. auto: gigatoken where it gives the ids of the tokenizers library for this very tokenizer,
    which is checked once a store for corpora from 64 MB on. About one document in 1,000, or 65,536 characters anywhere
    in a longer one, is encoded by both all the same. huggingface: the tokenizers library."""
    max_line_bytes: Annotated[Bytes, Field(ge=1024)] = ByteSize(256_000_000)
    """Longer lines are quarantined without being held in memory, in bytes; so are longer texts of parquet."""
    max_unbroken_characters: PositiveInt = 16_000_000
    """A document with more characters than this without a space or line break between two letters is quarantined: it
    cannot be encoded in pieces, and every character would take 30 to 100 bytes of memory."""
    max_decompression_ratio: Annotated[float, Field(ge=1.0)] = 250.0
    """A compressed file that grows by more than this factor fails as a bomb; so does parquet."""
    max_decompressed_bytes: Annotated[Bytes, Field(ge=1024)] = ByteSize(1_000_000_000_000)
    """A compressed file that grows to more than this fails as a bomb, in bytes."""


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
    group_size_tokens: Annotated[int, Field(ge=1)] = 2**25
    """Documents are packed in groups of shards of about this many tokens: bounds memory, about 8 bytes a token."""


class KubernetesConfig(Section):
    """What a pod needs beside the job itself."""

    image: str
    """Container image with this very release installed."""
    python: str = "python"
    """The interpreter inside the image."""
    namespace: Name = "default"
    """Namespace of the PyTorchJob."""
    volume_claim: Name
    """PersistentVolumeClaim with the store, the model and output_dir, which every pod mounts."""
    mount_path: str
    """Where the claim is mounted; the same path as on the machine that writes the manifest."""
    gpus_per_pod: NonNegativeInt | None = None
    """GPUs that each pod asks for; by default one for each process."""
    cpus_per_pod: PositiveInt | None = None
    """CPU cores that each pod asks for; by default none in particular."""
    memory_per_pod: str | None = None
    """Memory that each pod asks for, such as 512Gi; by default none in particular."""
    environment_secret: Name | None = None
    """Secret whose entries become environment variables; the place for keys and tokens."""


class LauncherConfig(Section):
    """How the training processes are started."""

    kind: Literal["local", "env", "hostfile", "slurm", "kubernetes"] = "local"
    """local: processes on this machine. env: the cluster starts the same command once a node, with
    $WORLD_SIZE (nodes), $RANK (this node), $MASTER_ADDR and $MASTER_PORT. hostfile: DeepSpeed's launcher, over ssh.
    slurm: a batch job. kubernetes: a PyTorchJob of the Kubeflow training operator."""
    num_nodes: PositiveInt = 1
    """Number of nodes."""
    processes_per_node: PositiveInt = 1
    """Training processes on each node: one for each GPU."""
    environment: dict[str, str] = {}
    """Variables added to the environment of every process, such as NCCL_SOCKET_IFNAME; recorded, so no secrets."""
    carried_environment: list[str] = ["AWS_*", "HF_*", "WANDB_*"]
    """Patterns of variable names of this process that kind hostfile carries to its hosts, in a file that only its
    owner can read and that goes with the job. The place for keys and tokens."""
    timeout_seconds: PositiveInt = 1800
    """How long a collective operation may wait for a rank before the job fails, in seconds. A rank that the others
    have awaited for four fifths of it is ended, and its log shows where it was."""
    silence_seconds: PositiveInt = 30
    """A rank that gives no sign of life for so long is ended together with the job, in seconds; before it has met the
    others, ten times as long. Ranks on a host that does not see the job's folder for three times as long end too."""
    max_restarts: NonNegativeInt = 0
    """How often a job that was broken off is started again by itself, from its newest sealed checkpoint."""
    master_port: Annotated[int, Field(gt=0, lt=65536)] | None = None
    """TCP port on the first node where the processes meet. By default 29500; with slurm made from the job's number."""
    hostfile: str | None = None
    """DeepSpeed's hostfile (lines such as `node1 slots=8`); required with kind hostfile."""
    sbatch_options: list[str] = []
    """Options for sbatch with kind slurm, such as --partition=gpu, --gres=gpu:4 or --time=24:00:00."""
    kubernetes: KubernetesConfig | None = None
    """What a pod needs; required with kind kubernetes."""

    @property
    def world_size(self) -> int:
        """Number of training processes in all."""
        return self.num_nodes * self.processes_per_node

    @model_validator(mode="after")
    def _local_is_one_node(self) -> Self:
        if self.kind == "local" and self.num_nodes != 1:
            raise ValueError(f"kind local is one machine, but num_nodes is {self.num_nodes}; use another kind")
        return self

    @model_validator(mode="after")
    def _environment_holds_no_secret(self) -> Self:
        for name, value in self.environment.items():
            if secret_in_variable(name, value):
                raise ValueError(
                    f"environment: {name} looks like a secret, which would be recorded; take it out and set it where"
                    " the command runs (kind hostfile: carried_environment, kubernetes: environment_secret)"
                )
        return self

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> Self:
        for kind, given in (("hostfile", self.hostfile), ("kubernetes", self.kubernetes)):
            if self.kind == kind and given is None:
                raise ValueError(f"kind is {kind}, but {kind} is missing; add it to the launcher section")
            if self.kind != kind and given is not None:
                raise ValueError(f"{kind} is given, but kind is {self.kind}; set kind: {kind}, or take it out")
        if self.sbatch_options and self.kind != "slurm":
            raise ValueError(f"sbatch_options are given, but kind is {self.kind}; set kind: slurm, or take them out")
        return self


class TrainingConfig(Section):
    """From packed rows to a further-trained model."""

    model: str
    """A transformers folder, or a hub id together with `revision`. A folder with config.json but no weights is
    initialised from `seed`. Code that a model brings along (trust_remote_code) is never run."""
    revision: Commit | None = None
    """Commit of the hub repository, 40 hexadecimal digits; required for a hub id, meaningless for a folder."""
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
    """Steps of linear rise to the peak."""
    warmup_start_learning_rate: NonNegativeFloat = 0.0
    """Where the first warm-up begins: to re-warm a model, the rate at which its pretraining ended."""
    lr_scheduler: Literal["cosine", "linear", "constant", "warmup_stable_decay"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Last fraction of all steps (of each cycle) in which warmup_stable_decay falls linearly."""
    lr_cycles: PositiveInt = 1
    """How often warm-up and decay are run through, in equal parts of all steps; every later cycle re-warms from
    min_learning_rate. num_train_epochs makes it once an epoch."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay, on matrices only, see decay_norms_and_biases."""
    decay_norms_and_biases: bool = False
    """Weight decay also on norms and biases."""
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
    selective_checkpointing: bool = False
    """With gradient_checkpointing: keep the results of matrix products and attention, recompute only what is cheap."""
    document_borders: bool = True
    """Attention and positions stop at document borders."""
    attention: Literal["sdpa", "eager", "flex_attention", "varlen", "flash_attention_2", "flash_attention_3"] = "sdpa"
    """Attention implementation; it is probed at the start and refused if it ignores borders. varlen: torch's
    variable-length flash attention, without a mask. flash_attention_2 and 3 need their packages; the others are those
    of transformers."""
    cross_entropy: Literal["standard", "chunked", "liger"] = "standard"
    """How the loss is computed. chunked: the same in blocks of rows, without copies of all logits in fp32. liger: the
    output layer and the loss fused, without any logits (needs CUDA and liger-kernel)."""
    torch_compile: bool = False
    """Compile the model with torch.compile."""
    overlap_communication: bool | None = None
    """Reduce gradients while the backward pass goes on. None leaves it to DeepSpeed: at zero_stage 3 only."""
    deepspeed: DeepSpeedSettings = {}
    """Further settings of DeepSpeed, as in its own JSON file, such as zero_optimization.offload_optimizer. What the
    recipe decides (optimizer, scheduler, batch sizes, clipping, precision, stage) is refused here by name."""
    profile_steps: NonNegativeInt = 0
    """Record so many steps with torch.profiler, after two others: one Chrome trace a rank in the attempt's folder."""
    save_steps: PositiveInt = 500
    """A checkpoint is sealed every so many steps."""
    keep_last: Annotated[int, Field(ge=2)] = 2
    """How many sealed checkpoints are kept; an older one goes only after a newer one verified."""
    keep_every: PositiveInt | None = None
    """Checkpoints after a multiple of so many steps are kept for good as well."""
    resume_from: str | None = None
    """Folder of a sealed checkpoint of another training to go on from, such as …/checkpoints/step-0000500. A run that
    was cut off needs none: it goes on from its own newest checkpoint."""
    accept_changes: tuple[str, ...] = ()
    """Fields that may differ from the training of resume_from: dataset, model, or keys of the recipe such as
    learning_rate. Any other difference is refused."""
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
    def _peak_is_highest(self) -> Self:
        for name in ("min_learning_rate", "warmup_start_learning_rate"):
            if getattr(self, name) > self.learning_rate:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected at most learning_rate = {self.learning_rate}"
                )
        return self

    @model_validator(mode="after")
    def _options_have_their_subject(self) -> Self:
        if self.selective_checkpointing and not self.gradient_checkpointing:
            raise ValueError("selective_checkpointing is true, expected gradient_checkpointing: true with it")
        if self.lr_cycles > 1 and self.lr_scheduler == "constant":
            raise ValueError(f"lr_cycles is {self.lr_cycles}, expected 1: lr_scheduler constant has no decay to repeat")
        return self


class EvaluationConfig(Section):
    """Loss on held-out documents, before and after training."""

    max_rows_per_source: PositiveInt = 64
    """At most this many held-out rows of each source are scored."""


class OrchestrationConfig(Section):
    """How the stages are run; changes no result."""

    runner: Literal["threads", "ray", "dask"] = "threads"
    """Where shards are tokenized and packed. threads: on this machine. ray, dask: by the workers of a cluster."""
    runner_address: str | None = None
    """Of a Ray or Dask cluster that runs already, such as tcp://scheduler:8786 or ray://head:10001; by default one of
    `workers` processes is started on this machine and ended again."""
    workers: NonNegativeInt = 0
    """Shards computed at the same time; 0 means one for each core. A cluster that runs already decides by itself."""
    shard_timeout_seconds: PositiveInt = 600
    """A process that gives no sign of life for so long is ended and its shard computed anew, in seconds."""

    @model_validator(mode="after")
    def _threads_have_no_address(self) -> Self:
        if self.runner == "threads" and self.runner_address is not None:
            raise ValueError(
                "runner_address is given, but runner is threads; set runner: ray or runner: dask, or take it out"
            )
        return self


class PipelineConfig(Section):
    """A whole run: five steps and their evaluation."""

    name: Name
    """Readable prefix of artifact folders and run names."""
    store_uri: Uri
    """Where artifacts live: a folder or any fsspec URI."""
    verify: Literal["size", "full"] = "size"
    """What is compared with the record before an artifact is used again. size: the size of each file. full: also the
    sha256 of its bytes, once in a run; `cpt verify` does the same on demand."""
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

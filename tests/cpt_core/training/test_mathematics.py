"""Training by several processes takes the very steps of a plain PyTorch loop in one process.

The loop below shares nothing with the project but the order of rows: it has its own formulas of the learning rate and
knows no packing, each document being a sequence of its own. Rows hold different numbers of trained tokens, so whoever averages
over ranks or micro-batches instead of tokens is a hundred tolerances off. ``make test-matrix`` runs every ZeRO stage at 1, 2 and 4 ranks with 1 and 4
accumulation steps; the suite runs a part.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from cpt_core.config import TrainingConfig
from cpt_core.packed_rows import PackedRows, Row
from cpt_core.storage import Store
from cpt_core.training import train_model
from cpt_core.training.order import FILL, rows_of_step

NUM_ROWS, EPOCHS, GLOBAL_BATCH_ROWS, STEPS = 33, 24, 16, 50
"""The last step has 8 rows to train on and 8 to fill it up."""
LOSS_TOLERANCE = 1e-4
RECIPE: dict[str, Any] = {
    "num_train_epochs": EPOCHS,
    "global_batch_rows": GLOBAL_BATCH_ROWS,
    "learning_rate": 3e-3,
    "min_learning_rate": 3e-4,
    "warmup_steps": 5,
    "adam_betas": (0.8, 0.9),
    "adam_eps": 1e-4,
    "max_grad_norm": 0.5,
    "precision": "fp32",
}
SCHEDULERS = ("cosine", "linear", "constant", "warmup_stable_decay")
IN_THE_SUITE = [
    (0, 4, 4, "cosine"),
    (1, 2, 4, "linear"),
    (2, 1, 4, "constant"),
    (2, 4, 1, "warmup_stable_decay"),
    (3, 2, 1, "linear"),
    (3, 4, 4, "cosine"),
]
OTHERS = [
    (*cell, SCHEDULERS[number % 4])
    for number, cell in enumerate(product((0, 1, 2, 3), (1, 2, 4), (1, 4)))
    if cell not in [each[:3] for each in IN_THE_SUITE]
]
CELLS = [*IN_THE_SUITE, *(pytest.param(*cell, marks=pytest.mark.matrix) for cell in OTHERS)]


def documents_of(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels [documents, longest], one document each; a document's first token is nobody's label."""
    documents = []
    for row in rows:
        start = 0
        for length in row.seq_lengths.tolist():
            if start < row.num_tokens:
                documents.append(row.input_ids[start : start + length].tolist())
            start += length
    longest = max(map(len, documents))
    ids = torch.tensor([document + [0] * (longest - len(document)) for document in documents])
    labels = torch.tensor([[-100, *document[1:]] + [-100] * (longest - len(document)) for document in documents])
    return ids, labels


def rates_of(scheduler: str) -> list[float]:
    """Of RECIPE, step by step: five up to 3e-3, and 45 down towards 3e-4, or 40 level ones and the last five down."""
    warm_up = [6e-4, 1.2e-3, 1.8e-3, 2.4e-3, 3e-3]
    after = {
        "cosine": [3e-4 + 2.7e-3 * math.cos(math.pi * step / 90) ** 2 for step in range(45)],
        "linear": [3e-3 - 6e-5 * step for step in range(45)],
        "constant": [3e-3] * 45,
        "warmup_stable_decay": [3e-3] * 40 + [3e-3, 2.46e-3, 1.92e-3, 1.38e-3, 8.4e-4],
    }
    return warm_up + after[scheduler]


def plain_loop(
    folder: Path,
    rows: PackedRows,
    config: TrainingConfig,
    dtype: torch.dtype,
    rates: list[float],
    *,
    adam: tuple[float, float, float] = (0.8, 0.9, 1e-4),
    longest_gradient: float = 0.5,
) -> list[dict[str, float]]:
    """Loss, gradient norm, learning rate and tokens of every step."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    named = dict(model.named_parameters())
    plain = [name for name in named if "norm" in name]
    groups = [
        {"params": [named[name] for name in named if name not in plain], "weight_decay": 0.1},
        {"params": [named[name] for name in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=adam[:2], eps=adam[2])
    lines = []
    for step, rate in enumerate(rates):
        size = {"num_rows": NUM_ROWS, "rows_total": NUM_ROWS * EPOCHS, "global_batch_rows": GLOBAL_BATCH_ROWS}
        numbers = rows_of_step(step, seed=config.seed, **size)
        ids, labels = documents_of([rows[int(number)] for number in numbers if number != FILL])
        logits = model(input_ids=ids, use_cache=False).logits.float()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), longest_gradient)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        tokens = int((labels != -100).sum())
        lines.append({"loss": loss.item(), "grad_norm": norm.item(), "learning_rate": group["lr"], "tokens": tokens})
    return lines


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, commit_rows: Any) -> PackedRows:
    """All rows."""
    store = Store(str(tmp_path_factory.mktemp("rows")))
    return PackedRows(store, [commit_rows(store, NUM_ROWS, seed=1)])


@pytest.fixture(scope="module")
def references(model_folder: Path, rows: PackedRows) -> Callable[[str], list[dict[str, float]]]:
    """The plain loop in fp32, by scheduler."""
    config = TrainingConfig(model="m", micro_batch_rows=1, **RECIPE)
    return cache(lambda scheduler: plain_loop(model_folder, rows, config, torch.float32, rates_of(scheduler)))


@pytest.fixture
def train(tmp_path: Path, model_folder: Path, tokenizer_folder: Path, commit_rows: Any) -> Any:
    """The stage on the same rows; gives the lines of its metrics."""

    def run(world_size: int, accumulation: int, **values: Any) -> list[dict[str, Any]]:
        store = Store(str(tmp_path / "store"))
        config = TrainingConfig(
            model=str(model_folder),
            micro_batch_rows=GLOBAL_BATCH_ROWS // (world_size * accumulation),
            launcher={"processes_per_node": world_size},
            device="cpu",
            **RECIPE | values,
        )
        assert config.accumulation_steps == accumulation
        lines: list[dict[str, Any]] = []
        train_model(
            [commit_rows(store, NUM_ROWS, seed=1)],
            config,
            store=store,
            name="tiny",
            tokenizer_uri=str(tokenizer_folder),
            on_progress=lines.append,
        )
        return lines

    return run


def test_rows_are_uneven_enough_to_tell(rows: PackedRows, model_folder: Path) -> None:
    """The mean of the rows' means is far from the mean over tokens, so that the comparisons below can fail."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    means, summed, tokens = [], 0.0, 0
    for number in range(GLOBAL_BATCH_ROWS):
        ids, labels = documents_of([rows[number]])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        own = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum").item()
        own_tokens = int((labels != -100).sum())
        means.append(own / max(1, own_tokens))
        summed, tokens = summed + own, tokens + own_tokens
    assert abs(sum(means) / len(means) - summed / tokens) > 100 * LOSS_TOLERANCE


@pytest.mark.parametrize(
    "other",
    [
        {"adam": (0.9, 0.9, 1e-4)},
        {"adam": (0.8, 0.95, 1e-4)},
        {"adam": (0.8, 0.9, 1e-8)},
        {"longest_gradient": math.inf},
    ],
    ids=["first_beta", "second_beta", "epsilon", "clipping"],
)
def test_a_part_of_the_recipe_left_out_would_show(
    model_folder: Path, rows: PackedRows, references: Callable[[str], list[dict[str, float]]], other: dict[str, Any]
) -> None:
    """Each is worth more than a hundred tolerances, so that equality below shows that it reaches the optimizer."""
    config = TrainingConfig(model="m", micro_batch_rows=1, **RECIPE)
    found = plain_loop(model_folder, rows, config, torch.float32, rates_of("cosine"), **other)
    furthest = max(abs(one["loss"] - two["loss"]) for one, two in zip(found, references("cosine"), strict=True))
    assert furthest > 100 * LOSS_TOLERANCE


@pytest.mark.parametrize(("zero_stage", "world_size", "accumulation", "scheduler"), CELLS)
def test_equal_to_plain_pytorch(
    train: Any,
    references: Callable[[str], list[dict[str, float]]],
    zero_stage: int,
    world_size: int,
    accumulation: int,
    scheduler: str,
) -> None:
    """Fifty steps with the losses of the plain loop, and with its learning rates and numbers of tokens."""
    lines, reference = (
        train(world_size, accumulation, zero_stage=zero_stage, lr_scheduler=scheduler),
        references(scheduler),
    )
    assert len(lines) == STEPS
    assert [line["tokens"] for line in lines] == [line["tokens"] for line in reference]
    tolerances = {"learning_rate": 1e-15, "loss": LOSS_TOLERANCE, "grad_norm": 1e-3}
    for name, tolerance in tolerances.items():
        found, expected = ([line[name] for line in of] for of in (lines, reference))
        assert found == pytest.approx(expected, abs=tolerance, rel=0), name


@pytest.mark.parametrize(
    ("zero_stage", "decay_all"),
    [
        *(pytest.param(zero_stage, False, marks=pytest.mark.matrix) for zero_stage in (0, 1, 2)),
        (3, False),
        pytest.param(3, True, marks=pytest.mark.matrix),
    ],
)
def test_weight_decay_alone(
    tmp_path: Path,
    llama_config: LlamaConfig,
    tokenizer_folder: Path,
    commit_rows: Any,
    zero_stage: int,
    decay_all: bool,
) -> None:
    """Documents of one token have no gradient: four steps at rate 0.1 and decay 0.5 leave 0.95 x 0.95 x 0.95 x 0.95 of every
    matrix and embedding, and norms and biases as they were, bit by bit, unless these are to decay as well.
    """
    before = _random_llama(llama_config, tmp_path / "before")
    config = TrainingConfig(
        model=str(tmp_path / "before"),
        max_steps=4,
        global_batch_rows=2,
        micro_batch_rows=1,
        learning_rate=0.1,
        lr_scheduler="constant",
        warmup_steps=0,
        weight_decay=0.5,
        decay_norms_and_biases=decay_all,
        precision="fp32",
        zero_stage=zero_stage,
        device="cpu",
        launcher={"processes_per_node": 2},
    )
    store = Store(str(tmp_path / "store"))
    packed = [commit_rows(store, [[[5]], [[6], [7]]])]
    trained = train_model(packed, config, store=store, name="tiny", tokenizer_uri=str(tokenizer_folder))
    after = load_file(Path(trained.counts["hf_model_uri"], "model.safetensors"))
    decaying = [name for name in before if decay_all or not ("norm" in name or "bias" in name)]
    assert (len(decaying), len(before)) == (35 if decay_all else 16, 35)
    for name, values in before.items():
        if name in decaying:
            torch.testing.assert_close(after[name], values * 0.81450625, rtol=1e-6, atol=0, msg=name)
        else:
            assert torch.equal(after[name], values), name


def _random_llama(config: LlamaConfig, folder: Path) -> dict[str, torch.Tensor]:
    """A model with biases whose every weight is random, so that none is 0; and its weights."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**config.to_dict() | {"attention_bias": True, "mlp_bias": True}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("zero_stage", [0, 1, pytest.param(2, marks=pytest.mark.matrix), 3])
def test_bf16_keeps_fp32_master_weights(train: Any, model_folder: Path, rows: PackedRows, zero_stage: int) -> None:
    """Updates smaller than bf16 can hold add up as in fp32; without master weights most of them are lost."""
    recipe = RECIPE | {"learning_rate": 5e-5, "warmup_steps": 0, "lr_scheduler": "constant", "min_learning_rate": 0.0}
    config = TrainingConfig(model="m", micro_batch_rows=1, **recipe)
    rates = [5e-5] * STEPS
    exact, rounded = (plain_loop(model_folder, rows, config, dtype, rates) for dtype in (torch.float32, torch.bfloat16))
    assert _gain(rounded) < 0.6 * _gain(exact)
    lines = train(2, 2, **recipe | {"precision": "bf16", "zero_stage": zero_stage})
    assert _gain(lines) == pytest.approx(_gain(exact), rel=0.1)
    assert [line["grad_norm"] for line in lines] == pytest.approx([line["grad_norm"] for line in exact], rel=0.05)


def _gain(lines: list[dict[str, float]]) -> float:
    """How far the loss fell on the same rows, from the first epoch to the one before the last."""
    epoch = NUM_ROWS * 2 // GLOBAL_BATCH_ROWS  # two epochs are about four steps
    first, last = lines[:epoch], lines[-epoch - 1 : -1]
    return (sum(line["loss"] for line in first) - sum(line["loss"] for line in last)) / epoch

"""Switches for speed and memory: each changes how a result is computed, and none changes the result."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError
from cpt_core.storage import Store
from cpt_core.training import train_model
from cpt_core.training.flops import ModelFlops
from cpt_core.training.losses import install_loss
from cpt_core.training.model import build_optimizer, load_model
from cpt_core.training.recomputation import enable_checkpointing
from tests.benchmarks.materials import liger_folder

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8, 9, 2, 11, 12]])
LABELS = torch.tensor([[-100, 6, 7, -100, 9, 2, -100, 12]])


def _config(**values: Any) -> TrainingConfig:
    return TrainingConfig(model="m", precision="fp32", zero_stage=0, **values)


class _Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}
        return func(*args, **(kwargs or {}))


def _learn(model: Any, tokens: float = 2.0) -> tuple[float, list[torch.Tensor], int]:
    """Loss, gradients and matrix products of one pass to and fro."""
    model.train()
    model.zero_grad()
    with _Products() as products:
        loss = model(input_ids=IDS, labels=LABELS, use_cache=False, num_items_in_batch=tokens).loss
        loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters()], products.count


def _plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_chunked_cross_entropy_is_the_standard_one(model_folder: Path) -> None:
    """Loss and gradients, with labels to ignore and the number of tokens that training passes on."""
    expected, expected_gradients, _ = _learn(_plain(model_folder))
    chunked = _plain(model_folder)
    install_loss(chunked, _config(cross_entropy="chunked"), CPU)
    found, gradients, _ = _learn(chunked)
    assert type(chunked.loss_function).__name__ == "ChunkedCausalLMLoss"
    assert found == pytest.approx(expected, abs=1e-6)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-5)


def test_chunked_cross_entropy_is_refused_where_a_model_has_its_own(model_folder: Path) -> None:
    """It would take the place of another objective."""
    model = _plain(model_folder)
    model.loss_function = lambda **_: torch.tensor(0.0)
    with pytest.raises(ConfigError, match="cross_entropy is chunked, but model type llama has a loss of its own"):
        install_loss(model, _config(cross_entropy="chunked"), CPU)


def test_liger_is_refused_without_a_gpu(model_folder: Path) -> None:
    """In one line, before a model is trained."""
    with pytest.raises(ConfigError, match="liger-kernel and a CUDA device were not found together; install"):
        install_loss(_plain(model_folder), _config(cross_entropy="liger"), CPU)


LIGER = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
from cpt_core.errors import ConfigError
from cpt_core.training.losses import install_loss
from tests.cpt_core.training.test_speed import _config, _learn, _plain
liger, cuda = _config(cross_entropy="liger"), torch.device("cuda")
expected, expected_gradients, _ = _learn(_plain(sys.argv[1]))
model = _plain(sys.argv[1])
install_loss(model, liger, cuda)
found, gradients, _ = _learn(model)
assert abs(found - expected) < 1e-6, (found, expected)
for gradient, wanted in zip(gradients, expected_gradients, strict=True):
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-5)
told = {"input_ids": torch.tensor([[5, 6]]), "use_cache": False}
assert model(**told, labels=told["input_ids"]).logits is None
assert model.eval()(**told).logits.shape == (1, 2, 64)
try:
    install_loss(AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", hidden_size=32, n_head=2)), liger, cuda)
except ConfigError as error:
    print(error)
"""


@pytest.mark.matrix  # the kernels are fetched by their name
def test_liger_is_the_standard_loss(model_folder: Path) -> None:
    """Its kernels, interpreted on a CPU: loss and gradients, no logits in training, and one line for other models."""
    paths = os.pathsep.join([str(liger_folder()), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, "-c", LIGER, str(model_folder)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == (
        "training.cross_entropy is liger, which does not know model type bloom; use chunked"
    )


def test_selective_checkpointing_recomputes_no_matrix_product(model_folder: Path) -> None:
    """Full checkpointing does those of all layers twice; loss and gradients are the same, bit by bit."""
    found = {}
    for name, values in {
        "nothing": {"gradient_checkpointing": False},
        "full": {},
        "selective": {"selective_checkpointing": True},
    }.items():
        model = _plain(model_folder)
        enable_checkpointing(model, _config(**values))
        found[name] = _learn(model)
    products = {name: count for name, (_, _, count) in found.items()}
    forward_of_layers = 2 * 6  # two layers: queries, keys, values, output, gate, up; nobody needs the result of down
    assert products["full"] == products["nothing"] + forward_of_layers
    assert products["selective"] == products["nothing"]
    for loss, gradients, _ in found.values():
        assert loss == found["nothing"][0]
        assert all(map(torch.equal, gradients, found["nothing"][1]))


@pytest.mark.parametrize(("decay_all", "decaying"), [(False, 0), (True, 1)])
def test_weight_decay_leaves_norms_and_biases_alone_unless_asked(
    tmp_path: Path, llama_config: LlamaConfig, decay_all: bool, decaying: bool
) -> None:
    """Matrices and embeddings decay; here is a model with biases."""
    LlamaConfig(**{**llama_config.to_dict(), "attention_bias": True, "mlp_bias": True}).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(LlamaConfig.from_pretrained(tmp_path))
    adam = {"adam_betas": (0.8, 0.9), "adam_eps": 1e-6}
    optimizer = build_optimizer(model, _config(weight_decay=0.3, decay_norms_and_biases=decay_all, **adam))
    decay = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    small = {name: decay[id(each)] for name, each in model.named_parameters() if "norm" in name or "bias" in name}
    large = {name: decay[id(each)] for name, each in model.named_parameters() if name not in small}
    assert (len(small), set(small.values())) == (5 + 2 * 7, {0.3 * decaying})
    assert (len(large), set(large.values())) == (2 + 2 * 7, {0.3})
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.9), 1e-6)}


def test_model_flops(model_folder: Path) -> None:
    """6 N a token, and 12 L A for every pair of tokens of one document."""
    flops = ModelFlops.of_model(_plain(model_folder))
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48 + 2 * 32  # attention with shared keys, MLP, norms
    assert flops == ModelFlops(num_parameters=2 * layer + 32 + 64 * 32, num_layers=2, attention_size=32)
    assert flops.of_batch(10, 4**2 + 6**2) == 6 * flops.num_parameters * 10 + 12 * 2 * 32 * (16 + 36)
    assert flops.line() == (
        "model FLOPs = 6 x 17,568 parameters x tokens + 12 x 2 layers x 32 x sum of squared document lengths"
    )


def test_a_model_without_the_attention_asked_for(tmp_path: Path, model_folder: Path) -> None:
    """What transformers says about it, in one line."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlstm", "vocab_size": 64, "hidden_size": 32}))
    (tmp_path / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes())
    with pytest.raises(
        ConfigError, match=r"^training\.attention is flash_attention_2: xLSTM.* yet; use another, such as eager$"
    ):
        load_model(tmp_path, _config(attention="flash_attention_2"), {})


@pytest.fixture
def train(tmp_path: Path, model_folder: Path, tokenizer_folder: Path, commit_rows: Any) -> Any:
    """Four steps, by default of two ranks; gives their losses and the attempt's folder."""

    def run(name: str, world_size: int = 2, zero_stage: int = 2, **values: Any) -> tuple[list[float], Path]:
        store = Store(str(tmp_path / name))
        config = TrainingConfig(
            model=str(model_folder),
            max_steps=4,
            global_batch_rows=8,
            micro_batch_rows=2,
            learning_rate=1e-2,
            warmup_steps=0,
            precision="fp32",
            zero_stage=zero_stage,
            device="cpu",
            launcher={"processes_per_node": world_size},
            **values,
        )
        lines: list[dict[str, Any]] = []
        packed = [commit_rows(store, 9)]
        train_model(
            packed, config, store=store, name="t", tokenizer_uri=str(tokenizer_folder), on_progress=lines.append
        )
        (attempt,) = Path(store.root_uri).glob("training_runs/*/attempts/*")
        return [line["loss"] for line in lines], attempt

    return run


def test_all_switches_together(train: Any) -> None:
    """The losses of a run without them; and a trace of each rank's third step."""
    plain, _ = train("plain")
    switched, attempt = train(
        "switched",
        attention="varlen",
        cross_entropy="chunked",
        selective_checkpointing=True,
        overlap_communication=True,
        deepspeed={"zero_optimization": {"reduce_bucket_size": 5000, "allgather_bucket_size": 5000}},
        peak_tflops=0.5,
        profile_steps=1,
    )
    assert switched == pytest.approx(plain, abs=1e-5)
    traces = sorted(attempt.glob("trace-rank-*.json.gz"))
    assert [path.name for path in traces] == ["trace-rank-00000.json.gz", "trace-rank-00001.json.gz"]
    names = Counter(event["name"] for event in json.loads(gzip.decompress(traces[1].read_bytes()))["traceEvents"])
    assert names["ProfilerStep#2"] == 1
    assert names["aten::mm"] > 0
    log = (attempt / "rank-00000.log").read_text()
    assert "model FLOPs = 6 x 17,568 parameters x tokens + 12 x 2 layers x 32 x sum of squared document lengths" in log
    assert "% = model FLOPs / " in log
    assert "(2 devices x 0.5 TFLOP/s)" in log


@pytest.mark.matrix  # compiling takes minutes on a small machine
def test_a_compiled_model(train: Any) -> None:
    """Compilation changes no loss; the probe of borders runs on the compiled model."""
    options = {"zero_stage": 1, "world_size": 1, "gradient_checkpointing": False}
    plain, _ = train("plain", **options)
    compiled, _ = train("compiled", **options, torch_compile=True)
    assert compiled == pytest.approx(plain, abs=1e-5)

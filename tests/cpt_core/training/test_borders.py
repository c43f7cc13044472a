"""Documents in one row do not see each other: positions, labels, attention, logits, loss."""

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, modeling_flash_attention_utils

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError
from cpt_core.packed_rows import Row, batch_of, empty_row
from cpt_core.training import attention as attention_module
from cpt_core.training.attention import _by_segment, require_attention, segment_arguments, varlen_attention
from cpt_core.training.loop import Run, _model_inputs
from cpt_core.training.probe import require_borders, require_loss_scaling
from cpt_core.training.ranks import Ranks

ROW = Row(np.array([5, 6, 7, 8, 9, 2, 0, 0]), np.array([3, 1, 2, 2], dtype=np.int32), 6)
"""Documents of three tokens, one and two, and two of padding."""
OTHER_ROW = Row(np.array([11, 12, 13, 14, 15, 16, 17, 2]), np.array([7, 1], dtype=np.int32), 8)
CPU = torch.device("cpu")


def _load(folder: Path, attention: str) -> Any:
    AttentionInterface.register("varlen", varlen_attention)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    model.config.use_cache = False
    return model.eval()


def _forward(model: Any, rows: list[Row], *, borders: bool = True, **more: Any) -> Any:
    """The call that training makes."""
    batch = batch_of(rows, document_borders=borders)
    inputs = {name: torch.from_numpy(getattr(batch, name)) for name in ("input_ids", "position_ids", "labels")}
    segments = segment_arguments(model.config._attn_implementation, batch.seq_lengths, CPU)
    return model(**inputs, **segments, **more, num_items_in_batch=1.0, use_cache=False)


def _documents(row: Row) -> list[Row]:
    """Each document as a row of its own, without padding."""
    ends = np.cumsum(row.document_lengths)
    return [
        Row(row.input_ids[end - length : end], np.array([length], dtype=np.int32), int(length))
        for end, length in zip(ends, row.document_lengths, strict=True)
    ]


def test_batch() -> None:
    """Positions restart at every document; no label crosses a border or lies in padding; an EOS is a label."""
    batch = batch_of([ROW, empty_row(8, 0)], document_borders=True)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 2, 0, 0], [0] * 8]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert batch.labels.tolist() == [[-100, 6, 7, -100, -100, 2, -100, -100], [-100] * 8]
    assert batch.num_trained_tokens == 3


def test_batch_without_borders() -> None:
    """Without borders positions run through the row; labels are the same."""
    batch = batch_of([ROW], document_borders=False)
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert batch.labels.tolist() == [[-100, 6, 7, -100, -100, 2, -100, -100]]


def test_an_eos_that_is_also_the_pad_is_trained_on() -> None:
    """The EOS of a document is a label; the same id as padding is not."""
    row = Row(np.array([5, 6, 2, 7, 2, 2, 2, 2]), np.array([3, 2, 3], dtype=np.int32), 5)
    assert batch_of([row], document_borders=True).labels.tolist() == [[-100, 6, 2, -100, 2, -100, -100, -100]]


def test_what_attention_is_told() -> None:
    """Lengths of all segments, padding included, row after row; costs are those of the documents alone."""
    batch = batch_of([ROW, empty_row(8, 0), OTHER_ROW], document_borders=True)
    assert batch.seq_lengths.tolist() == [3, 1, 2, 2, 8, 7, 1]
    assert (batch.num_tokens, batch.sum_squared_lengths) == (14, 9 + 1 + 4 + 49 + 1)
    without = batch_of([ROW, empty_row(8, 0), OTHER_ROW], document_borders=False)
    assert without.seq_lengths.tolist() == [8, 8, 8]
    assert (without.num_tokens, without.sum_squared_lengths) == (14, 36 + 64)


@pytest.mark.parametrize("attention", ["varlen", "flash_attention_2", "flash_attention_3"])
def test_cumulative_lengths(attention: str) -> None:
    """Kernels for sequences of different length get where each begins, and the longest length."""
    told = segment_arguments(attention, np.array([3, 1, 2, 2, 8], dtype=np.int32), CPU)
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        assert told[name].tolist() == [0, 3, 4, 6, 8, 16]
        assert told[name].dtype == torch.int32
    assert (told["max_length_q"], told["max_length_k"]) == (8, 8)
    assert segment_arguments("sdpa", np.array([8], dtype=np.int32), CPU) == {}


def _flash_packages(attend: Any) -> dict[str, ModuleType]:
    """Stand-ins for flash-attn and flash-attn-3, as transformers imports them, with this kernel."""
    padding = {"pad_input": None, "unpad_input": None}
    kernels = {"flash_attn_func": None, "flash_attn_varlen_func": attend, "flash_attn_with_kvcache": None}
    contents = {"flash_attn": kernels, "flash_attn.bert_padding": padding, "flash_attn_interface": kernels}
    packages = {name: ModuleType(name) for name in contents}
    for name, values in contents.items():
        vars(packages[name]).update(values)
    return packages


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3"])
@pytest.mark.parametrize(
    ("rows", "borders", "longest"), [([ROW], [0, 3, 4, 6, 8], 3), ([ROW, OTHER_ROW], [0, 3, 4, 6, 8, 15, 16], 7)]
)
def test_flash_attention_is_told_the_borders_of_documents(
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[Row],
    borders: list[int],
    longest: int,
    attention: str,
) -> None:
    """What comes through transformers to the kernel in both layers when training calls the model, padding as a segment.

    With a kernel that attends as it is told to, logits are those of the documents one by one.
    """
    told: list[Any] = []

    def attend(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float,
        causal: bool,
    ) -> torch.Tensor:
        told.append((len(q), cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), max_seqlen_q, max_seqlen_k, causal))
        return _by_segment(q, k, v, cu_seqlens_q, max_seqlen_q, softmax_scale, None)

    for name, package in _flash_packages(attend).items():
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(modeling_flash_attention_utils, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    alone, model = _load(model_folder, "eager"), _load(model_folder, "eager")
    model.config._attn_implementation = attention
    config = TrainingConfig(model="m", attention=attention)
    run = Run(model, None, None, config, Ranks(0, 1, CPU), 64, None)
    with torch.no_grad():
        found = model(**_model_inputs(run, batch_of(rows, document_borders=True)), num_items_in_batch=1.0)
        expected = [_forward(alone, [document]).logits[0] for row in rows for document in _documents(row)]
    assert told == [(8 * len(rows), borders, borders, longest, longest, True)] * 2
    logits = torch.cat([found.logits[number, : row.num_tokens] for number, row in enumerate(rows)])
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen", "flex_attention"])
def test_packed_row_is_its_documents(model_folder: Path, attention: str) -> None:
    """Logits and loss of a packed row are those of its documents one by one, also beside another row."""
    alone, model = _load(model_folder, "eager"), _load(model_folder, attention)
    rows = [ROW, OTHER_ROW]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # flex would be compiled for half a minute
        expected = [_forward(alone, [document]) for row in rows for document in _documents(row)]
        found = _forward(model, rows)
    logits = torch.cat([found.logits[number, : row.num_tokens] for number, row in enumerate(rows)])
    torch.testing.assert_close(logits, torch.cat([one.logits[0] for one in expected]), atol=1e-5, rtol=0)
    assert float(found.loss) == pytest.approx(sum(float(one.loss) for one in expected), abs=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen", "flex_attention"])
def test_gradients_of_a_packed_row(model_folder: Path, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backward pass stops at borders as well, under gradient checkpointing as in training.

    Torch has a backward pass of flex on a CPU, its own reference, and refuses it there because it cannot compile one.
    """
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    alone, model = _load(model_folder, "eager"), _load(model_folder, attention)
    for document in [*_documents(ROW), *_documents(OTHER_ROW)]:
        if len(document.input_ids) > 1:
            _forward(alone, [document]).loss.backward()
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with torch.compiler.set_stance("force_eager"):
        _forward(model, [ROW, OTHER_ROW]).loss.backward()
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_varlen_without_borders_is_one_document_a_row(model_folder: Path) -> None:
    """Rows never see each other, whatever the documents do."""
    with torch.no_grad():
        plain = _forward(_load(model_folder, "sdpa"), [ROW, OTHER_ROW], borders=False).logits
        told = _forward(_load(model_folder, "varlen"), [ROW, OTHER_ROW], borders=False).logits
    torch.testing.assert_close(told, plain, atol=1e-5, rtol=0)


def test_varlen_with_a_sliding_window() -> None:
    """A token sees the last ``window`` tokens of its document, itself included; heads may share keys."""
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    borders = torch.tensor([0, 4, 6], dtype=torch.int32)
    found, _ = varlen_attention(
        torch.nn.Identity(), query, key, value, None, cu_seq_lens_q=borders, max_length_q=4, sliding_window=2
    )
    seen = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 1, 1, 0, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [0, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 1, 1],
        ]
    ).bool()
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, enable_gqa=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


class _OnGpu(torch.Tensor):
    """A tensor that says so, here where there is none."""

    is_cuda = True


@pytest.mark.parametrize(("sliding_window", "window_size"), [(None, (-1, 0)), (3, (2, 0))])
def test_on_a_gpu_the_kernel_is_told_where_segments_begin(
    monkeypatch: pytest.MonkeyPatch, sliding_window: int | None, window_size: tuple[int, int]
) -> None:
    """Rows laid end to end, borders of both sides, causal (no token to the right), shared keys; its result in rows."""
    told: dict[str, Any] = {}

    def kernel(*arguments: Any, **options: Any) -> torch.Tensor:
        told.update(inspect.signature(varlen_attn).bind(*arguments, **options).arguments)
        return told["query"] + 1

    monkeypatch.setattr(attention_module, "varlen_attn", kernel)
    query, key, value = torch.randn(2, 4, 3, 8).as_subclass(_OnGpu), torch.randn(2, 2, 3, 8), torch.randn(2, 2, 3, 8)
    borders = torch.tensor([0, 2, 3, 6], dtype=torch.int32)
    more = {"scaling": 0.25, "sliding_window": sliding_window}
    found, weights = varlen_attention(
        torch.nn.Identity(), query, key, value, None, cu_seq_lens_q=borders, max_length_q=3, **more
    )
    tensors = {name: told.pop(name) for name in ("query", "key", "value")}
    for name, given in (("query", query), ("key", key), ("value", value)):
        assert torch.equal(tensors[name], torch.cat([given[0].transpose(0, 1), given[1].transpose(0, 1)])), name
    assert [told.pop(name).tolist() for name in ("cu_seq_q", "cu_seq_k")] == [[0, 2, 3, 6]] * 2
    assert told == {"max_q": 3, "max_k": 3, "scale": 0.25, "window_size": window_size, "enable_gqa": True}
    assert torch.equal(found, query.transpose(1, 2) + 1)
    assert weights is None


def test_varlen_refuses_what_its_kernel_does_not_compute() -> None:
    """Named in one line, rather than left out silently."""
    some = torch.randn(1, 2, 4, 8)
    borders = torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(ConfigError, match="varlen, which cannot do this model's dropout, softcap; use sdpa or eager"):
        varlen_attention(
            torch.nn.Identity(),
            some,
            some,
            some,
            None,
            cu_seq_lens_q=borders,
            max_length_q=4,
            dropout=0.1,
            softcap=30.0,
        )


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("flex_attention", "flex_attention, which has no backward pass on a CPU; use sdpa"),
        ("flash_attention_2", "flash-attn and a CUDA device were not found together"),
        ("flash_attention_3", "flash-attn-3 and a CUDA device were not found together"),
    ],
)
def test_attention_that_cannot_train_here(attention: str, message: str) -> None:
    """A CPU has neither; the line says what to use."""
    with pytest.raises(ConfigError, match=message):
        require_attention(TrainingConfig(model="m", attention=attention), CPU)


def test_nothing_to_train_on(model_folder: Path) -> None:
    """A micro-batch without labels has the loss 0, not NaN."""
    assert float(_forward(_load(model_folder, "sdpa"), [empty_row(8, 0)]).loss) == 0.0


def _probe(model: Any, attention: str, num_rows: int = 2) -> None:
    def logits(ids: torch.Tensor, positions: torch.Tensor, lengths: Any) -> torch.Tensor:
        segments = segment_arguments(attention, lengths, CPU)
        return model(input_ids=ids, position_ids=positions, use_cache=False, **segments).logits

    require_borders(logits, model.config.vocab_size, CPU, attention=attention, num_rows=num_rows)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen", "flex_attention"])
def test_probe_accepts(model_folder: Path, attention: str) -> None:
    """Attention implementations that respect borders pass."""
    with torch.compiler.set_stance("force_eager"):
        _probe(_load(model_folder, attention), attention)


def _causal_only(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[torch.Tensor, None]:
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return mixed.transpose(1, 2).contiguous(), None


def test_probe_refuses_plain_causal_attention(model_folder: Path) -> None:
    """An implementation that ignores borders is refused in one line."""
    AttentionInterface.register("causal_only", _causal_only)
    with pytest.raises(ConfigError, match="attention is causal_only, which with this model ignores document borders"):
        _probe(_load(model_folder, "causal_only"), "causal_only")


def test_probe_refuses_borders_that_hold_in_a_single_row_only(model_folder: Path) -> None:
    """As flash-attention's own search for borders in the positions, which gives up when a batch has two rows."""

    def single_row_only(module: Any, query: Any, key: Any, value: Any, mask: Any, **told: Any) -> Any:
        if len(query) > 1:
            return _causal_only(module, query, key, value, mask)
        starts = (told["position_ids"][0] == 0).nonzero().flatten().tolist()
        borders = torch.tensor([*starts, query.shape[2]], dtype=torch.int32)
        return varlen_attention(module, query, key, value, None, cu_seq_lens_q=borders, max_length_q=0)

    AttentionInterface.register("single_row_only", single_row_only)
    model = _load(model_folder, "single_row_only")
    _probe(model, "single_row_only", num_rows=1)
    with pytest.raises(ConfigError, match="attention is single_row_only, which with this model ignores"):
        _probe(model, "single_row_only", num_rows=2)


def test_probe_refuses_a_cache(model_folder: Path) -> None:
    """A cache switches transformers' search for borders off, so a call that makes one is refused."""
    model = _load(model_folder, "sdpa")
    with pytest.raises(ConfigError, match="ignores document borders"):
        require_borders(
            lambda ids, positions, _: model(input_ids=ids, position_ids=positions, use_cache=True).logits,
            64,
            CPU,
            attention="sdpa",
        )


@pytest.mark.parametrize("kind", ["mamba", "bloom"])
def test_probe_refuses_models_that_know_no_positions(kind: str) -> None:
    """A state that runs through the row, and distances in place of positions: both see the document before."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=64, hidden_size=32, num_hidden_layers=2, n_head=2)
    with pytest.raises(ConfigError, match="attention is sdpa, which with this model ignores document borders"):
        _probe(AutoModelForCausalLM.from_config(config).eval(), "sdpa")


def test_probe_refuses_a_model_without_context() -> None:
    """A model that does not react to its context proves nothing, so it is refused as well."""
    with pytest.raises(ConfigError, match="ignores document borders"):
        require_borders(lambda ids, *_: torch.nn.functional.one_hot(ids, 64), 64, CPU, attention="none")


def test_loss_scaling() -> None:
    """A loss must be a sum over the number of tokens that the model is told."""
    require_loss_scaling(lambda tokens: 6.0 / tokens, "llama")
    with pytest.raises(ConfigError, match="model type odd ignores num_items_in_batch"):
        require_loss_scaling(lambda _: 6.0, "odd")

"""Families of models on several devices: after three steps in fp64, loss, gradients and weights are the CPU's under any plan.

Several families of transformers compute norms or losses in fp32 whatever their weights are: these are held to what fp32 gives.

A few plans in the quick tests, other ones with each commit; all of them with ``make test-full``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from sampling import is_chosen
from test_devices import MODELS, devices, train
from torch import nn

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

Results = list[torch.Tensor]
BATCH, LENGTH = 6, 8

TEXT = {
    "gpt2": ("GPT2LMHeadModel", {
        "n_layer": 2, "n_embd": 20, "n_head": 5, "vocab_size": 101, "n_positions": 16,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }),
    "llama": ("LlamaForCausalLM", {
        "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 101,
    }),
    "qwen3": ("Qwen3ForCausalLM", {
        "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 101, "tie_word_embeddings": True,
    }),
    "mixtral": ("MixtralForCausalLM", {
        "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 101, "num_local_experts": 4, "output_router_logits": True,
    }),
    "mixtral, routed": ("MixtralForCausalLM", {
        "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 101, "num_local_experts": 4, "output_router_logits": True,
    }),
    "qwen3 experts, routed": ("Qwen3MoeForCausalLM", {
        "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 101, "num_experts": 6, "num_experts_per_tok": 3,
        "moe_intermediate_size": 16, "norm_topk_prob": True,
    }),
    "gpt-oss, routed": ("GptOssForCausalLM", {
        "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 20, "num_attention_heads": 4, "head_dim": 6,
        "num_key_value_heads": 2, "vocab_size": 101, "num_local_experts": 4, "num_experts_per_tok": 2,
        "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"],
    }),
    "bert": ("BertForMaskedLM", {
        "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4,
        "vocab_size": 101, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }),
    "t5": ("T5ForConditionalGeneration", {
        "num_layers": 2, "d_model": 24, "d_ff": 40, "d_kv": 6, "num_heads": 4, "vocab_size": 101,
        "dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0,
    }),
    "mamba": ("MambaForCausalLM", {
        "num_hidden_layers": 2, "hidden_size": 16, "state_size": 4, "vocab_size": 101,
    }),
}  # fmt: skip


def text_model(name: str) -> nn.Module:
    model_type, config = TEXT[name]
    made = getattr(transformers, model_type).config_class(**config)
    if name == "mixtral":
        made._experts_implementation = "batched_mm"
    if name.endswith("routed"):
        made._experts_implementation = "grouped_mm"
    torch.manual_seed(0)
    model = getattr(transformers, model_type)(made)
    return model if name.endswith("routed") else model.double()  # _grouped_mm knows no fp64


def train_text(device: str, name: str) -> Results:
    """Losses of three steps, then gradients and weights."""
    model = text_model(name).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        tokens = torch.randint(1, 101, (BATCH, LENGTH))
        labels = tokens.clone()
        labels[::2, 3:5] = -100
        optimizer.zero_grad()
        loss = model(input_ids=tokens.to(device), labels=labels.to(device)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [t.detach().cpu() for t in losses + gradients + list(model.parameters())]


FAMILIES: dict[str, Callable[[str], Results]] = {
    **{name: functools.partial(train_text, name=name) for name in TEXT},
    "conv": functools.partial(train, name="conv"),
    "lstm": functools.partial(train, name="lstm"),
}
assert {"conv", "lstm"} <= set(MODELS)
IN_FP64 = {"bert", "conv", "lstm"}
SHARE = 24  # of the random plans
COUNTS = (2, 3, 4, 8)
SEEDS = range(10)  # with each number of devices: 40 plans a family


@functools.cache
def on_the_cpu(family: str) -> Results:
    return FAMILIES[family]("cpu")


def check(family: str, count: int, plan: str) -> None:
    with devices(count, plan):
        got = FAMILIES[family]("moai")
    for ours, theirs in zip(got, on_the_cpu(family), strict=True):
        tolerance = 1e-10 if family in IN_FP64 else 2e-5
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


RANDOM = [(family, count, seed) for family in FAMILIES for count in COUNTS for seed in SEEDS]
PINNED = [
    (2, "dp=2"),
    (4, "tp=2,dp=2"),
    (3, "dp=3,zero=3"),
    (2, "dp=2,micro=3,recompute=full"),
    (2, "pp=2,micro=3"),
    (4, "pp=2,tp=2"),
    (2, "fastest"),
]


@pytest.mark.parametrize(("family", "count", "seed"), [row for row in RANDOM if is_chosen(row, SHARE)])
def test_any_plan(family: str, count: int, seed: int) -> None:
    check(family, count, f"random:{seed}")


@pytest.mark.parametrize(("count", "plan"), PINNED, ids=lambda v: str(v))
@pytest.mark.parametrize("family", FAMILIES)
def test_pinned_plans(family: str, count: int, plan: str) -> None:
    check(family, count, plan)

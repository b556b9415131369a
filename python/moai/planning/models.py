"""The models that `moai plan --model` knows, as their families' configurations; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class PlanModel:
    """How to build a language model, and its loss on a batch of tokens."""

    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    dtype: torch.dtype = torch.bfloat16
    # Of learned positions, how many there are: no longer sequence can be trained. Rotary ones have no end.
    most_positions: int | None = None


def _gpt2(width: int, layers: int, heads: int) -> PlanModel:
    from ..bench.gpt2 import GPT2Config

    def loss(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())

    config = GPT2Config(width, layers, heads, vocab=50257)
    return PlanModel(config.build, loss, most_positions=config.max_seq)


def _causal(family: str, **config: object) -> PlanModel:
    """A language model as transformers builds it from `family`Config."""

    def build() -> nn.Module:
        try:
            import transformers
        except ImportError:
            raise ImportError(f"planning a {family} needs transformers: pip install transformers") from None
        made = getattr(transformers, f"{family}Config")(**config)
        return getattr(transformers, f"{family}ForCausalLM")(made)

    return PlanModel(build, lambda model, tokens: model(tokens, labels=tokens).loss)


def llama(
    hidden: int, layers: int, heads: int, key_value_heads: int, intermediate: int, vocab: int
) -> PlanModel:
    """Return a Llama of these dimensions, as transformers builds it."""
    return _causal(
        "Llama", hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, vocab_size=vocab,
        num_key_value_heads=key_value_heads, intermediate_size=intermediate, max_position_embeddings=131072,
    )  # fmt: skip


def _mixtral(hidden: int, layers: int, heads: int, key_value_heads: int, intermediate: int) -> PlanModel:
    return _causal(
        "Mixtral", hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, vocab_size=32000,
        num_key_value_heads=key_value_heads, intermediate_size=intermediate, num_local_experts=8,
        experts_implementation="grouped_mm",
    )  # fmt: skip


def _qwen3_experts(
    hidden: int, layers: int, heads: int, key_value_heads: int, experts: int, choices: int, intermediate: int
) -> PlanModel:
    return _causal(
        "Qwen3Moe", hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, vocab_size=151936,
        head_dim=128, num_key_value_heads=key_value_heads, moe_intermediate_size=intermediate, num_experts=experts,
        num_experts_per_tok=choices, norm_topk_prob=True, experts_implementation="grouped_mm",
    )  # fmt: skip


MODELS: dict[str, PlanModel] = {
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "llama2-7b": llama(4096, 32, 32, 32, 11008, 32000),
    "llama2-13b": llama(5120, 40, 40, 40, 13824, 32000),
    "llama2-70b": llama(8192, 80, 64, 8, 28672, 32000),
    "llama3-8b": llama(4096, 32, 32, 8, 14336, 128256),
    "llama3-70b": llama(8192, 80, 64, 8, 28672, 128256),
    "mixtral-8x7b": _mixtral(4096, 32, 32, 8, 14336),
    "qwen3-30b-a3b": _qwen3_experts(2048, 48, 32, 4, 128, 8, 768),
    "llama3-405b": llama(16384, 126, 128, 8, 53248, 128256),
}

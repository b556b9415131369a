"""The models by name, each with the settings that a run of it starts from."""

from dataclasses import dataclass

import torch
from torch import nn

from .errors import BadInput
from .gpt2 import GPT2Config
from .llama import LlamaConfig


@dataclass(frozen=True)
class NamedModel:
    """A model's shape, and what ``moai bench`` uses where the command line is silent."""

    config: LlamaConfig | GPT2Config
    batch: int
    seq: int
    steps: int
    lr: float


def _llama3(dim: int, layers: int, heads: int, hidden: int, **more: object) -> LlamaConfig:
    return LlamaConfig(
        dim, layers, heads, kv_heads=8, hidden=hidden, vocab=128256, max_seq=8192, rope_theta=500000.0, **more
    )


MODELS = {
    "tiny": NamedModel(LlamaConfig(64, 2, 4, 2, 192), batch=8, seq=64, steps=200, lr=3e-3),
    "mini": NamedModel(LlamaConfig(128, 4, 4, 2, 384), batch=16, seq=128, steps=700, lr=4e-3),
    "small": NamedModel(LlamaConfig(384, 6, 6, 2, 1024), batch=8, seq=256, steps=100, lr=1e-3),
    "medium": NamedModel(LlamaConfig(768, 12, 12, 4, 2048), batch=8, seq=512, steps=100, lr=6e-4),
    "llama3-1b": NamedModel(_llama3(2048, 16, 32, 8192, tied=True), batch=8, seq=1024, steps=100, lr=3e-4),
    "llama3-8b": NamedModel(_llama3(4096, 32, 32, 14336), batch=8, seq=2048, steps=100, lr=3e-4),
    "llama3-70b": NamedModel(_llama3(8192, 80, 64, 28672), batch=8, seq=2048, steps=100, lr=1.5e-4),
    "gpt2-tiny": NamedModel(GPT2Config(64, 2, 4, max_seq=256), batch=8, seq=64, steps=200, lr=3e-3),
    "gpt2-small": NamedModel(GPT2Config(384, 6, 6), batch=8, seq=256, steps=100, lr=1e-3),
    "gpt2": NamedModel(GPT2Config(768, 12, 12, vocab=50257), batch=8, seq=512, steps=100, lr=6e-4),
    "gpt2-medium": NamedModel(GPT2Config(1024, 24, 16, vocab=50257), batch=8, seq=512, steps=100, lr=3e-4),
    "gpt2-large": NamedModel(GPT2Config(1280, 36, 20, vocab=50257), batch=8, seq=1024, steps=100, lr=2.5e-4),
    "gpt2-xl": NamedModel(GPT2Config(1600, 48, 25, vocab=50257), batch=8, seq=1024, steps=100, lr=2e-4),
}

# Above this many parameters a model is initialised where it lives: it may not fit the host.
INITIALISE_ON_HOST = 4_000_000_000


def named(name: str) -> NamedModel:
    """Return the model called `name`."""
    if name not in MODELS:
        raise BadInput(f"unknown model '{name}': choose from {', '.join(MODELS)}")
    return MODELS[name]


def parameter_count(name: str) -> int:
    """Return how many parameters the model has, without making any of them.

    >>> parameter_count("gpt2")
    124439808
    """
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in named(name).config.build().parameters())


def create(name: str, device: torch.device, seed: int, on_host: bool = False) -> nn.Module:
    """Return the model on `device`; the same `seed` gives the same weights on every device.

    A model too large for the host is initialised on the device, unless `on_host` insists.
    """
    torch.manual_seed(seed)
    if parameter_count(name) > INITIALISE_ON_HOST and not on_host:
        with torch.device(device):
            return named(name).config.build()
    return named(name).config.build().to(device)

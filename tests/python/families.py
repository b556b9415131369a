"""Training steps of families of models, recorded and not run: the graphs that the planner's tests ask about."""

from __future__ import annotations

from collections.abc import Callable

import moai
import pytest
import torch
import torch.nn.functional as F
from moai import _C
from torch import nn


def step(make: Callable[[], nn.Module], loss: Callable[[nn.Module], torch.Tensor], clip: bool = True) -> str:
    """The graph of a training step: forward, loss, backward, clipping, AdamW."""
    with moai.dry_run():
        with torch.device("moai"):
            model = make()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for _ in range(2):
            _C.set_dry(True)  # forgets what was recorded, the model's initialisation above all
            optimizer.zero_grad()
            loss(model).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return _C.dry_step()


def transformer(
    name: str, batch: int = 4, length: int = 256, experts: str | None = None, **config: object
) -> str:
    """A model of transformers by its class's name, on tokens that are their own labels."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model_type = getattr(transformers, name)

    def make() -> nn.Module:
        made = model_type.config_class(**config)
        if experts:
            made._experts_implementation = experts
        return model_type(made)

    tokens = torch.zeros(batch, length, dtype=torch.long).to("moai")
    return step(make, lambda m: m(input_ids=tokens, labels=tokens).loss)


def whisper() -> str:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.WhisperConfig(
        d_model=384, encoder_layers=2, decoder_layers=2, encoder_attention_heads=6, decoder_attention_heads=6,
        encoder_ffn_dim=1536, decoder_ffn_dim=1536,
    )  # fmt: skip
    sound, tokens = torch.zeros(4, 80, 3000).to("moai"), torch.zeros(4, 128, dtype=torch.long).to("moai")
    make = lambda: transformers.WhisperForConditionalGeneration(config)  # noqa: E731
    return step(make, lambda m: m(input_features=sound, labels=tokens).loss)


def vit() -> str:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(num_hidden_layers=2)
    return images(lambda: transformers.ViTForImageClassification(config), lambda m, x: m(x).logits, classes=2)


def images(
    make: Callable[[], nn.Module],
    logits: Callable[[nn.Module, torch.Tensor], torch.Tensor] = lambda m, x: m(x),
    batch: int = 4,
    size: int = 224,
    classes: int = 1000,
) -> str:
    x, labels = torch.zeros(batch, 3, size, size).to("moai"), torch.zeros(batch, dtype=torch.long).to("moai")
    return step(make, lambda m: F.cross_entropy(logits(m, x).float(), labels))


def timm_model(name: str, size: int = 224) -> str:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    return images(lambda: timm.create_model(name), size=size)


def torchvision_model(name: str, size: int = 224) -> str:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    return images(lambda: torchvision.models.get_model(name), size=size)


# Widths are of published models where they are small enough, two layers of each.
LLAMA = {
    "num_hidden_layers": 2, "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32,
    "num_key_value_heads": 4, "vocab_size": 32000,
}  # fmt: skip
EXPERTS = LLAMA | {"hidden_size": 1024, "intermediate_size": 1792, "num_local_experts": 8}

FAMILIES: dict[str, Callable[[], str]] = {
    "gpt2": lambda: transformer("GPT2LMHeadModel", n_layer=2),
    "gpt_neox": lambda: transformer(
        "GPTNeoXForCausalLM", num_hidden_layers=2, hidden_size=1024, intermediate_size=4096, num_attention_heads=16
    ),
    "llama": lambda: transformer("LlamaForCausalLM", **LLAMA),
    "mistral": lambda: transformer("MistralForCausalLM", **LLAMA),
    "qwen2": lambda: transformer("Qwen2ForCausalLM", **LLAMA),
    "qwen3": lambda: transformer("Qwen3ForCausalLM", **LLAMA, head_dim=128),
    "phi3": lambda: transformer("Phi3ForCausalLM", **LLAMA, pad_token_id=0),
    "gemma": lambda: transformer("GemmaForCausalLM", **LLAMA, head_dim=256),
    "gemma2": lambda: transformer("Gemma2ForCausalLM", **LLAMA, head_dim=256),
    "falcon": lambda: transformer(
        "FalconForCausalLM", num_hidden_layers=2, hidden_size=2048, num_attention_heads=32, vocab_size=65024,
        new_decoder_architecture=True, num_kv_heads=4,
    ),
    "falcon, one key": lambda: transformer(
        "FalconForCausalLM", num_hidden_layers=2, hidden_size=2048, num_attention_heads=32, vocab_size=65024,
    ),
    "mixtral": lambda: transformer("MixtralForCausalLM", **EXPERTS, experts="grouped_mm"),
    "mixtral, batched": lambda: transformer("MixtralForCausalLM", length=32, **EXPERTS, experts="batched_mm"),
    "mamba": lambda: transformer("MambaForCausalLM", length=64, num_hidden_layers=2, hidden_size=768),
    "bert": lambda: transformer("BertForMaskedLM", num_hidden_layers=2),
    "t5": lambda: transformer("T5ForConditionalGeneration", num_layers=2, decoder_start_token_id=0),
    "whisper": whisper,
    "vit": vit,
    "timm vit": lambda: timm_model("vit_tiny_patch16_224"),
    "timm swin": lambda: timm_model("swin_tiny_patch4_window7_224"),
    "timm convnext": lambda: timm_model("convnext_atto"),
    "timm efficientnet": lambda: timm_model("efficientnet_b0"),
    "timm resnet": lambda: timm_model("resnet18"),
    "timm mixer": lambda: timm_model("mixer_s16_224"),
    "torchvision resnet": lambda: torchvision_model("resnet50"),
    "torchvision convnext": lambda: torchvision_model("convnext_tiny"),
    "torchvision efficientnet": lambda: torchvision_model("efficientnet_b0"),
    "torchvision mobilenet": lambda: torchvision_model("mobilenet_v3_small"),
    "torchvision swin": lambda: torchvision_model("swin_t"),
    "torchvision densenet": lambda: torchvision_model("densenet121"),
}  # fmt: skip

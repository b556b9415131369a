"""transformers' own models, unchanged, train on moai as they do on the CPU, and are recorded whole.

The configurations are small and need no download; dropout is off, so that both devices draw no numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import moai
import pytest
import torch
import transformers as hf

STEPS = 3
VOCAB, BATCH, SEQ = 97, 2, 12


def tokens(step: int) -> torch.Tensor:
    return torch.randint(2, VOCAB, (BATCH, SEQ), generator=torch.Generator().manual_seed(step))


def language_batch(step: int) -> dict[str, torch.Tensor]:
    return {"input_ids": tokens(step), "labels": tokens(step)}


def padded_batch(step: int) -> dict[str, torch.Tensor]:
    mask = (torch.arange(SEQ) < torch.tensor([[SEQ], [SEQ - 4 - step]])).long()
    return {"input_ids": tokens(step), "attention_mask": mask, "labels": tokens(step + 50)}


def image_batch(step: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {
        "pixel_values": torch.randn(4, 3, 16, 16, generator=draw),
        "labels": torch.randint(0, 5, (4,), generator=draw),
    }


def sound_batch(step: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {"input_features": torch.randn(BATCH, 8, 16, generator=draw), "labels": tokens(step)}


@dataclasses.dataclass
class Model:
    """A model, its batches, and the ops whose result's size depends on data, which no device can record."""

    name: str
    build: Callable[[], torch.nn.Module]
    batch: Callable[[int], dict[str, torch.Tensor]]
    at_once: frozenset[str] = frozenset()
    # MoE routing sends tokens to other experts as weights change, so each step may be a new graph.
    settles: bool = True


BLOCK = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCAB,
}
GROUPED = BLOCK | {"num_key_value_heads": 2, "max_position_embeddings": 32}
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IMAGE = {k: v for k, v in BLOCK.items() if k != "vocab_size"} | {
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 5,
}


def gpt2() -> torch.nn.Module:
    sizes = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def t5() -> torch.nn.Module:
    sizes = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return hf.T5ForConditionalGeneration(hf.T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0))


def mixtral(**more: object) -> torch.nn.Module:
    return hf.MixtralForCausalLM(
        hf.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, **more)
    )


def whisper() -> torch.nn.Module:
    sizes = {"vocab_size": VOCAB, "d_model": 32, "num_mel_bins": 8, "max_source_positions": 8}
    layers = {
        f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")
    }
    width = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_target_positions": 32}
    off = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    ends = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}
    return hf.WhisperForConditionalGeneration(hf.WhisperConfig(**sizes, **layers, **width, **off, **ends))


def mamba() -> torch.nn.Module:
    return hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=VOCAB, hidden_size=32, state_size=4, num_hidden_layers=2, pad_token_id=0)
    )


MODELS = [
    Model("gpt2", gpt2, language_batch),
    Model("llama", lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)), language_batch),
    Model("bert", lambda: hf.BertForMaskedLM(hf.BertConfig(**BLOCK, **OFF)), padded_batch),
    Model("vit", lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE, **OFF)), image_batch),
    Model("qwen3", lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=8)), language_batch),
    Model("gemma", lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**GROUPED, head_dim=8)), language_batch),
    Model("t5", t5, padded_batch),
    Model("whisper", whisper, sound_batch),
    Model("mamba", mamba, language_batch),
    Model("mixtral", mixtral, language_batch),
    Model(
        "mixtral-loop",
        lambda: mixtral(experts_implementation="eager"),
        language_batch,
        at_once=frozenset({"aten.nonzero"}),
        settles=False,
    ),
]
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
}

every_model = pytest.mark.parametrize("model", MODELS, ids=[model.name for model in MODELS])


@dataclasses.dataclass
class Run:
    """What a training run left: its losses, the first step's gradients, the weights, all on the CPU."""

    losses: list[float]
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    traces: list[int]


def train(model: Model, device: str, optimizer: str, *, bf16: bool = False, steps: int = STEPS) -> Run:
    torch.manual_seed(0)
    module = model.build().to(device).train()
    update = OPTIMIZERS[optimizer](module.parameters())
    losses, traces, gradients = [], [], {}
    for step in range(steps):
        batch = {name: value.to(device) for name, value in model.batch(step).items()}
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            loss = module(**batch).loss
        loss.backward()
        if step == 0:
            gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        update.step()
        update.zero_grad()
        losses.append(loss.item())
        traces.append(moai.stats()["traces"])
    weights = {name: value.detach().cpu() for name, value in module.named_parameters()}
    return Run(losses, {name: value.cpu() for name, value in gradients.items()}, weights, traces)


def largest_difference(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The worst tensor and by how much it differs, relative to the size of what it should hold.

    A tensor far smaller than the largest is all rounding: the gradient of a key's bias is zero on paper.
    """
    assert got.keys() == want.keys()
    worst = (0.0, "none")
    least = 1e-3 * max(expected.abs().max().item() for expected in want.values())
    for name, expected in want.items():
        scale = max(expected.abs().max().item(), least)
        worst = max(worst, ((got[name] - expected).abs().max().item() / scale, name))
    return worst


def without_rounding(run: Run, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights, zero where `gradients` hold nothing but rounding: there AdamW takes a whole step all the same."""
    least = 1e-5 * max(gradient.abs().max().item() for gradient in gradients.values())
    return {name: run.weights[name] * (gradient.abs() > least) for name, gradient in gradients.items()}


@every_model
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_equals_the_cpus(model: Model, optimizer: str) -> None:
    got, want = train(model, "moai", optimizer), train(model, "cpu", optimizer)
    assert got.losses == pytest.approx(want.losses, rel=1e-5)
    assert want.losses[0] != want.losses[-1]
    error, name = largest_difference(got.gradients, want.gradients)
    assert error < 1e-5, f"gradient of {name}"
    if optimizer == "adamw":
        got.weights, want.weights = (without_rounding(run, want.gradients) for run in (got, want))
    error, name = largest_difference(got.weights, want.weights)
    assert error < (2e-4 if optimizer == "adamw" else 1e-5), f"weight {name}"


@every_model
def test_autocast_equals_the_cpus_to_bf16(model: Model) -> None:
    got, want = train(model, "moai", "adamw", bf16=True), train(model, "cpu", "adamw", bf16=True)
    assert got.losses == pytest.approx(want.losses, rel=1e-2)
    whole = train(model, "cpu", "adamw")
    assert got.losses != pytest.approx(whole.losses, rel=1e-7), "autocast did nothing"


@every_model
def test_training_is_recorded_whole(model: Model) -> None:
    moai.reset_stats()
    run = train(model, "moai", "adamw", steps=6)
    assert set(moai.stats()["at_once"]) <= model.at_once
    if not model.at_once:
        assert moai.stats()["ops_at_once"] == 0
    if model.settles:
        assert run.traces[-1] == run.traces[2], run.traces


@every_model
def test_evaluation_equals_the_cpus(model: Model) -> None:
    torch.manual_seed(0)
    host = model.build().eval()
    want = host(**model.batch(0))
    device = model.build().eval()
    device.load_state_dict(host.state_dict())
    got = device.to("moai")(**{name: value.to("moai") for name, value in model.batch(0).items()})
    torch.testing.assert_close(got.logits.detach().cpu(), want.logits.detach(), rtol=1e-5, atol=1e-5)

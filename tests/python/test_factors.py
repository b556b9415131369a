"""Dimensions as factors over whole steps: which families keep what whole, and that tensor parallelism needs no gather."""

from __future__ import annotations

import moai
import pytest
import torch
import torch.nn.functional as F
from moai import _C
from torch import nn

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "vocab_size": 96}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2}


def step(make, loss, clip: bool = True) -> str:
    """The graph of a training step that is recorded and not run."""
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


def language_model(name: str, **config: object) -> str:
    config_type, model_type = (
        getattr(transformers, f"{name}Config"),
        getattr(transformers, name + suffix(name)),
    )
    tokens = torch.zeros(4, 12, dtype=torch.long).to("moai")
    return step(lambda: model_type(config_type(**config)), lambda m: m(tokens, labels=tokens).loss)


def suffix(name: str) -> str:
    return {"GPT2": "LMHeadModel", "Bert": "ForMaskedLM", "T5": "ForConditionalGeneration"}.get(
        name, "ForCausalLM"
    )


def vit() -> str:
    config = {k: v for k, v in SMALL.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 8}
    images, labels = torch.zeros(4, 3, 32, 32).to("moai"), torch.zeros(4, dtype=torch.long).to("moai")
    make = lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**config))  # noqa: E731
    return step(make, lambda m: m(images, labels=labels).loss)


def convolutional() -> str:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.GroupNorm(4, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(16, 10),
        )  # fmt: skip

    images, labels = torch.zeros(4, 3, 16, 16).to("moai"), torch.zeros(4, dtype=torch.long).to("moai")
    return step(make, lambda m: F.cross_entropy(m(images), labels))


FAMILIES = {
    "gpt2": lambda: language_model("GPT2", n_layer=2, n_embd=64, n_head=8, vocab_size=96),
    "llama": lambda: language_model("Llama", **GROUPED),
    "qwen2": lambda: language_model("Qwen2", **GROUPED),
    "mistral": lambda: language_model("Mistral", **GROUPED),
    "gemma": lambda: language_model("Gemma", **GROUPED, head_dim=8),
    "phi3": lambda: language_model("Phi3", **GROUPED, pad_token_id=0),
    "falcon": lambda: language_model(
        "Falcon", num_hidden_layers=2, hidden_size=64, num_attention_heads=8, vocab_size=96,
        new_decoder_architecture=True, num_kv_heads=2,
    ),
    "mixtral": lambda: language_model("Mixtral", **GROUPED, num_local_experts=4),
    "bert": lambda: language_model("Bert", **SMALL),
    "t5": lambda: language_model(
        "T5", num_layers=2, d_model=64, d_ff=96, num_heads=8, d_kv=8, vocab_size=96, decoder_start_token_id=0
    ),
    "vit": vit,
    "convolutional": convolutional,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_little_is_kept_whole(family: str) -> None:
    report = _C.kept_whole(FAMILIES[family]())
    worst = report["ops"][:5]
    assert report["flops_share"] <= 0.02, worst
    # Steps this small have routing and counters of some weight; benchmarks/kept_whole.py has real sizes.
    assert report["bytes_share"] <= (0.05 if family == "mixtral" else 0.02), worst


# --- A dimension's factors survive what models do with it ----------------------------------------


def factor_sizes(text: str, value: int) -> list[list[int]]:
    return [[size for _, size in dim] for dim in _C.dims(text)[1][value]]


def atoms_of(text: str, value: int, dim: int) -> list[int]:
    return [atom for atom, _ in _C.dims(text)[1][value][dim]]


def test_fused_query_key_value_keeps_its_heads() -> None:
    # 3 x 4 heads x 8: three slices, heads apart, attention, heads joined again.
    text = """graph(%0: f32[6,16], %1: f32[16,96]) {
      %2: f32[6,96] = aten.mm(%0, %1)
      %3: f32[6,32] = moai.slice(%2, 1, 0, 32, 1)
      %4: f32[6,32] = moai.slice(%2, 1, 32, 32, 1)
      %5: f32[2,3,4,8] = moai.reshape(%3, [2,3,4,8])
      %6: f32[2,3,4,8] = moai.reshape(%4, [2,3,4,8])
      %7: f32[2,3,4,8] = aten.add.Tensor(%5, %6)
      return %7
    }"""
    assert factor_sizes(text, 1) == [[16], [3, 4, 8]]
    assert atoms_of(text, 1, 1)[1] == atoms_of(text, 7, 2)[0]


def test_rotated_halves_keep_their_place() -> None:
    text = """graph(%0: f32[6,64]) {
      %1: f32[6,8,8] = moai.reshape(%0, [6,8,8])
      %2: f32[6,8,4] = moai.slice(%1, 2, 0, 4, 1)
      %3: f32[6,8,4] = moai.slice(%1, 2, 4, 4, 1)
      %4: f32[6,8,4] = aten.neg(%3)
      %5: f32[6,8,8] = aten.cat([%4, %2], 2)
      %6: f32[6,8,8] = aten.add.Tensor(%1, %5)
      return %6
    }"""
    assert factor_sizes(text, 0) == [[6], [8, 2, 4]]
    assert atoms_of(text, 0, 1)[0] == atoms_of(text, 6, 1)[0]


def test_repeated_key_value_heads_are_a_factor_of_the_heads() -> None:
    text = """graph(%0: f32[2,2,5,8], %1: f32[2,8,5,8]) {
      %2: f32[2,2,1,5,8] = moai.reshape(%0, [2,2,1,5,8])
      %3: f32[2,2,4,5,8] = moai.expand(%2, [2,2,4,5,8])
      %4: f32[2,8,5,8] = moai.reshape(%3, [2,8,5,8])
      %5: f32[2,8,5,8] = aten.mul.Tensor(%1, %4)
      return %5
    }"""
    assert factor_sizes(text, 1)[1] == [2, 4]
    assert atoms_of(text, 1, 1)[0] == atoms_of(text, 0, 1)[0]


def test_gate_and_up_chunks_share_a_factor() -> None:
    text = """graph(%0: f32[6,16], %1: f32[16,24]) {
      %2: f32[6,24] = aten.mm(%0, %1)
      %3: f32[6,12] = moai.slice(%2, 1, 0, 12, 1)
      %4: f32[6,12] = moai.slice(%2, 1, 12, 12, 1)
      %5: f32[6,12] = aten.mul.Tensor(%3, %4)
      return %5
    }"""
    assert factor_sizes(text, 1)[1] == [2, 12]
    assert atoms_of(text, 1, 1)[1] == atoms_of(text, 5, 1)[0]


def test_sizes_that_do_not_divide_are_opaque_and_no_more() -> None:
    text = """graph(%0: f32[4,6,5]) {
      %1: f32[6,4,5] = moai.reshape(%0, [6,4,5])
      %2: f32[6,4,5] = aten.neg(%1)
      return %2
    }"""
    assert factor_sizes(text, 2)[2] == [5]
    assert atoms_of(text, 2, 2) == atoms_of(text, 0, 2)


@pytest.mark.parametrize(
    ("line", "op"),
    [
        ("%2: f32[6,7] = aten.mm(%0, %1)", "aten.mm"),
        ("%2: f32[6] = aten.mv(%0, %1)", "aten.mv"),
    ],
)
def test_a_rule_that_contradicts_the_sizes_names_the_op(line: str, op: str) -> None:
    text = f"graph(%0: f32[6,16], %1: f32[12,8]) numbers(f) {{ {line}\n return %2 }}"
    with pytest.raises(RuntimeError, match=f"the rule of {op} contradicts its tensors"):
        _C.rules(text)

"""Dimensions as factors over whole steps: which families keep what whole, and that tensor parallelism needs no gather."""

from __future__ import annotations

import re

import pytest
from families import EXPERTS, FAMILIES, transformer
from moai import _C


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_little_is_kept_whole(family: str) -> None:
    report = _C.kept_whole(FAMILIES[family]())
    flops, share = report["flops_share"], report["bytes_share"]
    worst = [(op, why, f"{size:.0f} bytes") for op, why, _, size, _ in report["ops"][:3]]
    print(f"{family}: {flops:.4%} of FLOPs and {share:.4%} of bytes kept whole; most: {worst}")
    assert flops <= 0.02, worst
    assert share <= 0.02, worst


def test_experts_that_the_data_choose_are_refused_with_the_reason() -> None:
    # Eager experts ask the host which of them any token chose (`nonzero`): there is no one graph of such a step.
    with pytest.raises(RuntimeError, match="recorded in a dry run and has no value"):
        transformer("MixtralForCausalLM", **EXPERTS, experts="eager")


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


ONE = {"batch": 2, "length": 32, "num_hidden_layers": 1, "vocab_size": 640}
WIDE = ONE | {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}

# Tensor parallelism of a real layer needs no gather where the weights before and after share the factor that is
# split: (the step, (sizes of a weight, the dim), …, the factor's size).
PARALLEL = {
    "gpt2: heads of the fused query, key, value": (
        lambda: transformer("GPT2LMHeadModel", batch=2, length=32, n_layer=1, vocab_size=640),
        [([768, 2304], 1), ([2304], 0), ([768, 768], 0)], 12,
    ),
    "llama: key heads through rotated halves and repeats": (
        lambda: transformer("LlamaForCausalLM", **WIDE, head_dim=128),
        [([2048, 1024], 0), ([512, 1024], 0), ([1024, 2048], 1)], 4,
    ),
    "llama, eager attention": (
        lambda: transformer("LlamaForCausalLM", **WIDE, head_dim=128, attn_implementation="eager"),
        [([2048, 1024], 0), ([512, 1024], 0), ([1024, 2048], 1)], 4,
    ),
    "llama: gate and up": (
        lambda: transformer("LlamaForCausalLM", **WIDE), [([2816, 1024], 0), ([1024, 2816], 1)], 2816,
    ),
    "qwen3: heads with norms of their own": (
        lambda: transformer("Qwen3ForCausalLM", **WIDE, head_dim=128),
        [([2048, 1024], 0), ([512, 1024], 0), ([1024, 2048], 1)], 4,
    ),
    "phi3: chunks of gate-up": (
        lambda: transformer("Phi3ForCausalLM", **WIDE, pad_token_id=0), [([5632, 1024], 0), ([1024, 2816], 1)], 2816,
    ),
    "falcon: groups of queries with their key and value": (
        lambda: transformer(
            "FalconForCausalLM", **ONE, hidden_size=1024, num_attention_heads=16, new_decoder_architecture=True,
            num_kv_heads=4,
        ),
        [([1536, 1024], 0), ([1024, 1024], 1)], 4,
    ),
    "gpt_neox: query, key and value by head": (
        lambda: transformer(
            "GPTNeoXForCausalLM", **ONE, hidden_size=1024, intermediate_size=4096, num_attention_heads=16
        ),
        [([3072, 1024], 0), ([1024, 1024], 1)], 16,
    ),
    "mixtral: features of experts": (
        lambda: transformer("MixtralForCausalLM", **WIDE, num_local_experts=8, experts="grouped_mm"),
        [([8, 5632, 1024], 1), ([8, 1024, 2816], 2)], 2816,
    ),
    "t5: heads": (
        lambda: transformer(
            "T5ForConditionalGeneration", batch=2, length=32, num_layers=1, num_decoder_layers=1, vocab_size=640,
            d_model=512, d_kv=96, num_heads=8, decoder_start_token_id=0,
        ),
        [([768, 512], 0), ([512, 768], 1)], 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PARALLEL)
@pytest.mark.filterwarnings("ignore")
def test_tensor_parallelism_needs_no_gather(case: str) -> None:
    make, weights, size = PARALLEL[case]
    text, dims = _C.dims(make())
    inputs = re.findall(r"%(\d+): \w+\[([\d,]*)\]", text[: text.index("{\n")])
    for sizes, _ in weights:
        assert any(of == ",".join(map(str, sizes)) for _, of in inputs), f"no weight is {sizes}"
    first = next(dims[int(v)][weights[0][1]] for v, of in inputs if of == ",".join(map(str, weights[0][0])))
    atom = next(atom for atom, atom_size in first if atom_size == size)  # the outermost of this size
    for sizes, dim in weights[1:]:
        found = [
            any(a == atom for a, _ in dims[int(v)][dim])
            for v, of in inputs
            if of == ",".join(map(str, sizes))
        ]
        assert any(found), f"no weight of sizes {sizes} has the factor of {size} in dim {dim}"


@pytest.mark.parametrize(
    ("line", "op"),
    [
        ("%2: f32[6,7] = aten.mm(%0, %1)", "aten.mm"),
        ("%2: f32[6] = aten.mv(%0, %1)", "aten.mv"),
        ("%2: f32[6,16] = aten.slice_backward(%0, [6,16], 2, 0, 6, 1)", "aten.slice_backward"),
        (
            "%2: f32[6,16] = aten._scaled_dot_product_flash_attention_for_cpu(%0, %1)",
            "aten._scaled_dot_product_flash_attention_for_cpu",
        ),
        ("%2: f32[6,17] = moai.reshape(%0, [6,17])", "moai.reshape"),
        ("%2: f32[6] = aten.repeat(%0, [1])", "aten.repeat"),
    ],
)
def test_a_rule_that_contradicts_the_sizes_names_the_op(line: str, op: str) -> None:
    text = f"graph(%0: f32[6,16], %1: f32[12,8]) numbers(f) {{ {line}\n return %2 }}"
    with pytest.raises(RuntimeError, match=f"the rule of {op} contradicts its tensors"):
        _C.rules(text)

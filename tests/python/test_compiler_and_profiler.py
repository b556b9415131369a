"""torch.compile, flex_attention and torch.profiler."""

from __future__ import annotations

import json
import warnings

import moai
import pytest
import torch
from small_nets import D, both, net, rows, same
from torch import nn


@pytest.mark.filterwarnings("ignore")
def test_what_torch_compile_captured_is_recorded_and_it_says_so_once(monkeypatch):
    from moai.adapters import torch_compile

    monkeypatch.setattr(torch_compile, "_told", False)
    torch._dynamo.reset()
    host, device = both(net)
    compiled = torch.compile(device)
    moai.reset_stats()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for step in range(2):
            got, want = compiled(rows(D) + step), host(rows() + step)
            same(got, want)
            got.square().sum().backward()
            want.square().sum().backward()
        torch.compile(lambda x: x.sin() + 1, fullgraph=True, mode="reduce-overhead")(rows(D))
    assert [str(w.message) for w in told if "moai" in str(w.message)] == [
        "torch.compile adds nothing on moai, which records and compiles whole steps by itself: what was captured"
        " runs op by op and is recorded"
    ]
    same(device[0].weight.grad, host[0].weight.grad, 1e-4)
    assert moai.stats()["ops"] > 20 and moai.stats()["ops_at_once"] == 0
    assert torch.compile(lambda n: torch.ones(n, device=D) * 2)(3).tolist() == [2, 2, 2]
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_flex_attention_equals_the_cpus_and_has_a_gradient():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))

    def causal(batch, head, row, column):
        return row >= column

    ours = [x.to(D).requires_grad_() for x in (q, k, v)]
    moai.reset_stats()
    out = flex_attention(*ours, block_mask=create_block_mask(causal, 1, 1, 16, 16, device=D))
    out.sum().backward()
    assert moai.stats()["ops"] > 5
    theirs = [x.clone().requires_grad_() for x in (q, k, v)]
    want = nn.functional.scaled_dot_product_attention(*theirs, is_causal=True)
    want.sum().backward()
    same(out, want)
    same(ours[0].grad, theirs[0].grad)


def test_the_profiler_shows_what_the_device_computed(tmp_path):
    model, x = net().to(D), rows(D)
    for _ in range(2):
        model(x).sum().backward()
    moai.sync()
    activities = torch.profiler.ProfilerActivity
    assert activities.PrivateUse1 in torch.profiler.supported_activities()
    with torch.profiler.profile(activities=[activities.CPU, activities.PrivateUse1]) as profile:
        model(x).sum().backward()
    kinds = {}
    for event in profile.events():
        kinds.setdefault(event.device_type.name, set()).add(event.name)
    assert {"aten::linear", "aten::addmm"} <= kinds["CPU"]
    assert {"aten::addmm", "aten::native_batch_norm_backward"} <= kinds["PrivateUse1"]
    assert "aten::linear" not in kinds["PrivateUse1"], "the device computes what was recorded"
    table = profile.key_averages().table(sort_by="self_device_time_total")
    assert "Self MOAI" in table
    assert sum(row.self_device_time_total for row in profile.key_averages()) > 0
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    written = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any(event.get("cat") == "kernel" and event["name"] == "aten::addmm" for event in written)


def test_a_profile_of_the_host_alone_has_no_device():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.ones(3, device=D).sum().item()
    assert {event.device_type.name for event in profile.events()} == {"CPU"}

"""The device as PyTorch's own generic interfaces see it: modules, streams, memory, generators."""

from __future__ import annotations

import moai
import pytest
import torch
from small_nets import D
from torch import nn

# ---- The module, streams and events, memory


def test_the_device_module_is_found_by_every_name():
    for name in (D, torch.device(D), torch.device("moai:0")):
        assert torch.get_device_module(name) is torch.moai
    accelerator = torch.accelerator
    assert accelerator.current_accelerator() == torch.device(D) and accelerator.device_count() == 1
    assert accelerator.is_available() and accelerator.current_device_index() == 0
    accelerator.set_device_index(0)
    with accelerator.device_index(0), torch.moai.device(0), torch.moai.device_of(torch.ones(1, device=D)):
        assert torch.moai.current_device() == 0
    assert "moai" in torch.moai.get_device_name() and torch.moai.is_bf16_supported()
    capability = accelerator.get_device_capability()["supported_dtypes"]
    assert {torch.float32, torch.bfloat16} <= capability and torch.qint8 not in capability
    for refuse in (torch.moai.set_device, torch.moai.Stream, torch.moai.memory_stats):
        with pytest.raises(RuntimeError, match="moai is one device: there is no moai:1"):
            refuse("moai:1")


def test_tensors_modules_and_storages_have_a_method_of_the_devices_name():
    x = torch.ones(3)
    assert x.moai().is_moai and nn.Linear(2, 2).moai().weight.is_moai and not x.is_moai
    assert x.untyped_storage().moai().device.type == D and x.moai().cpu().equal(x)


@pytest.mark.parametrize("make", [torch.Stream, torch.moai.Stream], ids=["torch", "torch.moai"])
def test_streams_order_what_is_ordered_anyway(make):
    stream = make(device=D)
    with stream, torch.moai.stream(stream):
        x = torch.ones(3, device=D) + 1
        event = stream.record_event()
    x.record_stream(stream)
    stream.wait_event(event)
    stream.wait_stream(torch.moai.current_stream())
    torch.accelerator.set_stream(stream)
    assert torch.accelerator.current_stream() == torch.moai.default_stream() == stream
    event.synchronize()
    stream.synchronize()
    assert event.query() and stream.query() and x.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "make", [lambda **o: torch.Event(D, **o), torch.moai.Event], ids=["torch", "torch.moai"]
)
def test_events_tell_the_time_that_the_device_took(make):
    moai.reset_stats()
    first, plain, last = make(enable_timing=True), make(), make(enable_timing=True)
    x = torch.ones(64, 64, device=D)
    first.record()
    for _ in range(50):
        x = x @ x / 64
    plain.record()
    assert moai.stats()["launches"] <= 1, "an event that is not timed cuts nothing"
    last.record()
    assert first.elapsed_time(last) > 0 > last.elapsed_time(first)
    assert moai.stats()["cut_reasons"].keys() <= {"sync"} and x[0, 0].item() == 1
    with pytest.raises(ValueError, match="enable_timing"):
        first.elapsed_time(plain)


def test_memory_statistics_by_both_names():
    torch.moai.empty_cache()
    kept = torch.ones(1 << 20, device=D) + 1
    moai.sync()
    ours, generic = torch.moai, torch.accelerator
    assert ours.memory_allocated() >= kept.nbytes
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved"):
        assert getattr(generic, name)() == getattr(ours, name)()
    assert generic.max_memory_reserved() == ours.max_memory_reserved() >= generic.memory_reserved() > 0
    before = ours.memory_allocated()
    del kept
    torch.zeros(1, device=D).item()
    assert ours.memory_allocated() < before <= ours.max_memory_allocated()
    generic.reset_peak_memory_stats()
    assert generic.max_memory_allocated() == generic.memory_allocated()
    free, total = ours.mem_get_info()
    assert 0 < free <= total and "MiB" in ours.memory_summary()
    generic.empty_cache()
    generic.reset_accumulated_memory_stats()


# ---- Random numbers


def test_generators_keep_their_state():
    generator = torch.Generator(device=D).manual_seed(3)
    state = generator.get_state()
    drawn = [torch.randn(3, device=D, generator=generator).cpu() for _ in range(2)]
    generator.set_state(state)
    assert torch.randn(3, device=D, generator=generator).cpu().equal(drawn[0])
    copy = generator.clone_state()
    for source in (generator, copy):
        assert torch.randn(3, device=D, generator=source).cpu().equal(drawn[1])
    assert generator.initial_seed() == 3 and generator.device == torch.device("moai:0")
    assert torch.randperm(5, device=D, generator=generator).sort().values.tolist() == [0, 1, 2, 3, 4]


def test_the_default_generator_is_the_one_that_is_used():
    (default,) = torch.moai.default_generators
    torch.manual_seed(7)
    assert default.initial_seed() == torch.moai.initial_seed() == 7
    states = torch.moai.get_rng_state_all()
    drawn = torch.randn(3, device=D).cpu()
    torch.moai.set_rng_state_all(states)
    with torch.random.fork_rng(devices=[0], device_type=D):
        assert torch.randn(3, device=D, generator=default).cpu().equal(drawn)
    assert torch.randn(3, device=D).cpu().equal(drawn)
    torch.moai.seed_all()
    assert torch.moai.initial_seed() == default.initial_seed() != 7

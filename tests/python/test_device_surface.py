"""The device as PyTorch's own generic interfaces see it: modules, streams, memory, generators, files, transforms, compilers."""

from __future__ import annotations

import io
import json
import warnings

import moai
import numpy
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

D = "moai"


def same(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.detach().cpu(), want.detach().cpu(), rtol=tolerance, atol=tolerance)


def both(build) -> tuple[nn.Module, nn.Module]:
    """The module on the CPU and on moai, with equal weights."""
    made = []
    for device in ("cpu", D):
        torch.manual_seed(0)
        made.append(build().to(device))
    return made[0], made[1]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def rows(device: str = "cpu") -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).to(device)


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


# ---- Mixed precision


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_the_grad_scaler_steps_as_on_the_cpu_and_reads_nothing_itself(optimizer, fused):
    scales, reads, models = [], [], both(lambda: nn.Linear(4, 4))
    for model, device in zip(models, ("cpu", D), strict=True):
        update = optimizer(model.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler(device, init_scale=1024.0, growth_interval=2)
        for step in range(6):
            moai.reset_stats()
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = model(rows(device)).square().sum() * (float("inf") if step == 3 else 1.0)
            scaler.scale(loss).backward()
            scaler.unscale_(update)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(update)
            scaler.update()
            update.zero_grad()
            reads.append(moai.stats()["cut_reasons"])
        scales.append(scaler.get_scale())
    assert scales == [2048.0, 2048.0]
    same(models[1].weight, models[0].weight, 1e-2)
    # `if` in the scaler asks whether to step an optimizer that does not look at the gradients' state itself.
    assert reads[-1] == ({"optimizer step": 1} if fused else {"host read": 1, "optimizer step": 1})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_chooses_the_types_that_cuda_chooses(dtype):
    model, x = net().to(D), rows(D)
    with torch.autocast(D, dtype=dtype):
        out = model(x)
        assert out.dtype == dtype and (x @ x.T).dtype == dtype
        assert out.softmax(-1).dtype == out.exp().dtype == x.sum().dtype == torch.float32
        assert torch.get_autocast_dtype(D) == dtype and torch.is_autocast_enabled(D)
        with torch.autocast(D, enabled=False):
            assert model(x).dtype == torch.float32
    assert torch.amp.is_autocast_available(D) and not torch.is_autocast_enabled(D)


# ---- Files, other libraries' arrays


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_saved_tensors_come_back_where_they_are_asked_for(options):
    x = torch.arange(4.0, device=D)
    file = io.BytesIO()
    torch.save({"whole": x, "part": x[1:], "n": 3}, file, **options)
    for place, device in (
        (None, D),
        ("cpu", "cpu"),
        (D, D),
        ({"moai:0": "cpu"}, "cpu"),
        (lambda s, _: s, "cpu"),
    ):
        file.seek(0)
        read = torch.load(file, map_location=place)
        assert read["whole"].device.type == device or callable(place)
        read["part"][0] = 9
        assert read["whole"].tolist() == [0, 9, 2, 3], "views share their storage again"


def test_a_mapped_file_and_one_written_without_its_data(tmp_path):
    torch.save({"x": torch.arange(4.0, device=D)}, tmp_path / "x.pt")
    for device in ("cpu", D):
        read = torch.load(tmp_path / "x.pt", mmap=True, map_location=device)["x"]
        assert read.device.type == device and read.tolist() == [0, 1, 2, 3]


def test_safetensors_reads_and_writes(tmp_path):
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    from safetensors import safe_open

    host, device = both(net)
    path = tmp_path / "net.safetensors"
    library.save_file(device.state_dict(), path)
    for place in ("cpu", D, "moai:0"):
        read = library.load_file(path, device=place)
        assert {tensor.device.type for tensor in read.values()} == {place.partition(":")[0]}
        same(read["0.weight"], host[0].weight, 0)
    with safe_open(path, "pt", device=D) as file:
        assert isinstance(file, safe_open) and set(file.keys()) == set(host.state_dict())
        part = file.get_slice("0.weight")
        assert part.get_shape() == [8, 4] and part[1:3].device.type == D
        same(part[1:3], host[0].weight[1:3], 0)
    library.load_model(device, path, device=D)
    with safe_open(path, "pt") as file:
        assert isinstance(file, safe_open) and file.get_tensor("0.weight").device.type == "cpu"


@pytest.mark.filterwarnings("ignore")
def test_distributed_checkpoints_of_one_process(tmp_path):
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def trained():
        model = net().to(D)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model(rows(D)).square().sum().backward()
        optimizer.step()
        return model, optimizer

    model, optimizer = trained()
    weights, state = get_state_dict(model, optimizer)
    checkpoint.save({"weights": weights, "state": state}, checkpoint_id=tmp_path / "a")
    checkpoint.async_save({"weights": weights}, checkpoint_id=tmp_path / "b").result()
    other, its_optimizer = trained()
    read = dict(zip(("weights", "state"), get_state_dict(other, its_optimizer), strict=True))
    checkpoint.load(read, checkpoint_id=tmp_path / "a")
    set_state_dict(other, its_optimizer, model_state_dict=read["weights"], optim_state_dict=read["state"])
    same(other[0].weight, model[0].weight, 0)
    same(its_optimizer.state[other[0].weight]["exp_avg"], optimizer.state[model[0].weight]["exp_avg"], 0)
    assert other[0].weight.device.type == D
    on_host = {"weights": {"0.weight": torch.zeros(8, 4)}}
    checkpoint.load(on_host, checkpoint_id=tmp_path / "b")
    same(on_host["weights"]["0.weight"], model[0].weight, 0)


def test_other_libraries_get_a_copy_on_the_host():
    x = torch.arange(4.0, device=D)
    for array in (numpy.from_dlpack(x), x.cpu().numpy(), x.numpy(force=True), torch.from_dlpack(x).numpy()):
        assert array.tolist() == [0, 1, 2, 3]
    assert torch.from_dlpack(x, device=D).device.type == D and x.tolist() == [0, 1, 2, 3]
    assert torch.from_dlpack(numpy.ones(2), device=D).device.type == D
    with pytest.raises(BufferError, match="copy=None or copy=True"):
        torch.from_dlpack(x, copy=False)
    with pytest.raises(
        TypeError, match=r"can't convert moai:0 device type tensor to numpy. Use Tensor.cpu\(\)"
    ):
        numpy.asarray(x)
    assert torch.from_dlpack(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    "dtype",
    [
        torch.complex32,
        torch.complex64,
        torch.uint16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float8_e8m0fnu,
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_storage_types_move_and_cast(dtype):
    x = torch.tensor([1.0, 2.0, 4.0, 8.0])
    there = x.to(dtype).to(D)
    assert there.dtype == dtype and there.cpu().view(torch.uint8).equal(x.to(dtype).view(torch.uint8))
    real = there.real if dtype.is_complex else there
    assert real.float().tolist() == x.to(D).tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize("dtype", [torch.bits8, torch.int4], ids=str)
def test_types_without_kernels_say_what_to_do(dtype):
    with pytest.raises(NotImplementedError, match=r"moai has no tensors of type \w+; .*view\(torch.uint8\)"):
        torch.empty(2, dtype=torch.uint8).view(dtype).to(D)


# ---- Utilities of modules and transforms


@pytest.mark.parametrize(
    "reshape",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
        lambda m: prune.ln_structured(m, "weight", 0.3, 2, 0),
        lambda m: prune.l1_unstructured(m, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "prune_rows", "prune"],
)
def test_parametrized_modules_train_as_on_the_cpu(reshape):
    modules, x = both(lambda: reshape(nn.Linear(4, 4))), rows()
    moai.reset_stats()
    for module in modules:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(2):
            module(x.to(next(module.parameters()).device)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert moai.stats()["ops"] > 10
    for got, want in zip(modules[1].parameters(), modules[0].parameters(), strict=True):
        same(got, want, 1e-4)


def test_parameters_become_a_vector_and_come_back():
    host, device = both(net)
    vector = nn.utils.parameters_to_vector(device.parameters())
    assert vector.device.type == D
    nn.utils.vector_to_parameters(vector * 2, device.parameters())
    for got, want in zip(device.parameters(), host.parameters(), strict=True):
        same(got, want * 2)


def test_function_transforms_equal_the_cpus():
    func, x = torch.func, rows()

    def f(x):
        return (x.sin() * x).sum()

    transforms = {
        "grad": func.grad(f),
        "vmap of grad": func.vmap(func.grad(f)),
        "jacrev": func.jacrev(f),
        "jacfwd": func.jacfwd(f),
        "hessian": func.hessian(f),
        "jvp": lambda x: func.jvp(f, (x,), (x,))[1],
        "functionalize": func.functionalize(lambda x: x.clone().add_(1)),
    }
    moai.reset_stats()
    for name, transform in transforms.items():
        torch.testing.assert_close(
            transform(x.to(D)).cpu(), transform(x), msg=lambda text, name=name: f"{name}: {text}"
        )
    assert moai.stats()["ops"] > 30 and not moai.stats()["at_once"]
    models = [nn.Linear(4, 2).to(D) for _ in range(3)]
    stacked, buffers = func.stack_module_state(models)
    out = func.vmap(lambda p, b, x: func.functional_call(models[0], (p, b), (x,)), in_dims=(0, 0, None))(
        stacked, buffers, x.to(D)
    )
    same(out[1], models[1](x.to(D)))
    for kind in ("different", "same"):
        noise = func.vmap(lambda x: torch.randn_like(x), randomness=kind)(torch.zeros(2, 3, device=D))
        assert noise[0].equal(noise[1]) == (kind == "same")


def test_swap_tensors_exchanges_devices():
    ours, host = torch.ones(3, device=D), torch.zeros(2)
    torch.utils.swap_tensors(ours, host)
    assert host.device.type == D and host.sum().item() == 3 and ours.device.type == "cpu"
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module = nn.Linear(3, 3)
        weight = module.weight
        assert module.to(D).weight is weight and weight.device.type == D
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_fake_and_meta_tensors_record_nothing():
    from torch._subclasses.fake_tensor import FakeTensorMode

    moai.reset_stats()
    with FakeTensorMode() as mode:
        out = nn.Linear(4, 5, device=D)(torch.ones(3, 4, device=D))
        assert out.device.type == D and out.shape == (3, 5)
        assert torch.ones(3).to(D).device.type == D and (mode.from_tensor(rows(D)) + 1).shape == (5, 4)
        heads = [torch.ones(1, 2, 3, 4, device=D)] * 3
        assert nn.functional.scaled_dot_product_attention(*heads).shape == (1, 2, 3, 4)
    with torch.device("meta"):
        module = nn.Linear(3, 3)
    assert moai.stats()["ops"] == 0
    module.to_empty(device=D).load_state_dict(nn.Linear(3, 3).state_dict())
    assert module.weight.device.type == D and module.weight.to("meta").is_meta


def test_custom_ops_with_a_fake_are_recorded_and_differentiated():
    @torch.library.custom_op("moai_test::square", mutates_args=(), device_types="cpu")
    def square(x: torch.Tensor) -> torch.Tensor:
        return x * x

    square.register_fake(torch.empty_like)
    square.register_autograd(
        lambda ctx, grad: 2 * grad * ctx.saved_tensors[0],
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    x = torch.arange(3.0, device=D, requires_grad=True)
    moai.reset_stats()
    y = square(x)
    y.sum().backward()
    assert moai.stats()["ops_at_once"] == 0 and moai.stats()["cuts"] == 0
    assert y.tolist() == [0, 1, 4] and x.grad.tolist() == [0, 2, 4]


# ---- Compiler, profiler


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

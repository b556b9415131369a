"""What a script sees of tensors: texts, numbers, views, writes, reads, loops that depend on values."""

from __future__ import annotations

import itertools

import numpy
import pytest
import torch
import torch.nn.functional as F
from scenarios import Scenarios, batch, mlp
from torch import nn

scenario = Scenarios()


@scenario
def texts_of_tensors(device):
    t = torch.linspace(-1, 1, 6).to(device).view(2, 3)
    return [
        repr(t.tolist()),
        str(t > 0),
        f"{t[0, 0]:.2f}",
        repr(t.requires_grad_().sum()),
        repr(torch.zeros(0, 2, device=device)),
        repr(t.bfloat16().detach()),
        repr(nn.Parameter(t.detach())),
        str(torch.arange(3000).to(device)),
    ]


@scenario
def numbers_from_tensors(device):
    t = torch.tensor([3], device=device)
    return (
        int(t),
        float(t),
        bool(t),
        t.item(),
        range(5)[t],
        [1, 2, 3, 4][t],
        len(t),
        2 in t,
        list(t),
        round(float(t / 7), 4),
    )


@scenario
def tensors_in_python_containers(device):
    a, b = torch.ones(2, device=device), torch.ones(2, device=device)
    return (
        {a: 1}[a],
        a is a,
        len({a, b}),
        torch.equal(a, b),
        torch.allclose(a, b),
        [x.sum() for x in torch.stack([a, b])],
    )


@scenario
def numpy_takes_host_tensors_only(device):
    t = torch.arange(4.0, device=device)
    if device == "cpu":
        return t.numpy(), numpy.asarray(t), t.tolist()
    with pytest.raises(TypeError, match="moai:0 device type tensor to numpy. Use Tensor.cpu"):
        t.numpy()
    return t.cpu().numpy(), t.numpy(force=True), t.tolist()


@scenario
def snapshots_of_the_hosts_memory(device):
    array = numpy.arange(4.0)
    host = torch.from_numpy(array)
    taken = [
        host.to(device, copy=True),
        torch.tensor(array, device=device),
        torch.as_tensor(array.copy(), device=device),
    ]
    later = torch.empty(4, dtype=torch.float64, device=device)
    later.copy_(host, non_blocking=True)
    array[:] = -1
    host.add_(5)
    return taken, later


@scenario
def reads_are_snapshots(device):
    t = torch.zeros(3, device=device)
    read = t.cpu().clone(), t.tolist(), t.to("cpu", copy=True)
    t.add_(1)
    host = torch.empty(3)
    host.copy_(t)
    t.add_(1)
    return read, host, t


@scenario
def kinds_and_promotion(device):
    a, i = torch.tensor([1.5], device=device), torch.tensor([2], device=device)
    results = [
        a + i,
        i + 1.0,
        i / 2,
        i // 2,
        a.half() + 1,
        i + True,
        torch.tensor(3.0) * i,
        i * torch.tensor(2.5),
        a**2,
        2**i,
    ]
    return [(r.dtype, r) for r in results]


@scenario
def scalars_of_other_devices_are_numbers(device):
    x = torch.ones(3, device=device)
    outs = []
    for k in range(4):
        x = x * torch.tensor(0.5 + k)
        x += torch.tensor(k)
        outs.append(torch.where(x > torch.tensor(1.0), x, 0.0))
    return outs


@scenario
def views_of_other_kinds(device):
    x = torch.arange(12.0).to(device)
    return [
        x.view(torch.int32),
        torch.view_as_complex(x.view(6, 2)).real,
        x.unfold(0, 3, 2),
        x.as_strided((3, 3), (1, 2), 1),
        x.view(3, 4).diagonal(1),
        torch.broadcast_tensors(x[:3, None], x[:2])[0],
        x.view(3, 4).T.reshape(-1),
        x.view(2, 6).tensor_split((1, 4), dim=1)[1],
        x.view(1, 3, 1, 4).squeeze().stride(),
        x.view(3, 4).T.is_contiguous(),
        x[2:].storage_offset(),
    ]


@scenario
def channels_last(device):
    x = torch.randn(2, 3, 4, 4).to(device).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(3, 5, 3).to(device).to(memory_format=torch.channels_last)
    y = conv(x)
    y.sum().backward()
    return x.stride(), y, conv.weight.grad, x.permute(0, 2, 3, 1).reshape(-1, 3)


FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("reordered", ["input", "weight", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_convolution_and_its_gradients_have_the_cpus_strides(dtype, reordered) -> None:
    for dims, transposed, groups, kernel in itertools.product((2, 3), (False, True), (1, 3), (1, 3)):
        make = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
        strides = []
        for device in ("cpu", "moai"):
            layer = make(3, 6, kernel, groups=groups, dtype=dtype).to(device)
            x = torch.ones(4, 3, *[5] * dims, dtype=dtype).to(device)
            if reordered != "weight":
                x = x.to(memory_format=FORMATS[dims])
            if reordered != "input":
                layer = layer.to(memory_format=FORMATS[dims])
            y = layer(x.requires_grad_())
            gradients = torch.autograd.grad(y, (x, layer.weight), torch.ones_like(y))
            strides.append([t.stride() for t in (y, *gradients)])
        assert strides[0] == strides[1], (make, groups, kernel)


OVERLAPS = {
    "in_place": (lambda x: x[1:].add_(x[:-1]), True),
    "copy": (lambda x: x[1:].copy_(x[:-1]), True),
    "out": (lambda x: torch.add(x[1:], 1, out=x[:-1]), True),
    "out_is_the_operand": (lambda x: torch.add(x, 1, out=x), False),
    "gathered_into_itself": (lambda x: torch.gather(x, 0, torch.zeros(8).long().to(x.device), out=x), True),
    "joined_into_itself": (lambda x: torch.cat([x[:4], x[4:]], out=x), True),
    "itself": (lambda x: x.add_(x), False),
    "apart": (lambda x: x[4:].add_(x[:4]), False),
    "interleaved": (lambda x: x[::2].add_(x[1::2]), False),
}


@pytest.mark.parametrize(("write", "refused"), OVERLAPS.values(), ids=OVERLAPS)
def test_a_write_that_overlaps_what_it_reads_is_refused_as_on_the_cpu(write, refused) -> None:
    said = []
    for device in ("cpu", "moai", "moai"):
        x = torch.arange(8.0, device=device)
        try:
            write(x)
            said.append("")
        except RuntimeError as error:
            said.append(str(error))
        said[-1] += str(x.tolist())
    assert said[0] == said[1] == said[2] and ("single memory location" in said[0]) == refused


def test_an_overlap_is_refused_also_where_only_an_offset_differs_from_a_known_trace() -> None:
    for _ in range(3):
        x = torch.arange(8.0, device="moai")
        x[4:6].add_(x[0:2])
        with pytest.raises(RuntimeError, match="refer to a single memory location"):
            x[1:3].add_(x[0:2])
        assert x.tolist() == [0, 1, 2, 3, 4, 6, 6, 7]


@scenario
def indexing_of_every_kind(device):
    x = torch.arange(24.0).to(device).view(2, 3, 4)
    mask = torch.tensor([True, False, True])
    x[:, mask] = -1
    x[..., [0, 2]] *= 2
    x[torch.tensor([0, 1]), torch.tensor([2, 0])] = torch.arange(4.0).to(device)
    x[0, None, 1:, ::2] += 10
    x[(x > 15) & (x < 20)] = 0
    return (
        x,
        x[:, mask.to(device)],
        x[1, [2, 0]],
        x[-1][:, -1],
        x[..., 0],
        x[x < 0],
        x.take(torch.tensor([3, 5]).to(device)),
    )


@scenario
def out_arguments_grow_and_keep(device):
    out = torch.empty(0, device=device)
    kept = out
    for n in (2, 3, 3):
        out.resize_(0)
        torch.add(torch.ones(n, device=device), n, out=out)
        torch.mul(out, 2, out=out)
    return out, kept is out, kept.shape


@scenario
def an_out_argument_that_grows_keeps_its_inputs_order(device):
    x, out = torch.arange(12.0).to(device).view(2, 2, 3).permute(2, 0, 1), torch.empty(0, device=device)
    torch.add(x, 1, out=out)
    out.transpose(0, 2).reshape(-1)[3] = -1
    return out, out.stride()


@scenario
def storages_swap_and_share(device):
    a, b = torch.ones(3, device=device), torch.zeros(3, device=device)
    a.data, b.data = b.data, a.data
    c = torch.empty(0, device=device).set_(a)
    c.add_(5)
    torch.utils.swap_tensors(a, b)
    return a, b, c, a.data_ptr() == c.data_ptr(), b.data_ptr() == c.data_ptr()


@scenario
def a_ring_buffer(device):
    buffer, sums = torch.zeros(4, 2, device=device), []
    for i in range(10):
        buffer[i % 4] = torch.full((2,), float(i)).to(device)
        sums.append(buffer.sum().item() if i % 3 == 0 else buffer.mean(0))
    return buffer, sums


@scenario
def batches_of_a_resident_set(device):
    data = torch.randn(40, 4).to(device)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    model, losses = mlp(device), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i in range(0, 40, 5):
        for x in (data[i : i + 5], data[order[i : i + 5].to(device)], data[order[i : i + 5]]):
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@scenario
def generation_with_a_cache_written_in_place(device):
    keys, outs = torch.zeros(1, 2, 8, 4, device=device), []
    project = nn.Linear(4, 4).to(device)
    x = torch.randn(1, 2, 1, 4).to(device)
    with torch.no_grad():
        for position in range(8):
            keys[:, :, position : position + 1] = project(x)
            seen = keys[:, :, : position + 1]
            x = F.scaled_dot_product_attention(x, seen, seen)
            outs.append(x.argmax(-1).flatten().tolist())
    return outs, keys


@scenario
def beam_search_reorders(device):
    table = torch.randn(5, 5).to(device).log_softmax(-1)
    scores, beams = torch.zeros(1, device=device), torch.zeros(1, 1, dtype=torch.long, device=device)
    for _ in range(4):
        candidates = scores[:, None] + table[beams[:, -1]]
        scores, flat = candidates.flatten().topk(3)
        beams = torch.cat([beams[flat // 5], (flat % 5)[:, None]], 1)
        if (scores < -100).any():
            break
    return scores, beams


@scenario
def sampling_stops_when_told(device):
    tokens, steps = torch.zeros(2, 1, dtype=torch.long, device=device), 0
    while not (tokens[:, -1] >= 6).all():
        tokens = torch.cat([tokens, (tokens[:, -1:] * 2 + 1).clamp(max=7)], 1)
        steps += 1
    return tokens, steps


@scenario
def control_flow_on_values(device):
    x, path = torch.tensor(1.0, device=device), []
    for _ in range(10):
        if x > 3:
            x, path = x - 2.5, [*path, "down"]
        elif x.isnan():
            break
        else:
            x, path = x * 1.7, [*path, "up"]
    return x, path


@scenario
def autocast_casts_what_it_should(device):
    model = mlp(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = model(batch(device))
        loss = F.mse_loss(out, torch.zeros_like(out))
        dtypes = [
            out.dtype,
            loss.dtype,
            (out @ out.t()).dtype,
            out.softmax(-1).dtype,
            out.float().sum().dtype,
        ]
        with torch.autocast(device, enabled=False):
            dtypes.append(model(batch(device)).dtype)
    loss.backward()
    if device == "cpu":  # autocast's lists differ between the CPU and accelerators
        return [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32, torch.float32, torch.float32], [
            torch.float32
        ] * 4
    return dtypes, [p.grad.dtype for p in model.parameters()]


@scenario
def constants_of_every_maker(device):
    def on(f, *args, **more):
        return f(*args, device=device, **more)

    return [
        on(torch.zeros, 2, 2),
        on(torch.full, (2,), 7),
        on(torch.arange, 1, 9, 3),
        on(torch.linspace, 0, 1, 5),
        on(torch.eye, 3),
        on(torch.tensor, [[1, 2], [3, 4]]),
        on(torch.tril_indices, 3, 3),
        on(torch.scalar_tensor, 2.5),
        torch.ones(2, device=device).new_tensor([1, 2]),
        torch.asarray([1.0, 2.0], device=device),
        on(torch.hann_window, 4),
        on(torch.logspace, 0, 2, 3),
        on(torch.ones, 2, dtype=torch.complex64),
    ]


@scenario
def devices_are_told(device):
    t = torch.zeros(2, device=device)
    return [
        t.device.type == device,
        torch.empty_like(t).device == t.device,
        torch.zeros(1).to(t).device == t.device,
        t.to(device) is t,
        t.is_cpu == (device == "cpu"),
        torch.device(device).type == device,
        t.type().rsplit(".", 1)[-1],
        t.is_leaf,
        t.layout,
        t.is_floating_point(),
    ]


@scenario
def a_default_dtype_that_has_changed_when_work_runs(device):
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        made = [
            torch.ones(3, device=device),
            torch.full((3,), 0.1, device=device),
            torch.linspace(0, 1, 3, device=device),
            torch.eye(2, device=device),
            torch.arange(0.0, 0.3, 0.1, device=device),
        ]
    finally:
        torch.set_default_dtype(before)
    return [(t.dtype, t.tolist()) for t in made]


@scenario
def a_default_dtype_that_changes(device):
    before = torch.get_default_dtype()
    seen = []
    try:
        for dtype in (torch.float32, torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            whole = torch.arange(1, 4, device=device)
            made = [torch.ones(3, device=device), torch.zeros(3, device=device), whole / 2, whole.sqrt()]
            seen += [(t.dtype, t.tolist()) for t in made]
    finally:
        torch.set_default_dtype(before)
    return seen


test_is_as_on_the_cpu = scenario.test()

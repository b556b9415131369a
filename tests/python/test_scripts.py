"""What training scripts do besides multiplying matrices: each test runs it on moai and, where there is a number, on the CPU."""

from __future__ import annotations

import copy
import io
import os
import pickle
import signal
import subprocess
import sys
import threading

import moai
import numpy
import pytest
import torch
from torch import nn

D = "moai"


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a.detach().cpu(), b.detach().cpu(), atol=tolerance, rtol=tolerance)


def pair(model: nn.Module) -> tuple[tuple[nn.Module, str], tuple[nn.Module, str]]:
    """The model on the CPU, and a copy of it on moai."""
    return (model, "cpu"), (copy.deepcopy(model).to(D), D)


def test_tied_weights_and_an_optimizer_made_before_to():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed(x))

    torch.manual_seed(0)
    ours, theirs = Tied(), Tied()
    theirs.load_state_dict(ours.state_dict())
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1) for m in (ours, theirs)]
    ours.to(D)
    assert ours.head.weight is ours.embed.weight
    for _ in range(3):
        for m, optimizer, device in ((ours, optimizers[0], D), (theirs, optimizers[1], "cpu")):
            m(torch.arange(6).to(device)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    same(ours.head.weight, theirs.head.weight)


def test_writes_through_views_are_seen_by_all():
    for_both = (torch.zeros(4, 6), torch.zeros(4, 6, device=D))
    for t in for_both:
        t[1:3].add_(2)
        t.t()[2].mul_(3)
        t.view(-1)[::5].fill_(7)
        t[:, 1] = t[:, 2]
        t.diagonal()[:2] += 1
    same(*for_both)


def test_a_saved_tensor_that_changed_is_refused():
    y = torch.ones(3, device=D, requires_grad=True) * 2
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


@pytest.mark.parametrize("kind", ["default", "foreach", "fused"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_optimizers_step_as_on_the_cpu(optimizer, kind):
    torch.manual_seed(0)
    options = {} if kind == "default" else {kind: True}
    sides = pair(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)))
    for model, device in sides:
        torch.manual_seed(1)
        chosen = optimizer(model.parameters(), lr=0.1, weight_decay=0.1, **options)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(chosen, 10)
        for _ in range(6):
            model(torch.randn(3, 4).to(device)).square().sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            chosen.step()
            schedule.step()
            chosen.zero_grad()
    for a, b in zip(sides[0][0].parameters(), sides[1][0].parameters(), strict=True):
        same(a, b, 1e-4)


def test_threads_record_apart():
    results = {}

    def train(seed: int, device: str) -> None:
        generator = torch.Generator().manual_seed(seed)
        model = nn.Linear(4, 4)
        with torch.no_grad():
            model.weight.copy_(torch.randn(4, 4, generator=generator))
            model.bias.zero_()
        model.to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for step in range(20):
            loss = model(torch.full((2, 4), float(step)).to(device)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 7 == 0:
                loss.item()
        results[seed, device] = model.weight.detach().cpu()

    threads = [threading.Thread(target=train, args=(seed, D)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        train(seed, "cpu")
        same(results[seed, D], results[seed, "cpu"])


def test_two_threads_share_a_tensor():
    shared = torch.zeros(1000, device=D)
    moai.sync()
    seen = []

    def read() -> None:
        for _ in range(50):
            seen.append((shared + 0).sum().item() % 1000)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(50):
        shared.add_(1)
    thread.join()
    assert set(seen) == {0.0} and shared.sum().item() == 50_000


def test_a_snapshot_does_not_see_later_writes_of_numpy():
    host = torch.ones(4)
    device = host.to(D)
    host.numpy()[:] = 5
    same(device, torch.ones(4))


def test_a_growing_cache():
    step = torch.tensor([[0.5, -1.0]])
    caches = [torch.zeros(0, 2), torch.zeros(0, 2, device=D)]
    for i in range(30):
        sums = []
        for k, device in enumerate(("cpu", D)):
            caches[k] = torch.cat([caches[k], step.to(device) * i])
            sums.append((caches[k] @ caches[k].t()).softmax(-1).square().sum().item())
        assert sums[0] == pytest.approx(sums[1], abs=1e-4)


def test_a_moving_index_is_a_number():
    data = torch.arange(1000.0).to(D)
    for i in range(50):
        assert (data[i * 10 : (i + 1) * 10] * 2).sum().item() == sum(
            2 * x for x in range(i * 10, i * 10 + 10)
        )
        if i == 5:
            before = moai.stats()
    after = moai.stats()
    assert (after["traces"], after["compiles"]) == (before["traces"], before["compiles"])


def test_a_thousand_steps_compile_at_most_four_times():
    torch.manual_seed(0)
    losses = {}
    before = moai.stats()
    for model, device in pair(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 2))):
        generator = torch.Generator().manual_seed(1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
        losses[device] = []
        for step in range(1000):
            x = torch.randn(4, 8, generator=generator).to(device)
            loss = (model(x) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 10 == 0:
                losses[device].append(loss.item())
            if step % 100 == 0:
                with torch.no_grad():
                    losses[device].append(model(x).mean().item())
    assert moai.stats()["compiles"] - before["compiles"] <= 4
    numpy.testing.assert_allclose(losses[D], losses["cpu"], atol=2e-3)


def test_two_hundred_lengths():
    torch.manual_seed(0)
    (a, _), (b, _) = pair(nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 16)))
    before = moai.stats()["compiles"]
    for length in range(1, 201):
        tokens = torch.arange(length) % 16
        same(a(tokens).logsumexp(-1).sum(), b(tokens.to(D)).logsumexp(-1).sum(), 1e-4)
    assert moai.stats()["compiles"] - before <= 4


def test_checkpoint_draws_the_same_dropout_again():
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4)).to(D)
    x = torch.ones(3, 4, device=D)
    torch.manual_seed(5)
    checkpoint(model, x, use_reentrant=False).sum().backward()
    with_checkpoint = model[0].weight.grad.clone()
    model.zero_grad()
    torch.manual_seed(5)
    model(x).sum().backward()
    same(with_checkpoint, model[0].weight.grad)


def test_hooks_change_gradients():
    model = nn.Linear(3, 3).to(D)
    model.weight.register_hook(lambda g: g * 2)
    model(torch.ones(1, 3, device=D)).sum().backward()
    same(model.weight.grad, torch.full((3, 3), 2.0))


def test_state_goes_to_a_file_and_to_either_device():
    model = nn.Linear(3, 3).to(D)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3, device=D)).sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    for map_location, device in (("cpu", "cpu"), (None, D), (D, D)):
        file.seek(0)
        saved = torch.load(file, map_location=map_location)
        assert saved["model"]["weight"].device.type == device
        same(saved["model"]["weight"], model.weight)
    again = nn.Linear(3, 3).to(D)
    again.load_state_dict(saved["model"])
    optimizer_again = torch.optim.AdamW(again.parameters())
    optimizer_again.load_state_dict(saved["optimizer"])
    for m, o in ((model, optimizer), (again, optimizer_again)):
        o.zero_grad()
        m(torch.ones(1, 3, device=D)).sum().backward()
        o.step()
    same(model.weight, again.weight)


@pytest.mark.parametrize("copied", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy, torch.clone])
def test_copies_are_equal(copied):
    same(copied(torch.arange(6.0).to(D).view(2, 3)), torch.arange(6.0).view(2, 3))


def test_random_state():
    torch.manual_seed(3)
    first = torch.rand(5, device=D).cpu()
    state = torch.moai.get_rng_state()
    second = torch.rand(5, device=D).cpu()
    torch.moai.set_rng_state(state)
    assert torch.equal(second, torch.rand(5, device=D).cpu()) and not torch.equal(first, second)
    torch.manual_seed(3)
    with torch.random.fork_rng(devices=[0], device_type=D):
        torch.rand(5, device=D)
    assert torch.equal(first, torch.rand(5, device=D).cpu())
    generator = torch.Generator(device=D).manual_seed(7)
    a = torch.randn(4, device=D, generator=generator).cpu()
    assert torch.equal(a, torch.randn(4, device=D, generator=generator.manual_seed(7)).cpu())


def test_default_device():
    torch.set_default_device(D)
    try:
        model = nn.Linear(3, 3)
        assert model.weight.device.type == D and model(torch.ones(2, 3)).device.type == D
    finally:
        torch.set_default_device(None)


@torch.library.custom_op("moaitest::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.numpy() * 2)


@torch.library.custom_op("moaitest::thrice", mutates_args=())
def thrice(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.numpy() * 3)


thrice.register_fake(torch.empty_like)


@pytest.mark.parametrize(("op", "factor", "at_once"), [(twice, 2, 1), (thrice, 3, 0)])
def test_custom_ops_are_recorded_where_their_shape_is_known(op, factor, at_once):
    before = moai.stats()["ops_at_once"]
    same(op(torch.ones(3, device=D) + 1) + 1, torch.full((3,), 2.0 * factor + 1))
    assert moai.stats()["ops_at_once"] - before == at_once


def test_reading_the_loss_before_backward():
    torch.manual_seed(0)
    sides = pair(nn.Linear(4, 4))
    for model, device in sides:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(6):
            loss = model(torch.ones(2, 4).to(device)).square().sum()
            loss.item()
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()
    same(sides[0][0].weight, sides[1][0].weight)
    assert len(moai.stats()["cycle"]) == 2


def test_a_loop_that_never_reads_is_cut():
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(20)]).to(D)
    before = moai.stats()["cut_reasons"].get("repeat", 0)
    with torch.no_grad():
        for _ in range(100):
            y = model(torch.ones(2, 8, device=D))
    assert moai.stats()["cut_reasons"]["repeat"] > before
    assert y.shape == (2, 8) and y.isfinite().all()


def test_autocast_and_gradscaler():
    model = nn.Linear(4, 4).to(D)
    scaler = torch.amp.GradScaler(D, init_scale=16.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().cpu().clone()
    with torch.autocast(D, dtype=torch.float16):
        out = model(torch.ones(2, 4, device=D))
        loss = out.float().sum()
    assert out.dtype == torch.float16
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    same(model.weight, before - 0.2, 1e-2)


def test_parameter_data_may_be_replaced():
    p = nn.Parameter(torch.ones(3))
    p.data = p.data.to(D)
    p.data = torch.full((3,), 2.0, device=D)
    (p * 3).sum().backward()
    same(p.grad, torch.full((3,), 3.0))


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_nets(cell):
    torch.manual_seed(0)
    sides = pair(cell(4, 6, num_layers=2, batch_first=True, bidirectional=True))
    for length in (1, 5, 9):
        x = torch.randn(2, length, 4)
        outs = [model(x.to(device))[0] for model, device in sides]
        same(*outs)
        for out in outs:
            out.square().sum().backward()
    for a, b in zip(sides[0][0].parameters(), sides[1][0].parameters(), strict=True):
        same(a.grad, b.grad, 1e-4)


def test_convolutions_and_batch_norm():
    torch.manual_seed(0)
    (a, _), (b, _) = pair(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)))
    for _ in range(3):
        x = torch.randn(2, 3, 8, 8)
        for model, device in ((a, "cpu"), (b, D)):
            model(x.to(device)).sum().backward()
    same(a[1].running_var, b[1].running_var)
    same(a[0].weight.grad, b[0].weight.grad, 1e-3)
    same(a.eval()(x), b.eval()(x.to(D)))


def test_complex_numbers():
    torch.manual_seed(0)
    z, y = torch.randn(4, dtype=torch.complex64), torch.randn(4, dtype=torch.complex64)
    for f in (
        lambda z, y: z.conj() * y,
        lambda z, y: (z * 1j).imag,
        lambda z, y: torch.linalg.vecdot(z, y).abs(),
    ):
        same(f(z, y), f(z.to(D), y.to(D)))


def test_one_value_given_twice_to_an_op_that_writes():
    # Both steps begin as equal zeros; adding to each must not add twice to one.
    steps = [torch.zeros((), device=D), torch.zeros((), device=D)]
    torch._foreach_add_(steps, 1)
    assert [s.item() for s in steps] == [1.0, 1.0]


def test_a_sum_with_its_own_transpose():
    a = torch.arange(100.0).view(10, 10)
    same((a.to(D) * 1) + (a.to(D) * 1).t(), a + a.t())
    b = a.to(D) * 1
    same(b + b.t(), a + a.t())


def test_data_loader_with_workers():
    data = torch.utils.data.TensorDataset(torch.arange(20.0))
    torch.ones(1, device=D).item()
    loader = torch.utils.data.DataLoader(data, batch_size=5, num_workers=2, pin_memory=True)
    assert [batch[0].to(D).sum().item() for batch in loader] == [10.0, 35.0, 60.0, 85.0]


def test_a_forked_child_is_told():
    torch.ones(1, device=D).item()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.ones(1, device=D).sum().item()
        except RuntimeError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as text:
        assert "forked" in text.read()


def run(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **options)


def test_a_script_that_ends_with_work_queued_ends():
    assert (
        run("import torch\nx = torch.ones(64, 64, device='moai')\nfor _ in range(50): x = x @ x").returncode
        == 0
    )


def test_a_script_that_raises_ends():
    done = run("import torch\nx = torch.ones(3, device='moai') + 1\nraise SystemExit(7)")
    assert done.returncode == 7


def test_ctrl_c_ends_a_wait():
    code = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import torch, moai\nx = torch.randn(1500, 1500, device='moai')\nprint('go', flush=True)\n"
        "try:\n    for _ in range(400): x = (x @ x).tanh()\n    print(x.sum().item())\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n    import os; os._exit(3)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    threading.Timer(1.0, process.send_signal, [signal.SIGINT]).start()
    assert process.wait(timeout=60) == 3 and "interrupted" in process.stdout.read()


def test_either_import_order():
    for code in ("import moai, torch", "import torch, moai", "import torch; torch.device('moai')"):
        assert run(code).returncode == 0
    assert (
        run(
            "import torch; torch.device('moai')", env=os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
        ).returncode
        == 1
    )


def test_what_happened_can_be_seen(tmp_path):
    with moai.trace(tmp_path / "step.json"):
        (torch.ones(3, device=D) * 3).sum().item()
    assert "aten.mul.Tensor" in (tmp_path / "step.json").read_text()
    assert "aten.sum" in moai.dump() and "program" in moai.dump()
    with moai.dry_run():
        big = torch.zeros(1 << 44, device=D) + 1
    assert big.shape == (1 << 44,)
    with pytest.raises(RuntimeError, match="dry"):
        big[:2].cpu()

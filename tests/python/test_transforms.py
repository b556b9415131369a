"""torch's utilities of modules, function transforms, fake tensors and custom ops."""

from __future__ import annotations

import moai
import pytest
import torch
from small_nets import D, both, net, rows, same
from torch import nn
from torch.nn.utils import prune


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


def test_padded_positions_of_an_encoder_hold_what_torchs_path_without_nested_tensors_leaves():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    host, device = both(lambda: nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval())
    x, padded = torch.randn(2, 4, 8), torch.tensor([[False] * 3 + [True], [False] * 4])
    with torch.no_grad():
        got = device(x.to(D), src_key_padding_mask=padded.to(D)).cpu()
        packed = host(x, src_key_padding_mask=padded)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            unpacked = host(x, src_key_padding_mask=padded)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    same(got, unpacked)
    same(got[~padded], packed[~padded])
    assert not packed[padded].any() and got[padded].all(), "they became equal: opinfo_known.STATED"

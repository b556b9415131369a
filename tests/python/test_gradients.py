"""Autograd promises the same whatever the device: gradients, hooks, refusals of what was overwritten."""

from __future__ import annotations

import warnings

import pytest
import torch
from scenarios import Scenarios, batch, leaf, mlp

scenario = Scenarios()


@scenario
def gradients_add_up_over_batches(device):
    model = mlp(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(8):
        (model(batch(device)).square().mean() / 4).backward()
        if step % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
    return model


@scenario
def a_graph_may_be_walked_twice(device):
    x = leaf(device, 3)
    y = x.exp().sum()
    y.backward(retain_graph=True)
    y.backward()
    return x.grad


@scenario
def a_freed_graph_is_refused(device):
    y = (leaf(device, 3) ** 2).sum()
    y.backward()
    with pytest.raises(RuntimeError) as caught:
        y.backward()
    return str(caught.value)


@scenario
def gradients_of_gradients(device):
    x = leaf(device, 4)
    (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    (second * x).sum().backward()
    return first, second, x.grad


@scenario
def a_gradient_penalty_trains(device):
    model, optimizer = (m := mlp(device)), torch.optim.Adam(m.parameters(), lr=0.01)
    for _ in range(3):
        x = batch(device).requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (slope.norm(dim=1) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, limit):
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.clamp(-limit, limit)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() < ctx.limit) + 0.1, None


@scenario
def a_function_of_the_users_own(device):
    x = leaf(device, 6)
    Clip.apply(x * 2, 0.7).square().sum().backward()
    return x.grad


@scenario
def tensor_hooks_change_gradients(device):
    x = leaf(device, 3)
    x.register_hook(lambda gradient: gradient * 2)
    y = x.exp()
    y.register_hook(lambda gradient: gradient.clamp(max=1.0))
    y.retain_grad()
    handle = y.register_hook(lambda gradient: gradient * 100)
    handle.remove()
    (y * 3).sum().backward()
    return x.grad, y.grad


@scenario
def hooks_after_accumulation_step_at_once(device):
    model = mlp(device)
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        model(batch(device)).square().sum().backward()
    return model, [p.grad is None for p in model.parameters()]


@scenario
def module_hooks_see_and_change(device):
    model, seen = mlp(device), []
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[0].register_forward_hook(lambda module, args, out: out + args[0].mean())
    model[2].register_full_backward_hook(lambda module, into, out: (into[0] * 0.5,))
    model[1].register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    model(batch(device)).sum().backward()
    return seen, [p.grad for p in model.parameters()]


@scenario
def saved_tensors_may_be_packed_on_the_host(device):
    x = leaf(device, 4)
    packed = []

    def pack(t):
        packed.append(t.shape)
        return t.device, t.cpu()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept[1].to(kept[0])):
        y = x.exp() * x.sigmoid()
    y.sum().backward()
    return x.grad, packed


@scenario
def saved_tensors_may_stay_on_the_host(device):
    x = leaf(device, 4)
    with torch.autograd.graph.save_on_cpu(pin_memory=False):
        y = (x * x).exp()
    y.sum().backward()
    return x.grad


@scenario
def gradients_flow_through_the_host(device):
    x = leaf(device, 4)
    ((x.exp().cpu() * 2).to(device) * x).sum().backward()
    return x.grad


@scenario
def checkpoint_of_either_kind(device):
    from torch.utils.checkpoint import checkpoint, checkpoint_sequential

    model, x = mlp(device), batch(device).requires_grad_()
    grads = []
    for call in (
        lambda: checkpoint(model, x, use_reentrant=False),
        lambda: checkpoint(model, x, use_reentrant=True),
        lambda: checkpoint_sequential(model, 2, x, use_reentrant=False),
        lambda: model(x),
    ):
        model.zero_grad()
        call().square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    return grads


@scenario
def writes_before_use_are_differentiated(device):
    x = leaf(device, 6)
    y = x * 1
    y[1:3] = x[:2] * 5
    y[4].mul_(3)
    y.view(2, 3).t()[0] += 7
    y.square().sum().backward()
    return y, x.grad


@scenario
def a_write_to_what_backward_needs_is_refused(device):
    refused = []
    for write in (
        lambda t: t.add_(1),
        lambda t: t[0].zero_(),
        lambda t: t.view(-1).copy_(torch.ones(3).to(device)),
    ):
        y = leaf(device, 3).exp()
        write(y)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
        refused.append(y._version)
    return refused


@scenario
def versions_count_writes(device):
    x = torch.zeros(3, device=device)
    view = x[1:]
    view.add_(1)
    x.mul_(2)
    with torch.no_grad():
        x.copy_(torch.ones(3))
    return x._version, view._version, x.detach()._version


@scenario
def frozen_parameters_stay(device):
    model = mlp(device)
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(4):
        model[0].weight.requires_grad_(step >= 2)
        model(batch(device)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, model[0].bias.grad is None


@scenario
def no_grad_and_inference_mode_loop(device):
    model, outs = mlp(device).eval(), []
    x = batch(device)
    with torch.no_grad():
        for _ in range(5):
            x = x + model(x).sum() * 0.1
        outs.append((x, x.requires_grad))
    with torch.inference_mode():
        for _ in range(5):
            x = x + model(x).sum() * 0.1
            x.mul_(0.5)
        outs.append((x.clone(), x.is_inference()))
    with pytest.raises(RuntimeError) as caught:
        (x * model[0].weight[0]).sum().backward()
    return outs, str(caught.value)


@scenario
def detached_views_share_memory(device):
    x = leaf(device, 4)
    x.detach()[1:].zero_()
    x.data.add_(1)
    (x * 2).sum().backward()
    return x, x.grad


@scenario
def functional_transforms(device):
    from torch.func import functional_call, grad, jacrev, vmap

    model, x = mlp(device), batch(device)
    params = dict(model.named_parameters())

    def loss(params, row):
        return functional_call(model, params, (row,)).square().sum()

    per_row = vmap(grad(loss), in_dims=(None, 0))(params, x)
    return per_row, jacrev(lambda t: t.sin() * t.sum())(x[0]), vmap(torch.dot)(x, x)


@scenario
def forward_mode(device):
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(torch.randn(3).to(device), torch.ones(3).to(device))
        return torch.autograd.forward_ad.unpack_dual((x.exp() * x).sum()).tangent


@scenario
def anomaly_mode_finds_the_op(device):
    x = torch.zeros(2, device=device, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly(), pytest.raises(RuntimeError) as caught:
            (x.sqrt() * 0).sum().backward()
    return str(caught.value)


@scenario
def gradcheck_holds(device):
    x = torch.randn(3, 2, dtype=torch.float64).to(device).requires_grad_()
    return torch.autograd.gradcheck(lambda t: (t.tanh() @ t.t()).logsumexp(1), (x,))


test_is_as_on_the_cpu = scenario.test()


def test_attention_in_double_precision_has_gradients() -> None:
    q, k, v = (torch.randn(2, 4, 6, 8, dtype=torch.float64) for _ in range(3))
    got, expected = ([t.to(device).requires_grad_() for t in (q, k, v)] for device in ("moai", "cpu"))
    for tensors in (got, expected):
        torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True).square().sum().backward()
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x.grad.cpu(), y.grad)

"""Modules move, copy, load and keep their parameters as on the CPU."""

from __future__ import annotations

import copy
import pickle

import torch
from scenarios import Scenarios, batch, mlp
from torch import nn

scenario = Scenarios()


@scenario
def to_keeps_parameters_and_goes_back(device):
    model = mlp("cpu")
    before = list(model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    devices = []
    for where in (device, "cpu", device):
        model.to(where)
        optimizer.zero_grad()
        model(batch(where)).sum().backward()
        devices.append([p.device.type == where and p.grad.device.type == where for p in model.parameters()])
    optimizer.step()
    return [a is b for a, b in zip(before, model.parameters(), strict=True)], devices, model.cpu()


@scenario
def modules_change_dtype(device):
    model = mlp(device).double()
    out = model(batch(device).double())
    return out, out.dtype, model.float().half().bfloat16().float()(batch(device))


@scenario
def batch_norm_keeps_statistics(device):
    model = mlp(device, nn.BatchNorm1d(8))
    for _ in range(4):
        model(batch(device, 5)).sum().backward()
    trained = copy.deepcopy(model.state_dict())
    return trained, model.eval()(batch(device)), model.state_dict()


@scenario
def copies_do_not_share(device):
    model = mlp(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(batch(device)).sum().backward()
    optimizer.step()
    twin = copy.deepcopy(model)
    pickled = pickle.loads(pickle.dumps(model))
    twin_optimizer = torch.optim.Adam(twin.parameters(), lr=0.1)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        model[0].weight.zero_()
    twin(batch(device)).sum().backward()
    twin_optimizer.step()
    return model, twin, pickled, optimizer, twin_optimizer


@scenario
def deepcopy_keeps_ties_and_views(device):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)}).to(device)
    model["b"].weight = model["a"].weight
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin["a"].weight.fill_(2)
    base = torch.zeros(4, device=device)
    base_twin, view_twin = copy.deepcopy([base, base[1:]])
    view_twin.fill_(3)
    return model, twin["b"].weight is twin["a"].weight, twin, base, base_twin


@scenario
def parametrizations(device):
    from torch.nn.utils import parametrizations, parametrize

    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 4)), parametrizations.orthogonal(nn.Linear(4, 4))
    )
    model.to(device)
    model(batch(device)).square().sum().backward()
    grads = [p.grad for p in model.parameters()]
    parametrize.remove_parametrizations(model[0], "weight")
    return grads, model[0].weight


@scenario
def parameters_as_one_vector(device):
    model = mlp(device)
    flat = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(flat * 0.5, model.parameters())
    flat_again = nn.utils.parameters_to_vector(model.parameters())
    return flat, flat_again, model(batch(device))


@scenario
def a_flat_buffer_holds_all_weights(device):
    model = mlp(device)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    start = 0
    for p in model.parameters():
        p.data = flat[start : start + p.numel()].view_as(p)
        start += p.numel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(batch(device)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        flat.mul_(0.9)
    return flat, model


@scenario
def an_average_of_weights(device):
    model = mlp(device)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        model(batch(device)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
    return average


@scenario
def lazy_modules(device):
    model = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d()).to(device)
    out = model(batch(device))
    return out.shape, [p.device.type == device for p in model.parameters()]


@scenario
def meta_modules_become_real(device):
    with torch.device("meta"):
        model = nn.Linear(4, 2)
    model.to_empty(device=device)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(p.numel()).view_as(p))
    return model, model(batch(device))


@scenario
def load_by_assignment(device):
    with torch.device("meta"):
        model = mlp("meta")
    model.load_state_dict(mlp(device).state_dict(), assign=True)
    model(batch(device)).sum().backward()
    return model, [p.grad for p in model.parameters()]


@scenario
def two_models_take_turns(device):
    players = [mlp(device), mlp(device)]
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in players]
    losses = []
    for step in range(6):
        for me, other in ((0, 1), (1, 0)) if step % 3 else ((0, 1),):
            x = batch(device)
            loss = (players[me](x) - players[other](x).detach()).square().mean()
            optimizers[me].zero_grad()
            loss.backward()
            optimizers[me].step()
            losses.append(loss.detach())
    return players, losses


@scenario
def recurrent_state_is_carried_and_cut(device):
    cell = nn.GRU(4, 4).to(device)
    state, losses = torch.zeros(1, 1, 4, device=device), []
    for _ in range(4):
        out, state = cell(torch.randn(3, 1, 4).to(device), state.detach())
        loss = out.square().sum()
        loss.backward()
        losses.append(loss.item())
    return losses, [p.grad for p in cell.parameters()]


test_is_as_on_the_cpu = scenario.test()

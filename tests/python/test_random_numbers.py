"""Random numbers: equal seeds give equal numbers however the step runs, and drawing neither cuts nor recompiles."""

from __future__ import annotations

import moai
import pytest
import torch
import torch.nn.functional as F
from torch import nn


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.cpu(), b.cpu())


def test_one_seed_makes_all_samplers_repeat() -> None:
    generator = torch.Generator(device="moai")
    makers = {
        "rand": lambda: torch.rand(5, device="moai"),
        "randn": lambda: torch.randn(5, device="moai"),
        "randint": lambda: torch.randint(0, 100, (8,), device="moai"),
        "randperm": lambda: torch.randperm(20, device="moai"),
        "dropout": lambda: F.dropout(torch.ones(40, device="moai"), 0.5),
        "bernoulli": lambda: torch.full((40,), 0.5, device="moai").bernoulli(),
        "multinomial": lambda: torch.ones(20, device="moai").multinomial(9),
        "exponential": lambda: torch.empty(5, device="moai").exponential_(),
        "normal": lambda: nn.init.trunc_normal_(torch.empty(5, device="moai")),
        "kaiming": lambda: nn.init.kaiming_uniform_(torch.empty(5, 5, device="moai")),
        "rand_like": lambda: torch.rand_like(torch.empty(5, device="moai")),
        "generator": lambda: torch.rand(5, device="moai", generator=generator),
    }
    for name, make in makers.items():
        rounds = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            generator.manual_seed(seed)
            rounds.append([make().cpu() for _ in range(3)])
        once, again, other = rounds
        assert all(map(same, once, again)), name
        assert not any(map(same, once, other)), name
        assert not same(once[0], once[1]), name


def test_a_seed_means_the_same_however_the_step_runs() -> None:
    """First sight, a followed trace and a planned program; one cut or many."""
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 1)).to("moai")
    x, outs = torch.ones(2, 4, device="moai"), []
    for cuts in (False, False, True, False, True):
        torch.manual_seed(11)
        a = model(x)
        if cuts:
            a.sum().item()
        b = model(x)
        outs.append((a.detach().cpu(), b.detach().cpu()))
    for a, b in outs:
        torch.testing.assert_close(a, outs[0][0])
        torch.testing.assert_close(b, outs[0][1])
        assert not torch.allclose(a, b)


def test_random_state_is_kept_and_put_back() -> None:
    def draw() -> torch.Tensor:
        return torch.rand(4, device="moai").cpu()

    torch.manual_seed(5)
    first = draw()
    state = torch.moai.get_rng_state()
    second = draw()
    with torch.random.fork_rng(devices=[0], device_type="moai"):
        torch.manual_seed(99)
        draw()
    third = draw()
    torch.moai.set_rng_state(state)
    assert same(draw(), second) and same(draw(), third) and not same(first, second)
    assert torch.moai.initial_seed() == 5
    generator = torch.Generator(device="moai").manual_seed(3)
    assert generator.device.type == "moai" and generator.initial_seed() == 3
    kept = generator.get_state()
    a = torch.rand(4, device="moai", generator=generator)
    other = torch.Generator(device="moai")
    other.set_state(kept)
    assert same(a, torch.rand(4, device="moai", generator=other))


def test_drawing_and_seeding_do_not_cut() -> None:
    moai.sync()
    before = moai.stats()["launches"]
    state = torch.moai.get_rng_state()
    x = torch.rand(4, device="moai")
    torch.moai.set_rng_state(state)
    y = torch.rand(4, device="moai")
    torch.manual_seed(1)
    assert moai.stats()["launches"] == before
    assert same(x, y)


def test_a_seed_does_not_recompile() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        F.dropout(torch.ones(64, device="moai"), 0.3).sum().item()
        if seed == 3:
            before = moai.stats()
    after = moai.stats()
    assert (after["traces"], after["compiles"]) == (before["traces"], before["compiles"])


def test_a_generator_of_another_device_is_refused() -> None:
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device="moai", generator=torch.Generator())
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=torch.Generator(device="moai"))

"""The planner's solver against mixed-integer programs that HiGHS solves: random graphs, and layers of real steps.

Its cost is the least where it says so, its bound is never above the least, and with limits on memory its gap is what
it states. HiGHS also recomputes the bound: it is the least cost of the problem in which memory has the solver's price.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from families import step
from moai import _C
from torch import nn

highspy = pytest.importorskip("highspy", reason="highspy is not installed")

from mixed_integer import Problem, solve  # noqa: E402

# The solver without its exact path, of which the dual alone is left or the dual and its branches; and as it is.
DUAL = {"exact_steps": 0, "branches": 0}
BRANCHED = {"exact_steps": 0}
SMALL_TABLES = {"table_entries": 30}
FULL: dict[str, float] = {}
TOLERANCE = 1e-6  # HiGHS's, of the cost


def slack(*costs: float) -> float:
    return TOLERANCE * max([abs(c) for c in costs if math.isfinite(c)] + [1e-12])


def random_problem(seed: int, limits: int) -> Problem:
    """Some 12 to 30 variables of up to 8 options: a chain with random further edges, costs of a few sorts."""
    rng = random.Random(seed)
    forbidden = rng.choice([0, 0, 0.05, 0.15])
    kind = rng.choice(["real", "ties", "placements"])
    variables = rng.randint(12, 30)
    options = [rng.randint(2, 8) for _ in range(variables)]

    def cost() -> float:
        if rng.random() < forbidden:
            return math.inf
        return float(rng.randint(-1, 3)) if kind == "ties" else rng.random() - 0.2

    edges = []
    for v in range(1, variables):
        edges.append((v - 1, v))
        if rng.random() < 0.4:
            edges.append((rng.randrange(v), v))
    tables = []
    for a, b in edges:
        if kind == "placements":  # as conversions: nothing where both say the same
            of_a, of_b = ([rng.randrange(4) for _ in range(options[v])] for v in (a, b))
            price = [[0.0 if i == j else cost() for j in range(4)] for i in range(4)]
            tables.append((a, b, [price[i][j] for i in of_a for j in of_b]))
        else:
            tables.append((a, b, [cost() for _ in range(options[a] * options[b])]))
    uses = [
        [float(rng.randrange(20)) for _ in range(n * limits)] if rng.random() < 0.8 else [] for n in options
    ]
    most = sum(20 for of in uses if of)
    bound = [math.floor(most * rng.uniform(0.25, 0.5)) for _ in range(limits)]
    return Problem(
        [[cost() for _ in range(n)] for n in options],
        tables,
        bound,
        uses if limits else [[] for _ in options],
    )


def check_unlimited(problem: Problem, options: dict[str, float]) -> bool:
    truth = solve(problem)
    found = _C.solve(problem.costs, problem.edges, options)
    if truth.infeasible:
        assert found["choice"] == []
        return found["exact"]
    eps = slack(truth.cost, found["cost"])
    assert found["lower_bound"] <= truth.cost + eps
    assert found["cost"] >= truth.bound - eps
    if found["choice"]:
        assert problem.cost(found["choice"]) == pytest.approx(found["cost"], rel=1e-9, abs=1e-12)
    if found["exact"]:
        assert found["cost"] <= truth.cost + eps and found["gap"] == 0
    return found["exact"]


def check_limited(problem: Problem, options: dict[str, float], rounds: int = 60) -> tuple[bool, float]:
    """Whether the solver finished, and by which share its cost is above the least at most."""
    truth = solve(problem)
    found = _C.solve_within(problem.costs, problem.edges, problem.limits, problem.uses, options, rounds)
    if truth.infeasible:
        assert found["choice"] == []
        return found["exact"], 0.0
    eps = slack(truth.cost, found["cost"])
    assert found["lower_bound"] <= truth.cost + eps
    if not found["exact"]:
        priced, offset = problem.priced(found["multipliers"])
        recomputed = solve(priced)
        assert found["lower_bound"] <= recomputed.cost + offset + slack(recomputed.cost, offset)
        if options == FULL:
            assert found["lower_bound"] >= recomputed.bound + offset - slack(recomputed.cost, offset)
    if not found["choice"]:
        return False, math.inf
    assert problem.cost(found["choice"]) == pytest.approx(found["cost"], rel=1e-9, abs=1e-12)
    for used, limit in zip(problem.used(found["choice"]), problem.limits, strict=True):
        assert used <= limit * (1 + 1e-9)
    assert found["cost"] >= truth.bound - eps
    above = (found["cost"] - truth.bound) / max(abs(found["cost"]), 1e-12)
    assert above <= found["gap"] + TOLERANCE
    return found["exact"], above


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_have_the_cost_that_highs_finds(seed: int) -> None:
    problem = random_problem(seed, 0)
    assert check_unlimited(problem, FULL)
    check_unlimited(problem, SMALL_TABLES)
    check_unlimited(problem, BRANCHED)
    check_unlimited(problem, DUAL)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_within_limits_have_the_gap_they_state(seed: int) -> None:
    check_limited(random_problem(1000 + seed, 1 + seed % 2), FULL)


# --- Layers of real steps ------------------------------------------------------------------------


def llama_layer(width: int = 1024) -> str:
    """A decoder layer's step, without embedding and head: forward, backward, AdamW."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    llama = transformers.models.llama.modeling_llama
    config = transformers.LlamaConfig(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=16, num_key_value_heads=4
    )
    config._attn_implementation = "sdpa"
    x, angles = torch.zeros(8, 512, width).to("moai"), torch.zeros(1, 512, width // 16).to("moai")
    loss = lambda m: m(x, position_embeddings=(angles, angles)).square().mean()  # noqa: E731
    return step(lambda: llama.LlamaDecoderLayer(config, 0), loss, clip=False)


def feed_forward(width: int = 4096) -> str:
    """A transformer's feed-forward layer with its norm and residual."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 4 * width)
            self.down = nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))

    x = torch.zeros(8, 512, width).to("moai")
    return step(Layer, lambda m: m(x).square().mean(), clip=False)


def layer_problem(text: str, cluster: str, mesh: list[int], share: float | None = None) -> Problem:
    """What the planner solves for a step. `share`: memory from the least that is needed (0) to what the best plan
    without limits takes (1)."""
    given = _C.assignment_problem(text, cluster, mesh, 1e18)
    free = Problem(given["costs"], given["edges"], [], [[] for _ in given["costs"]])
    if share is None:
        return free
    problem = Problem(given["costs"], given["edges"], given["limits"], given["uses"])
    wanted = problem.used(_C.solve(free.costs, free.edges)["choice"])
    for k, most in enumerate(wanted):
        least = sum(min(of[k :: len(wanted)]) for of in problem.uses if of)
        problem.limits[k] = least + share * (most - least)
    return problem


LAYERS = [
    ("llama", llama_layer, "h100:8", [8]),
    ("llama", llama_layer, "a100-80:4x4", [16]),
    ("feed-forward", feed_forward, "h100:8", [8]),
    ("feed-forward", feed_forward, "h100:2x2", [2, 2]),
    ("feed-forward", feed_forward, "h100:2x4", [4, 2]),
]
NAMES = [f"{name} on {cluster} as {'x'.join(map(str, mesh))}" for name, _, cluster, mesh in LAYERS]


@pytest.mark.parametrize("layer", range(len(LAYERS)), ids=NAMES)
def test_layers_have_the_cost_that_highs_finds(layer: int) -> None:
    _, make, cluster, mesh = LAYERS[layer]
    problem = layer_problem(make(), cluster, mesh)
    for options in (FULL, BRANCHED):
        assert check_unlimited(problem, options), options


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize(
    "layer", range(4), ids=NAMES[:4]
)  # HiGHS takes minutes for larger ones within limits
def test_layers_within_memory_have_the_gap_they_state(layer: int, share: float) -> None:
    _, make, cluster, mesh = LAYERS[layer]
    exact, above = check_limited(layer_problem(make(), cluster, mesh, share), FULL)
    print(
        f"{NAMES[layer]}, {share:.0%} of the memory between: above the least by {above:.2%}, exact: {exact}"
    )
    assert above <= 0.02

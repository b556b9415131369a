"""A factor graph as a mixed-integer program, solved by HiGHS: the truth that the planner's solver is held against.

A binary for each option of each variable, one of which is taken; a continuous for each pair of an edge's rows and
columns, whose sums over rows and columns are the options' (the local polytope: Schlesinger 1976, Werner 2007). Rows
that are equal share their continuous variables, as columns do, and pairs that are forbidden have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import highspy
import numpy as np

INFINITY = math.inf


@dataclass
class Problem:
    """Costs by variable and option; edges (a, b, row-major costs); limits on what options use, by resource."""

    costs: list[list[float]]
    edges: list[tuple[int, int, list[float]]]
    limits: list[float]
    uses: list[list[float]]  # by variable: nothing, or a row of uses for each option

    def cost(self, choice: list[int]) -> float:
        total = sum(of[i] for of, i in zip(self.costs, choice, strict=True))
        for a, b, values in self.edges:
            total += values[choice[a] * len(self.costs[b]) + choice[b]]
        return total

    def used(self, choice: list[int]) -> list[float]:
        rows = [self.use(v, i) for v, i in enumerate(choice)]
        return [sum(row[k] for row in rows) for k in range(len(self.limits))]

    def use(self, variable: int, option: int) -> list[float]:
        count = len(self.limits)
        return self.uses[variable][option * count :][:count] or [0.0] * count

    def priced(self, prices: list[float]) -> tuple[Problem, float]:
        """The Lagrangian problem without limits, and what to add to its cost."""
        costs = [
            [c + sum(p * u for p, u in zip(prices, self.use(v, i), strict=True)) for i, c in enumerate(of)]
            for v, of in enumerate(self.costs)
        ]
        offset = sum(p * limit for p, limit in zip(prices, self.limits, strict=True))
        return Problem(costs, self.edges, [], [[] for _ in costs]), -offset


@dataclass
class Truth:
    """What HiGHS says: a cost that a choice has, and one that none is below. Equal where it finished."""

    cost: float
    bound: float
    infeasible: bool = False


def classes(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows, and for each row which of them it is."""
    distinct, of_row = np.unique(matrix, axis=0, return_inverse=True)
    return distinct, of_row.reshape(-1)


def solve(problem: Problem, relaxed: bool = False, nodes: int = 2000) -> Truth:
    """The least cost within the limits; `relaxed`: of the linear relaxation. HiGHS stops after `nodes` branches."""
    # Costs of seconds are small beside HiGHS's absolute tolerances.
    finite = [abs(c) for of in problem.costs for c in of if c < INFINITY]
    finite += [abs(c) for *_, values in problem.edges for c in values if c < INFINITY]
    scale = 1.0 / max([*finite, 1e-12])
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("mip_rel_gap", 0.0)
    highs.setOptionValue("mip_abs_gap", 1e-9)
    highs.setOptionValue("mip_max_nodes", nodes)
    cost: list[float] = []
    rows: list[tuple[float, float, list[int], list[float]]] = []

    def add(value: float) -> int:
        cost.append(value * scale)
        return len(cost) - 1

    option_column = [[add(c) if c < INFINITY else -1 for c in of] for of in problem.costs]
    binaries = len(cost)
    for columns in option_column:
        kept = [c for c in columns if c >= 0]
        rows.append((1, 1, kept, [1.0] * len(kept)))
    for a, b, values in problem.edges:
        matrix = np.array(values).reshape(len(problem.costs[a]), len(problem.costs[b]))
        if a == b:
            for i, column in enumerate(option_column[a]):
                if column >= 0 and matrix[i, i] < INFINITY:
                    cost[column] += matrix[i, i] * scale
                elif column >= 0:
                    rows.append((0, 0, [column], [1.0]))
            continue
        matrix, row_of = classes(matrix)
        matrix, column_of = classes(matrix.T)
        matrix = matrix.T
        pair = {(r, c): add(v) for (r, c), v in np.ndenumerate(matrix) if v < INFINITY}
        for of, columns, axis in ((row_of, option_column[a], 0), (column_of, option_column[b], 1)):
            for one in range(matrix.shape[axis]):
                pairs = [at for key, at in pair.items() if key[axis] == one]
                options = [col for col, of_one in zip(columns, of, strict=True) if of_one == one and col >= 0]
                rows.append((0, 0, pairs + options, [1.0] * len(pairs) + [-1.0] * len(options)))
    for k, limit in enumerate(problem.limits):
        columns, amounts = [], []
        for v, of in enumerate(option_column):
            for i, column in enumerate(of):
                if column >= 0 and problem.use(v, i)[k] != 0:
                    columns.append(column)
                    amounts.append(problem.use(v, i)[k] / max(limit, 1e-300))
        rows.append((-highspy.kHighsInf, 1.0 if limit > 0 else 0.0, columns, amounts))

    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(cost), len(rows)
    lp.col_cost_ = np.array(cost)
    lp.col_lower_, lp.col_upper_ = np.zeros(len(cost)), np.ones(len(cost))
    lp.row_lower_ = np.array([low for low, *_ in rows], dtype=float)
    lp.row_upper_ = np.array([high for _, high, *_ in rows], dtype=float)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.cumsum([0] + [len(columns) for _, _, columns, _ in rows])
    lp.a_matrix_.index_ = np.array([c for _, _, columns, _ in rows for c in columns])
    lp.a_matrix_.value_ = np.array([v for *_, amounts in rows for v in amounts], dtype=float)
    if not relaxed:
        kinds = [highspy.HighsVarType.kInteger] * binaries
        lp.integrality_ = kinds + [highspy.HighsVarType.kContinuous] * (len(cost) - binaries)
    assert highs.passModel(lp) == highspy.HighsStatus.kOk
    highs.run()
    if highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        return Truth(INFINITY, INFINITY, infeasible=True)
    info = highs.getInfo()
    found = info.objective_function_value / scale
    return Truth(found, found if relaxed else info.mip_dual_bound / scale)

"""Random programs (programs.py) against the CPU: the same thousands in `make test-full`, some others with each commit.

Several rounds each, of which some run the same ops wired otherwise, with other views, static arguments, offsets and numbers, in
alternation. A failure says the seed, what is left of the program when all is left out that it does not need to differ, and how
to run that again.
"""

from __future__ import annotations

import threading

import programs
import pytest
from programs import ROUNDS, Program, check, explain
from sampling import FULL, commit
from scenarios import assert_same

CHUNKS = 10
PAIRS = 10


def seeds() -> range:
    if FULL:
        return range(4000)
    first = int(commit()[:6] or "0", 16)
    return range(first, first + 100)


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.filterwarnings("ignore")
def test_random_programs_equal_the_cpu(chunk):
    for seed in seeds()[chunk::CHUNKS]:
        try:
            check(seed)
        except Exception as error:
            pytest.fail(f"{error}\nseed {seed}, {explain(seed) or 'which differs only after other programs'}")


@pytest.mark.filterwarnings("ignore")
def test_random_programs_in_several_threads_equal_the_cpu():
    for seed in seeds()[: 2 * PAIRS : 2]:
        pair = (seed, seed + 1)
        results: dict[tuple[str, int], list] = {("cpu", one): [] for one in pair} | {
            ("moai", one): [] for one in pair
        }

        def run(device: str, one: int, results: dict = results) -> None:
            program = Program(one, device, alone=False)
            for round_, variant in ROUNDS:
                results[device, one].append(program.run(variant, round_))

        threads = [threading.Thread(target=run, args=("moai", one)) for one in pair]
        for thread in threads:
            thread.start()
        for one in pair:
            run("cpu", one)
        for thread in threads:
            thread.join()
        for one in pair:
            assert_same(results["moai", one], results["cpu", one], f"seed {one} of {pair} at once")


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_op_is_found_and_the_program_around_it_left_out(monkeypatch):
    right = programs.WRITES["zero_"]
    monkeypatch.setitem(
        programs.WRITES,
        "zero_",
        lambda t, o, s, v: t.fill_(1e-3) if t.device.type == "moai" else right(t, o, s, v),
    )
    seed = next(seed for seed in range(100) if explain(seed))
    said = explain(seed)
    assert "zero_" in said and f"check({seed}, only=[" in said
    assert len(said.split("only=[")[1].split("]")[0].split(",")) <= programs.STATEMENTS // 2

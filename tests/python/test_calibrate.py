"""`moai calibrate` makes a profile that `here:N` is planned on."""

import json
from pathlib import Path

import moai
import pytest
from moai.planning import calibrate
from moai.planning.calibrate import cluster_of, resolved

PROFILE = {
    "moai_profile": 1, "memory_bytes": 16 << 30, "products_fp32_flops": {"256": 5e10, "1024": 1e11},
    "products_bf16_flops": {"256": 6e10, "1024": 2e11}, "attention_flops": {"512": 4e10}, "memory_bytes_per_s": 2e10,
    "op_overhead_s": 2e-6, "all_reduce_devices": 2, "all_reduce_s": {"4096": 1e-5, "16777216": 4e-3},
}  # fmt: skip


def test_devices_share_the_machine() -> None:
    two, four = (cluster_of(PROFILE, n)["kinds"][0] for n in (2, 4))
    for shared in ("flops_fp32", "flops_bf16", "memory_bytes_per_s", "memory_bytes"):
        assert two[shared] == 2 * four[shared]
    assert cluster_of(PROFILE, 2, 3)["levels"][1]["size"] == 3


def test_a_plan_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOAI_PROFILE", str(tmp_path / "machine.json"))
    (tmp_path / "machine.json").write_text(json.dumps(PROFILE))
    found = moai.plan("gpt2", 4, 128, "here:2")
    assert found["cluster"]["devices"] == 2 and found["cluster"]["device"] == "here"


@pytest.mark.parametrize(
    ("text", "cluster", "says"),
    [(None, "here:2", "moai calibrate"), ("{}", "here:2", "no profile"), ("[", "here:2", "no profile"), ("{}", "here", "how many")],
)  # fmt: skip
def test_what_is_no_profile_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, cluster: str, says: str
) -> None:
    monkeypatch.setenv("MOAI_PROFILE", str(tmp_path / "machine.json"))
    if text is not None:
        (tmp_path / "machine.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        resolved(cluster)


def test_measuring_gives_a_profile_that_can_be_planned_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "PRODUCTS", (32, 64))
    monkeypatch.setattr(calibrate, "MEMORY_BYTES", 1 << 20)
    profile = calibrate.measure(budget_s=0.1)
    numbers = [
        *profile["products_fp32_flops"].values(),
        *profile["all_reduce_s"].values(),
        profile["memory_bytes_per_s"],
    ]
    assert all(number > 0 for number in numbers)
    described = moai._C.cluster(json.dumps(cluster_of(profile, 2)))
    assert described["devices"] == 2

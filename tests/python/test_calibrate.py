"""`moai calibrate` makes a profile that `here:N` is planned on."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import moai
import pytest
import torch
from moai.machine import cluster_of, resolved
from moai.planning import calibrate, small_step

PROFILE = {
    "moai_profile": 1, "memory_bytes": 16 << 30, "products_fp32_flops": {"256": 5e10, "1024": 1e11},
    "products_bf16_flops": {"256": 6e10, "1024": 2e11}, "attention_flops": {"512": 4e10}, "memory_bytes_per_s": 2e10,
    "op_overhead_s": 2e-6, "all_reduce_devices": 2, "all_reduce_s": {"4096": 1e-5, "16777216": 4e-3},
}  # fmt: skip


def test_devices_share_the_machine() -> None:
    two, four = (cluster_of(PROFILE, n)["kinds"][0] for n in (2, 4))
    shared_by_all = ("flops_fp32", "flops_bf16", "memory_bytes_per_s", "memory_bytes", "host_bytes_per_s")
    for shared in (*shared_by_all, "host_memory_bytes"):
        assert two[shared] == 2 * four[shared]
    assert cluster_of(PROFILE, 2, 3)["levels"][1]["size"] == 3


def test_more_devices_than_cores_wait_for_each_other() -> None:
    """Between those that were measured, what fewer took; beyond them, each core's devices in turn."""
    profile = {**PROFILE, "cores": 6, "op_overheads_s": {"1": 1e-6, "2": 3e-6, "4": 4e-6}}
    gaps = {n: cluster_of(profile, n)["kinds"][0]["op_overhead_s"] for n in (1, 2, 3, 4, 5, 12)}
    assert gaps == pytest.approx({1: 1e-6, 2: 3e-6, 3: 3e-6, 4: 4e-6, 5: 4e-6, 12: 8e-6})


def test_the_gap_between_ops_is_what_a_step_takes_beyond_them() -> None:
    assert small_step.op_overhead(3e-3, lambda gap: 1e-3 + 400 * gap) == pytest.approx(5e-6)
    assert small_step.op_overhead(5e-4, lambda gap: 1e-3 + 400 * gap) == 1e-8


def test_a_plan_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOAI_PROFILE", str(tmp_path / "machine.json"))
    (tmp_path / "machine.json").write_text(json.dumps(PROFILE))
    found = moai.plan("gpt2", 4, 128, "here:2")
    assert found["cluster"]["devices"] == 2 and found["cluster"]["device"] == "here"


def test_the_script_takes_its_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the cores that virtual devices compute on; beside a GPU, which waits for what is slower than itself."""
    monkeypatch.setenv("MOAI_PROFILE", str(tmp_path / "machine.json"))

    def seconds(**more: object) -> tuple[float, float]:
        (tmp_path / "machine.json").write_text(json.dumps({**PROFILE, **more}))
        found = moai.plan("gpt2", 4, 128, "here:2")
        return found["step_time_s"], found["time"]["script_s"]

    devices, none = seconds()
    assert none == 0
    total, script = seconds(script_op_s=1e-5)
    assert 1e-3 < script < 0.1 and total == pytest.approx(devices + script)
    on_gpus, _ = seconds(devices="cuda")
    assert seconds(devices="cuda", script_op_s=1e-9) == (on_gpus, 0)
    total, script = seconds(devices="cuda", script_op_s=1)
    assert total == pytest.approx(on_gpus + script) and total > 100
    assert moai.plan("gpt2", 4, 128, "h100:2")["time"]["script_s"] == 0


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


STEP = """
import moai, torch
model = torch.nn.Linear(256, 256).to("moai")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    model(torch.ones(64, 256, device="moai")).sum().backward()
    optimizer.step()
moai.sync()
print(moai._C.explained()["compute_s"])
"""


def test_what_was_measured_is_what_plans_go_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on, on devices of the kind that was measured; a file that is no profile is no obstacle."""
    monkeypatch.setenv("MOAI_PROFILE", str(tmp_path / "machine.json"))
    monkeypatch.setenv("MOAI_DEVICES", "cpu:2")
    monkeypatch.setenv("MOAI_CACHE", "off")

    def predicted(text: str) -> float:
        (tmp_path / "machine.json").write_text(text)
        command = [sys.executable, "-c", STEP]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    usual = predicted("[")
    slower = {"products_fp32_flops": {"256": 1e6}, "memory_bytes_per_s": 1e6}
    assert predicted(json.dumps({**PROFILE, "devices": "cpu", **slower})) > 100 * usual
    assert predicted(json.dumps({**PROFILE, "devices": "cuda", **slower})) == usual


SMALL = {"products": (32, 64), "tokens": (16, 32), "bytes_moved": 1 << 20, "counts": (2,)}


def measured(on: calibrate.Subject) -> dict:
    profile = calibrate.measure(on, budget_s=0.1)
    for name, found in profile.items():
        if name.endswith(("_flops", "_per_s", "_s")):
            assert all(number > 0 for number in (found.values() if isinstance(found, dict) else [found])), (
                name
            )
    return profile


def test_measuring_gives_a_profile_that_can_be_planned_on() -> None:
    profile = measured(dataclasses.replace(calibrate.the_cpu(), **SMALL))
    described = moai._C.cluster(json.dumps(cluster_of(profile, 2)))
    assert described["devices"] == 2 and min(profile["all_reduce_s"].values()) > 0


def test_each_device_here_is_a_gpu_where_one_was_measured() -> None:
    """The way of a GPU, on the CPU: waits after some calls, bf16, no all-reduces."""
    waits = []
    gpu = calibrate.Subject(
        kind="cuda", name="a GPU", memory_bytes=1 << 30, calls=2, attention=torch.bfloat16,
        wait=lambda: waits.append(1), **SMALL,
    )  # fmt: skip
    profile = json.loads(json.dumps(measured(gpu)))
    assert waits and profile["gpu"] == "a GPU" and "all_reduce_s" not in profile
    one, four = (cluster_of(profile, n)["kinds"][0] for n in (1, 4))
    assert one == four and one["memory_bytes"] == 1 << 30
    assert one["host_bytes_per_s"] > 0 and one["host_memory_bytes"] > 0
    old = {name: found for name, found in profile.items() if not name.startswith("host_")}
    assert "host_bytes_per_s" not in cluster_of(old, 1)["kinds"][0]
    assert cluster_of(profile, 4)["levels"][0]["name"] == "PCIe"
    assert moai._C.cluster(json.dumps(cluster_of(profile, 4, 2)))["devices"] == 8


@pytest.mark.skipif(not moai._C.why_no_gpu(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(calibrate, "value", lambda name: "cuda:1" if name == "devices" else "")
    arguments = argparse.Namespace(seconds=1.0, output=tmp_path / "machine.json")
    assert calibrate.run(arguments) == 2
    said = capsys.readouterr().err
    assert f"MOAI_DEVICES is `cuda:1`, and {moai._C.why_no_gpu()}\n  would work: MOAI_DEVICES=cpu" in said
    assert not arguments.output.exists()


def test_a_step_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """What went wrong stands above, from the process itself."""

    def fails(*_: object) -> None:
        raise subprocess.CalledProcessError(1, ["python", "-m", "moai.planning.small_step"])

    monkeypatch.setattr(calibrate, "measure", fails)
    arguments = argparse.Namespace(seconds=1.0, output=tmp_path / "machine.json")
    assert calibrate.run(arguments) == 2
    assert "a step on virtual devices failed: python -m moai.planning.small_step" in capsys.readouterr().err
    assert not arguments.output.exists()


@pytest.mark.gpu
@pytest.mark.skipif(bool(moai._C.why_no_gpu()), reason=f"no GPU for moai: {moai._C.why_no_gpu()}")
def test_measuring_a_gpu() -> None:
    profile = measured(dataclasses.replace(calibrate.the_gpu(0), **SMALL))
    assert profile["gpu"] and profile["devices"] == "cuda"

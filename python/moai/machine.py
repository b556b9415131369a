"""This machine's profile, which ``moai calibrate`` makes, as a cluster: ``here:N`` is N devices of it.

Virtual devices share the machine's cores and memory: each of N has an N-th of what was measured. Of a profile of a GPU
each of N is one like it.
"""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass

from .options import Devices, profile_path

# Across hosts nothing was measured: ten gigabits a second, as of the profiles without a usual NIC.
NETWORK = {"name": "Ethernet", "latency_s": 1e-5, "bytes_per_s": 10e9 / 8 * 0.94, "start_s": 2e-5}
# Nor is it between GPUs: what PCIe 4 gives, as of the profiles of GPUs that have no other link.
PCIE = {"name": "PCIe", "latency_s": 1.5e-6, "bytes_per_s": 20e9, "start_s": 2e-5}


def _link(profile: dict) -> dict:
    """A link that takes as long as the measured all-reduces: a start, and a rate for what is large."""
    if "all_reduce_s" not in profile:
        return PCIE
    count = profile["all_reduce_devices"]
    taken = {int(size): seconds for size, seconds in profile["all_reduce_s"].items()}
    small, large = taken[min(taken)], taken[max(taken)]
    # A ring of n sends 2 (n-1)/n of the bytes from each device.
    rate = 2 * (count - 1) / count * (max(taken) - min(taken)) / max(1e-9, large - small)
    return {
        "name": "shared memory",
        "latency_s": small / 4 / count,
        "start_s": small / 2,
        "bytes_per_s": rate,
    }


def _host(profile: dict, shared: int, is_gpu: bool) -> dict:
    """The link to the host, and what it has there; nothing of a GPU whose profile is older than these figures."""
    if is_gpu:
        return {name: profile[name] for name in ("host_bytes_per_s", "host_memory_bytes") if name in profile}
    # One memory, of which a copy reads each byte and writes it.
    rate, memory = profile["memory_bytes_per_s"] / 2, profile["memory_bytes"]
    return {"host_bytes_per_s": rate / shared, "host_memory_bytes": memory / shared, "host_overlap": 0}


def _gap(profile: dict, devices: int) -> float:
    """Seconds from one op to the next: measured by how many virtual devices share the machine, or for each device."""
    if "op_overheads_s" not in profile:
        return profile["op_overhead_s"]
    measured = {int(count): seconds for count, seconds in profile["op_overheads_s"].items()}
    most = max((count for count in measured if count <= devices), default=min(measured))
    # More devices than were measured, and than there are cores, wait for each other.
    return measured[most] * max(1.0, devices / max(most, profile["cores"]))


def cluster_of(profile: dict, devices: int, hosts: int = 1) -> dict:
    """`hosts` machines like the measured one, each as that many devices, as docs/clusters.md has clusters."""
    best = {name: max(profile[f"products_{name}_flops"].values()) for name in ("fp32", "bf16")}
    usual = {name: statistics.median(profile[f"products_{name}_flops"].values()) for name in ("fp32", "bf16")}
    attention = statistics.median(profile["attention_flops"].values())
    is_gpu = profile.get("devices") == "cuda"
    shared = 1 if is_gpu else devices  # so many have what was measured
    usually = "bf16" if is_gpu else "fp32"  # what attention was measured in, and most is computed in
    kind = {
        "name": "here",
        "memory_bytes": int(profile["memory_bytes"] / shared),
        "flops_fp32": best["fp32"] / shared,
        "flops_bf16": best["bf16"] / shared,
        "flops_fp16": best["bf16"] / shared,
        "memory_bytes_per_s": profile["memory_bytes_per_s"] / shared,
        "op_overhead_s": _gap(profile, devices),
        "gemm_efficiency": min(1.0, usual[usually] / best[usually]),
        "attention_efficiency": min(1.0, attention / best[usually]),
        "memory_efficiency": 1,
        "overlap": 1 if is_gpu else 0,  # a CPU's cores that would carry messages compute
        **_host(profile, shared, is_gpu),
    }
    levels = [{**_link(profile), "size": devices}]
    if hosts > 1:
        levels.append({**NETWORK, "size": hosts})
    return {"name": f"here:{devices}" + (f"x{hosts}" if hosts > 1 else ""), "levels": levels, "kinds": [kind]}


def _here(cluster: str) -> tuple[int, int] | None:
    """Devices and hosts of `here:N` and `here:NxH`; None of other clusters.

    Raises ValueError where it does not say how many.
    """
    match = re.fullmatch(r"here:([1-9]\d*)(?:x([1-9]\d*))?", cluster)
    if match is not None:
        return int(match[1]), int(match[2] or 1)
    if cluster == "here" or cluster.startswith("here:"):
        raise ValueError(
            f"cluster `{cluster}` does not say how many devices\n  would work: here:8, or here:8x4 for four such hosts"
        )
    return None


@dataclass(frozen=True)
class Resolved:
    """A cluster's text, `here:N` and `here:NxH` replaced by the calibrated machine's JSON, and what the script costs."""

    text: str
    # Of the script's own thread, for each op and for each step; of clusters elsewhere the host is not known.
    script_op_s: float = 0.0
    script_step_s: float = 0.0
    # Virtual devices compute on the cores that the script needs; GPUs run beside it.
    waits_for_script: bool = True

    def script_seconds(self, ops: int, device_s: float) -> float:
        """What the script adds to a step of so many ops, which takes the devices so long."""
        taken = ops * self.script_op_s + self.script_step_s
        return taken if self.waits_for_script else max(0.0, taken - device_s)


def resolved(cluster: str) -> Resolved:
    """Read a cluster's text.

    Raises ValueError where there is no profile, or it cannot be read.
    """
    here = _here(cluster)
    if here is None:
        return Resolved(cluster)
    path = profile_path()
    try:
        profile = json.loads(path.read_text())
        return Resolved(
            json.dumps(cluster_of(profile, *here)),
            profile.get("script_op_s", 0.0),
            profile.get("script_step_s", 0.0),
            profile.get("devices") != "cuda",
        )
    except FileNotFoundError:
        raise ValueError(
            f"cluster `{cluster}` needs this machine's profile, and {path} is not there\n  would work: moai calibrate"
        ) from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is no profile of moai calibrate ({error!r})\n  would work: moai calibrate, which makes it anew"
        ) from error


def measured_cluster(devices: Devices) -> str:
    """What these devices are to the engine, as JSON: empty where no profile that can be read is of such."""
    try:
        profile = json.loads(profile_path().read_text())
        count = max(devices.count, len(devices.indices))
        return json.dumps(cluster_of(profile, count)) if profile.get("devices") == devices.kind else ""
    except (OSError, KeyError, TypeError, AttributeError, ValueError):
        return ""  # `moai plan --cluster here:N` says what is wrong with it

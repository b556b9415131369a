"""What :func:`moai.explain` says of the plan that runs."""

from __future__ import annotations

import statistics

# What a step is made of: a name, and the field of both the prediction and what was measured.
PARTS = {
    "compute": "compute_s",
    "communication": "communicate_s",
    "waiting": "wait_s",
    "step": "step_time_s",
}


def plan_lines(explained: dict, devices: int) -> list[tuple[str, str]]:
    """Return the plan in three rows of a name and its text.

    `explained`: what the engine says of the last planned step: layout in words, predicted seconds and bytes of a
    device, `gap` (by which share of its own sum a plan on the same mesh might be cheaper), seconds to plan.
    """
    return [
        ("plan", f"{devices} devices: {explained['layout']}" if devices > 1 else explained["layout"]),
        (
            "predicted",
            f"{explained['step_time_s']:.4f} s a step (compute {explained['compute_s']:.4f}, communication "
            f"{explained['communicate_s']:.4f}), {explained['peak_bytes'] / 2**20:.1f} MiB on each device",
        ),
        (
            "chosen",
            f"{'earlier, in' if explained['was_kept'] else 'in'} {explained['plan_s']:.2f} s; on this mesh none is "
            f"more than {100 * explained['gap']:.1f} % cheaper",
        ),
    ]


def part_lines(explained: dict) -> list[tuple[str, str]]:
    """Return predicted against measured seconds, a row for each part of a step; the median of its last runs.

    A device computes, moves bytes to and from others, or waits for one that has not come to a collective yet; what
    is measured is the mean of all devices.
    """
    runs = explained["measured"]
    rows = []
    for name, field in PARTS.items():
        taken, predicted = [run[field] for run in runs], explained[field]
        median = statistics.median(taken)
        text = f"{median:.4f} s ({min(taken):.4f} to {max(taken):.4f}), {predicted:.4f} predicted"
        rows.append((name, f"{text}: {median / predicted:.2f} x" if predicted > 0 else text))
    return rows


def explanation(explained: dict | None, devices: list[dict]) -> str:
    """Return the plan, and what was measured of its last runs, one row a line."""
    if explained is None:
        return ""
    rows = plan_lines(explained, len(devices))
    if explained["measured"]:
        rows.append(("measured", f"over the last {len(explained['measured'])} steps:"))
        rows += part_lines(explained)
    peaks = ", ".join(f"{device['name']} {device['peak_bytes'] / 2**20:.1f}" for device in devices)
    rows.append(("peak memory", f"{peaks} MiB"))
    if any(device["host_peak_bytes"] for device in devices):
        away = ", ".join(f"{device['name']} {device['host_peak_bytes'] / 2**20:.1f}" for device in devices)
        rows.append(("on the host", f"{away} MiB"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

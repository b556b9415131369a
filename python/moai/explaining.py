"""What :func:`moai.explain` says of the plan that runs."""

from __future__ import annotations

import statistics


def plan_lines(explained: dict, devices: int) -> list[tuple[str, str]]:
    """Return the plan in three rows of a name and its text.

    `explained`: what the engine says of the last planned step: layout in words, predicted seconds and bytes of a
    device, `gap` (by which share of its own sum a plan on the same mesh might be cheaper), seconds to plan.
    """
    return [
        ("plan", f"{devices} devices: {explained['layout']}"),
        (
            "predicted",
            f"{explained['step_time_s']:.4f} s a step (compute {explained['compute_s']:.4f}, communication "
            f"{explained['communicate_s']:.4f}), {explained['peak_bytes'] / 2**20:.1f} MiB on each device",
        ),
        (
            "chosen in",
            f"{explained['plan_s']:.2f} s; on this mesh none is more than {100 * explained['gap']:.1f} % cheaper",
        ),
    ]


def explanation(explained: dict | None, devices: list[dict]) -> str:
    """Return the plan, and what was measured of its last runs, one row a line."""
    if explained is None:
        return ""
    rows = plan_lines(explained, len(devices))
    seconds = explained["measured_s"]
    if seconds:
        median = statistics.median(seconds)
        rows.append(
            (
                "measured",
                f"{median:.4f} s ({min(seconds):.4f} to {max(seconds):.4f} over {len(seconds)} runs), "
                f"{median / explained['step_time_s']:.2f} of what was predicted",
            )
        )
    peaks = ", ".join(f"{device['name']} {device['peak_bytes'] / 2**20:.1f}" for device in devices)
    rows.append(("peak memory", f"{peaks} MiB"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

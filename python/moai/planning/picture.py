"""The picture of ``moai plan --png``: parts of the time, the step by stage, memory over it."""

from __future__ import annotations

from .report import parts, rate, seconds

COLOURS = {"forward": "#2f6fd0", "backward": "#c4501b", "weight": "#8250df", "update": "#1a7f37"}


def save_png(found: dict, path: str) -> None:
    """Draw a plan that fits. Raises ValueError where it does not, or matplotlib is not installed."""
    if not found["fits"]:
        raise ValueError(
            "--png draws a step, and this one does not fit\n  would work: --html, which says why"
        )
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--png needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(10, 8), height_ratios=(1, 3, 2))
    left, total = 0.0, found["step_time_s"]
    for name, taken in parts(found).items():
        if taken > 0.002 * total:
            top.barh(0, taken, left=left, label=f"{name} {seconds(taken)}")
            left += taken
    top.set(
        xlim=(0, total), yticks=[], title=f"{found['model']} on {found['cluster']['name']}: {rate(found)}"
    )
    top.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    for kind, colour in COLOURS.items():
        for device in {s[0] for s in found["picture"]["spans"]}:
            spans = [
                (s[4], s[5] - s[4]) for s in found["picture"]["spans"] if s[0] == device and s[1] == kind
            ]
            middle.broken_barh(spans, (device - 0.4, 0.8), color=colour, linewidth=0)
    middle.set(xlim=(0, total), ylabel="stage")
    middle.invert_yaxis()
    for number, line in enumerate(found["picture"]["memory"]):
        bottom.step(
            [t for t, _ in line] + [total],
            [b / 2**30 for _, b in line] + [line[-1][1] / 2**30],
            where="post",
            label=f"stage {number + 1}",
        )
    bottom.axhline(found["cluster"]["memory_bytes"] / 2**30, linestyle="--", color="grey")
    bottom.set(xlim=(0, total), ylim=(0, None), xlabel="seconds", ylabel="GiB")
    if 1 < len(found["picture"]["memory"]) <= 8:
        bottom.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

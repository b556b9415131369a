"""The picture of ``moai plan --png``: parts of the time, the step by stage, memory over it."""

from __future__ import annotations

from .report import LEAST_SHARE_DRAWN, gib, parts, rate, seconds

# The page's, on white.
COLOURS = {"forward": "#2f6fd0", "backward": "#c4501b", "weight": "#8250df", "update": "#1a7f37"}
PART_COLOURS = ("#2f6fd0", "#c4501b", "#8250df", "#1a7f37", "#bf8700", "#1b7c83", "#8c959f", "#cf222e")
MOST_STAGES_NAMED = 8


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

    figure, (top, middle, bottom) = pyplot.subplots(
        3, 1, figsize=(10, 8), height_ratios=(1, 3, 2), sharex=True
    )
    _parts(found, top)
    _stages(found, middle)
    _memory(found, bottom)
    top.set_title(f"{found['model']} on {found['cluster']['name']}: {rate(found)}, predicted")
    bottom.set_xlim(0, found["step_time_s"])
    bottom.xaxis.set_major_formatter(lambda value, position: seconds(value))
    figure.tight_layout()
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)


def _below(axes, columns: int) -> None:
    axes.legend(fontsize=8, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False)


def _parts(found: dict, axes) -> None:
    left, total = 0.0, found["step_time_s"]
    for (name, taken), colour in zip(parts(found).items(), PART_COLOURS, strict=True):
        if taken > 0.002 * total:
            axes.barh(
                0, taken, left=left, color=colour, label=f"{name} {seconds(taken)} ({taken / total:.0%})"
            )
            left += taken
    axes.set_yticks([])
    _below(axes, 3)


def _stages(found: dict, axes) -> None:
    from matplotlib.ticker import MaxNLocator

    spans = found["picture"]["spans"]
    stages = 1 + max(span[0] for span in spans)
    for kind, colour in COLOURS.items():
        name = kind
        for stage in range(stages):
            bars = [(s[4], s[5] - s[4]) for s in spans if s[0] == stage and s[1] == kind]
            if bars:
                axes.broken_barh(
                    bars, (stage + 0.6, 0.8), color=colour, edgecolor="white", linewidth=0.4, label=name
                )
                name = None  # once in the legend
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylim(stages + 0.5, 0.5)
    axes.set_ylabel("stage")
    _below(axes, len(COLOURS))


def _memory(found: dict, axes) -> None:
    lines, limit = found["picture"]["memory"], found["cluster"]["memory_bytes"]
    for number, line in enumerate(lines):
        times = [t for t, _ in line] + [found["step_time_s"]]
        sizes = [b / 2**30 for _, b in line] + [line[-1][1] / 2**30]
        axes.step(times, sizes, where="post", label=f"stage {number + 1}")
    peak = max(b for line in lines for _, b in line)
    if peak > LEAST_SHARE_DRAWN * limit:
        axes.axhline(limit / 2**30, linestyle="--", color="grey")
    axes.set_ylim(0, None)
    axes.set_ylabel("GiB")
    axes.set_title(f"{gib(peak)} at the peak, {gib(limit)} usable", fontsize=9, loc="right")
    if 1 < len(lines) <= MOST_STAGES_NAMED:
        axes.legend(fontsize=8)

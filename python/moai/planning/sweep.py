"""The charts of ``moai plan --sweep``: throughput and memory against what was swept, as SVG."""

from __future__ import annotations

import html

from .report import gib, throughput

WIDE, TALL, MARGIN = 480.0, 150.0, 24.0


def sweep_charts(points: list[tuple[str, dict]]) -> list[str]:
    """A chart of each, with a bar for each point; nothing of fewer than two that fit."""
    planned = [(name.partition("=")[2], found) for name, found in points if found["fits"]]
    if len(planned) < 2:
        return []
    key = points[0][0].partition("=")[0]
    unit = throughput(planned[0][1])[1]
    rates = [(value, throughput(found)[0], _short(throughput(found)[0])) for value, found in planned]
    sizes = [(value, found["peak_bytes"], gib(found["peak_bytes"])) for value, found in planned]
    return [
        f"<h2>Throughput and memory by {html.escape(key)}</h2>",
        f"<div class=pair>{_chart(unit, '--a', rates)}{_chart('memory of each device', '--b', sizes)}</div>",
    ]


def _chart(name: str, colour: str, bars: list[tuple[str, float, str]]) -> str:
    """Bars from zero, each with its value below and what it stands for above."""
    most, each = max(height for _, height, _ in bars), WIDE / len(bars)
    drawn = []
    for i, (value, size, told) in enumerate(bars):
        middle = (i + 0.5) * each
        height = TALL * size / most
        top = MARGIN + TALL - height
        drawn.append(
            f'<rect x="{middle - 0.35 * each:.1f}" y="{top:.1f}" width="{0.7 * each:.1f}" height="{height:.1f}" '
            f'fill="var({colour})"><title>{html.escape(f"{value}: {told}")}</title></rect>'
            f'<text x="{middle:.1f}" y="{top - 6:.1f}" text-anchor="middle">{html.escape(told)}</text>'
            f'<text x="{middle:.1f}" y="{MARGIN + TALL + 18:.1f}" text-anchor="middle">{html.escape(value)}</text>'
        )
    box = f"0 0 {WIDE:.0f} {TALL + 2 * MARGIN:.0f}"
    picture = f'<svg viewBox="{box}" role="img" aria-label="{name}">{"".join(drawn)}</svg>'
    return f"<figure><figcaption class=soft>{name}</figcaption>{picture}</figure>"


def _short(number: float) -> str:
    """A number that fits above a bar."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"

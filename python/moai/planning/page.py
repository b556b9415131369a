"""The report of ``moai plan`` as one HTML page that needs nothing else: light and dark, and readable on a phone."""

from __future__ import annotations

import html

from .report import (
    ADVICE,
    BINDS,
    LEAST_SHARE_DRAWN,
    batch,
    binds,
    gib,
    kept_whole,
    often,
    parts,
    percent,
    placement,
    rate,
    report,
    seconds,
    warnings,
    why_lost,
    why_not,
)  # fmt: skip
from .sweep import sweep_charts

# Spans drawn one by one; of more, those that touch and do the same are drawn as one.
MOST_SPANS = 3000
COLOURS = {"forward": "--a", "backward": "--b", "weight": "--c", "update": "--d"}
PART_COLOURS = {
    "products": "--a", "attention": "--b", "memory": "--c", "op overhead": "--d", "messages": "--e", "host link": "--g",
    "other stages": "--f",
}  # fmt: skip
LONG_TEXT = 24
WIDE, TALL, LEFT = 1000.0, 22.0, 8.0

STYLE = """
:root { color-scheme: light dark; --bg: #ffffff; --ink: #1c2128; --soft: #59636e; --line: #d1d9e0; --card: #f6f8fa;
  --a: #2f6fd0; --b: #c4501b; --c: #8250df; --d: #1a7f37; --e: #bf8700; --f: #8c959f; --g: #1b7c83; }
@media (prefers-color-scheme: dark) { :root { --bg: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --card: #151b23;
  --a: #6ea8fe; --b: #f0883e; --c: #b78bff; --d: #57c46d; --e: #e3b341; --f: #6e7681; --g: #56d4dd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1rem; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p, li { max-width: 46rem; } .soft { color: var(--soft); font-size: .875rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; }
.card b { display: block; font-size: 1.25rem; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; } figure { margin: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .875rem; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; } code { font-size: .85em; overflow-wrap: anywhere; }
.bar { display: flex; height: 1.75rem; border-radius: .375rem; overflow: hidden; } .bar i { display: block; }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0; margin: .5rem 0; font-size: .875rem; }
.key i { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .4em; }
td.w { overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; } .wide svg { min-width: 40rem; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } pre { overflow-x: auto; font-size: .75rem; }
@media (max-width: 40rem) { td.w { min-width: 9rem; }
  svg text { font-size: 18px; } }
"""


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(head: list[tuple[str, bool]], rows: list[list[str]]) -> str:
    """A table; of each column its name, and whether it is of numbers."""

    # Columns of numbers, and of text that needs room.
    kinds = [
        " class=n"
        if number
        else " class=w"
        if max((len(row[i]) for row in rows), default=0) > LONG_TEXT
        else ""
        for i, (_, number) in enumerate(head)
    ]

    def cells(tag: str, values: list[str]) -> str:
        return "".join(
            f"<{tag}{kind}>{_text(value)}</{tag}>" for value, kind in zip(values, kinds, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{cells('th', [name for name, _ in head])}</tr>{body}</table></div>"


def _merged(spans: list[tuple]) -> list[tuple]:
    """Spans of one device that follow each other at once and do the same, as one."""
    if len(spans) <= MOST_SPANS:
        return spans
    out: list[tuple] = []
    for span in sorted(spans, key=lambda s: (s[0], s[4])):
        last = out[-1] if out else None
        if last and last[0] == span[0] and last[1] == span[1] and span[4] - last[5] < 1e-9 + 1e-6 * span[5]:
            out[-1] = (*last[:5], span[5])
        else:
            out.append(span)
    return out


def _axis(total: float, top: float) -> str:
    ticks = []
    for i in range(5):
        anchor = "start" if i == 0 else "end" if i == 4 else "middle"
        ticks.append(
            f'<text x="{LEFT + (WIDE - LEFT) * i / 4:.0f}" y="{top:.0f}" text-anchor="{anchor}">{seconds(total * i / 4)}</text>'
        )
    return "".join(ticks)


def timeline(found: dict) -> str:
    """What each stage's device does when, as SVG."""
    spans = _merged(found["picture"]["spans"])
    total, devices = found["step_time_s"], 1 + max(s[0] for s in spans)
    height = devices * TALL
    bars = []
    for device, kind, chunk, micro, start, end in spans:
        x, width = LEFT + (WIDE - LEFT) * start / total, max(0.3, (WIDE - LEFT) * (end - start) / total)
        title = f"{kind}, micro-batch {micro}, chunk {chunk}: {seconds(end - start)}"
        bars.append(
            f'<rect x="{x:.2f}" y="{device * TALL + 2:.0f}" width="{width:.2f}" height="{TALL - 4:.0f}" '
            f'fill="var({COLOURS[kind]})" stroke="var(--bg)" stroke-width="0.4"><title>{_text(title)}</title></rect>'
        )
    return (
        f'<div class="scroll wide"><svg viewBox="0 0 {WIDE:.0f} {height + 18:.0f}" role="img" aria-label="what each stage does when">'
        + "".join(bars) + _axis(total, height + 14) + "</svg></div>"
    )  # fmt: skip


def memory_chart(found: dict) -> str:
    """Bytes on each stage's device over the step, as SVG, with the limit."""
    limit, total = found["cluster"]["memory_bytes"], found["step_time_s"]
    lines = found["picture"]["memory"]
    peak = max(b for line in lines for _, b in line)
    # A limit far above would press the curve flat: it is told in words then.
    drawn = peak > limit * LEAST_SHARE_DRAWN
    most = max(limit, peak) if drawn else 1.25 * peak
    height = 180.0
    shown = lines if len(lines) <= 4 else [lines[0], lines[len(lines) // 2], lines[-1]]
    numbers = (
        [0]
        if len(shown) == 1
        else range(len(lines))
        if len(lines) <= 4
        else [0, len(lines) // 2, len(lines) - 1]
    )
    out, key = [], []
    for line, number, colour in zip(shown, numbers, ("--a", "--b", "--c", "--d"), strict=False):
        every = max(1, len(line) // 2000)
        path, y = [], height
        for t, b in line[::every]:
            x = LEFT + (WIDE - LEFT) * min(1.0, t / total)
            path.append(f"{'L' if path else 'M'}{x:.1f} {y if path else height - height * b / most:.1f}")
            y = height - height * b / most
            path.append(f"L{x:.1f} {y:.1f}")
        path.append(f"L{WIDE:.1f} {y:.1f}")
        out.append(f'<path d="{"".join(path)}" fill="none" stroke="var({colour})" stroke-width="1.6"/>')
        if len(lines) > 1:
            key.append(f'<li><i style="background:var({colour})"></i>stage {number + 1}</li>')
    at = height - height * limit / most if drawn else 0
    if drawn:
        out.append(f'<path d="M{LEFT} {at:.1f}H{WIDE}" stroke="var(--soft)" stroke-dasharray="6 4"/>')
    told = f"{gib(limit)} usable, {gib(peak)} at the peak"
    out.append(f'<text x="{WIDE}" y="{at + 18:.1f}" text-anchor="end">{told}</text>')
    legend = f"<ul class=key>{''.join(key)}</ul>" if key else ""
    return (
        f'<div class="scroll wide"><svg viewBox="0 0 {WIDE:.0f} {height + 18:.0f}" role="img" aria-label="memory over the step">'
        + "".join(out) + _axis(total, height + 14) + f"</svg></div>{legend}"
    )  # fmt: skip


def _parts(found: dict) -> str:
    total = found["step_time_s"]
    listed = [(n, s) for n, s in parts(found).items() if s > 0.002 * total]
    bar = "".join(
        f'<i style="width:{s / total:.2%};background:var({PART_COLOURS[n]})" title="{_text(n)}: {seconds(s)}"></i>'
        for n, s in listed
    )
    key = "".join(
        f'<li><i style="background:var({PART_COLOURS[n]})"></i>{_text(n)} {seconds(s)} ({s / total:.0%})</li>'
        for n, s in listed
    )
    return f"<div class=bar>{bar}</div><ul class=key>{key}</ul>"


def _cards(found: dict) -> str:
    memory, peak = found["cluster"]["memory_bytes"], found["peak_bytes"]
    if found["fits"]:
        cards = [
            ("throughput", rate(found)), ("step time", seconds(found["step_time_s"])),
            ("of the peak", percent(found["utilisation"])), ("memory", f"{gib(peak)} of {gib(memory)}"),
            ("binds", BINDS[binds(found)]),
        ]  # fmt: skip
    else:
        cards = [
            ("does not fit", f"{gib(max(0.0, peak - memory))} too many"),
            ("needs at least", gib(peak)),
            ("usable", gib(memory)),
        ]
    return (
        "<div class=cards>"
        + "".join(f"<div class=card>{_text(n)}<b>{_text(v)}</b></div>" for n, v in cards)
        + "</div>"
    )


def _script(found: dict) -> list[str]:
    """What is told by lines of the script."""
    tables = (
        ("Kept whole on every device", [("op", False), ("times", True), ("why", False), ("first called at", False)],
         [[o["op"] or "update", str(o["nodes"]), o["why"] or "too small", o.get("line", "")] for o in kept_whole(found)[:10]]),
        ("Largest values that the script makes, whole", [("bytes", True), ("op", False), ("shape", False), ("line", False)],
         [[gib(m["bytes"]), m["op"], str(m["shape"]), m["line"]] for m in found.get("largest", [])]),
        ("Values that the script read (zeros in a dry run)", [("line", False), ("how often", False)],
         [[line, often(times)] for line, times in found.get("reads", {}).items()]),
    )  # fmt: skip
    return [f"<h2>{title}</h2>{_table(head, rows)}" for title, head, rows in tables if rows]


def _side_by_side(rows: list[tuple[str, dict]]) -> str:
    return _table(
        [("", False), ("step", True), ("throughput", False), ("memory", True), ("layout", False)],
        [
            [
                name,
                seconds(f["step_time_s"]) if f["fits"] else "-",
                rate(f) if f["fits"] else why_not(f),
                gib(f["peak_bytes"]) if "peak_bytes" in f else "-",
                f.get("layout") or "",
            ]
            for name, f in rows
        ],
    )


def page(found: dict) -> str:
    """The whole page."""
    where = found["cluster"]
    title = f"{found['model']} on {where['name']}"
    out = [
        f"<h1>{_text(title)}</h1>",
        f"<p class=soft>{found['parameters']:,} parameters; {_text(batch(found))}; {where['devices']} x {_text(where['device'])}; everything here is predicted</p>",
        _cards(found),
    ]
    if found["fits"]:
        out.append(
            f"<p>Layout: <b>{_text(found['layout'])}</b>. What would make it faster: {_text(ADVICE[binds(found)])}.</p>"
        )
    out += [f"<p>{_text(name)}: {_text(text)}</p>" for name, text in found.get("advice", {}).items()]
    out += [f"<p>Careful: {_text(text)}.</p>" for text in warnings(found)]
    if found["fits"]:
        kinds = {span[1] for span in found["picture"]["spans"]}
        key = "".join(
            f'<li><i style="background:var({c})"></i>{k}</li>' for k, c in COLOURS.items() if k in kinds
        )
        rows = "a row for each stage of the pipeline" if found["stages"] > 1 else "one device: all do alike"
        if found["rounds"] > 1:
            rows += "; what follows the first round's forward is drawn as backward"
        out += ["<h2>Where the time goes</h2>", _parts(found)]
        out += [f"<h2>A step</h2><p class=soft>{rows}</p><ul class=key>{key}</ul>", timeline(found)]
        out += ["<h2>Memory over the step</h2>", memory_chart(found)]
        out.append("<h2>Tensors</h2>" + _table(
            [("what", False), ("role", False), ("bytes, whole", True), ("where", False)],
            [[f"{g['count']} x {g['type']}", g["role"], gib(g["bytes"]), placement(g["placement"])] for g in found["tensors"][:12]],
        ))  # fmt: skip
        out.append("<h2>Ops, on one device</h2>" + _table(
            [("op", False), ("times", True), ("takes", True)],
            [[o["op"], f"{o['count']:,.0f}", seconds(o["seconds"])] for o in found["breakdown"]["ops"][:12]],
        ))  # fmt: skip
        out.append("<h2>Messages</h2>" + _table(
            [("what", False), ("axis", False), ("bytes", True), ("takes", True)],
            [[m["collective"], f"{m['axis_name']} {found['axes'][m['axis']]['size']}", gib(m["bytes"]), seconds(m["seconds"])]
             for m in found["breakdown"]["messages"][:10]],
        ))  # fmt: skip
        out.append("<h2>Runners-up</h2>" + _table(
            [("step", True), ("memory", True), ("layout", False), ("why it lost", False)],
            [[seconds(o["step_time_s"]), gib(o["peak_bytes"]), o["layout"], why_lost(found, o)] for o in found["runners_up"][:6]],
        ))  # fmt: skip
    else:
        out.append("<h2>Largest on each device when it is fullest</h2>" + _table(
            [("bytes", True), ("what, whole", False), ("of", False), ("made by", False), ("line", False)],
            [[gib(p["bytes"]), f"{p['count']} x {p['type']}", p["kind"], p["op"], p.get("line", "")] for p in found["memory_parts"][:12]],
        ))  # fmt: skip
    out += _script(found)
    if found.get("compared"):
        out.append(
            "<h2>Side by side</h2>"
            + _side_by_side([("as asked", found), *((c["change"], c) for c in found["compared"])])
        )
        out += sweep_charts([(c["change"], c) for c in found["compared"] if c["change"] in found["swept"]])
    out.append(f"<details><summary>As text</summary><pre>{_text(report(found))}</pre></details>")
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style><body>{''.join(out)}</body></html>\n"
    )

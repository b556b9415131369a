"""The report of ``moai plan`` as text of 80 columns, from the result of `moai.plan`."""

from __future__ import annotations

import math
import textwrap

WIDTH = 80
NAME = 13
# Of a step's FLOPs or bytes: below it nobody waits for what every device does again.
LEAST_KEPT_WHOLE = 0.0005
# Where less of the memory is used, a chart leaves its limit out: the curve would lie flat.
LEAST_SHARE_DRAWN = 0.4
# What no batch changes.
LYING_STILL = ("weights", "states", "gradients")
# Parts of a step's time: name, where it stands in the result, what it means that it is the largest.
ADVICE = {
    "products": "faster devices, more of them, or a narrower type: the products are most of it",
    "attention": "shorter sequences, or a faster attention kernel",
    "memory": "fused ops, or a larger batch: elementwise ops wait for the memory",
    "op overhead": "a larger batch on each device: most ops are shorter than the gap between two",
    "messages": "faster links, fewer devices for this batch, or a larger batch",
    "host link": "more memory on each device or more devices, so that less goes to the host; a faster link to it",
    "other stages": "a larger batch (more micro-batches), or fewer pipeline stages",
    "the script": "a larger batch: the script's own thread takes longer than the devices",
}
BINDS = {
    "products": "computing", "attention": "computing", "memory": "the devices' memory", "op overhead": "the host and launches",
    "messages": "the network", "host link": "the link to the host", "other stages": "the pipeline's bubble",
    "the script": "the host",
}  # fmt: skip


def gib(number: float) -> str:
    """Return bytes as a reader wants them."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1024:.1f} KiB" if number >= 1024 else f"{number:.0f} B"


def seconds(number: float) -> str:
    """Return a duration with its unit."""
    return (
        "0"
        if number == 0
        else f"{number:.3g} s"
        if number >= 1
        else f"{number * 1e3:.3g} ms"
        if number >= 1e-3
        else f"{number * 1e6:.3g} us"
    )


def percent(share: float) -> str:
    """A share of a whole, with a digit that is not zero."""
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share * 100:.1g}%"


def often(times: int) -> str:
    """How often something happened."""
    return "once" if times == 1 else f"{times} times"


def placement(text: str) -> str:
    """Where a tensor lies, from `axis size: shard dim d; axis size: replicate`: only what is split is said."""
    over: dict[str, list[str]] = {}
    for part in text.split("; "):
        axis, _, how = part.partition(": ")
        if how.startswith("shard "):
            over.setdefault(how, []).append(axis)
    return "; ".join(f"{how} over {' x '.join(axes)}" for how, axes in over.items()) or "whole on each device"


def parts(found: dict) -> dict[str, float]:
    """Seconds of the step by what takes them; they add up to the step time.

    Computing is divided as its ops are, the mean over stages.
    """
    time, compute = found["time"], found["breakdown"]["compute"]
    shares = {
        "products": compute["products_s"],
        "attention": compute["attention_s"],
        "memory": compute["memory_s"],
        "op overhead": compute["overhead_s"] + compute["exchange_s"],
    }
    total = sum(shares.values()) or 1
    out = {name: time["compute_s"] * share / total for name, share in shares.items()}
    out["messages"] = time["exposed_communication_s"]
    out["host link"] = time["exposed_host_s"]
    out["other stages"] = time["bubble_s"]
    out["the script"] = time["script_s"]
    return out


def throughput(found: dict) -> tuple[float, str]:
    """What is gone through in a second, and what that is."""
    if found["tokens_per_s"] is not None:
        return found["tokens_per_s"], "tokens/sec"
    if found["samples_per_s"]:
        return found["samples_per_s"], "samples/sec"
    return 1 / found["step_time_s"], "steps/sec"


def rate(found: dict) -> str:
    """The same in words, with four digits at least."""
    number, unit = throughput(found)
    return f"{number:,.0f} {unit}" if number >= 1000 else f"{number:.4g} {unit}"


def batch(found: dict) -> str:
    """What a step goes through."""
    if not found["batch"]:
        return f"{found['tokens']:,} tokens" if found["tokens"] else "no batch was found"
    each = f"{found['batch']} sample{'s' if found['batch'] > 1 else ''}" + (
        f" of {found['seq']} tokens" if found["seq"] else ""
    )
    return f"{found['rounds']} rounds of {each}" if found["rounds"] > 1 else each


def kept_whole(found: dict) -> list[dict]:
    """The ops that every device does whole, less those that are nothing beside the step."""
    total = sum(op["bytes"] for op in found["kept_whole_ops"])
    if max(found["kept_whole"].values()) < LEAST_KEPT_WHOLE or not total:
        return []
    return [op for op in found["kept_whole_ops"] if op["bytes"] >= 0.01 * total or op["flops"] > 0]


def warnings(found: dict) -> list[str]:
    """What to know before believing the figures."""
    out = []
    idle = (
        math.prod(axis["size"] for axis in found["axes"] if axis["name"] == "whole") if found["fits"] else 1
    )
    if idle > 1:
        turns = found["micro_batches"]
        each = (
            f"a micro-batch of {found['batch'] // turns} sample{'s' if found['batch'] > turns else ''}"
            if turns > 1 and found["batch"]
            else "this batch"
        )
        out.append(
            f"{idle} devices at a time do the same products (an axis `whole`): {each} is too small for "
            f"{found['cluster']['devices']} devices, or cannot be split further"
        )
    if found["rounds"] > 1:
        out.append(
            f"the script adds up the gradients of {found['rounds']} rounds, which are planned one after the other: given "
            "as one batch, the planner cuts it into micro-batches by itself, and may share it among more devices"
        )
    if found.get("other_sizes", False):
        out.append(
            f"the batches of {found['steps_recorded']} steps had different sizes (padded to their longest sample, perhaps): the "
            "last was planned, and others take other times"
        )
    elif not found.get("steps_alike", True):
        out.append(
            f"the last of {found['steps_recorded']} steps was not like the one before: it is what was planned"
        )
    if found.get("optimizers", 1) > 1:
        out.append(
            f"the script steps {found['optimizers']} optimizers: all of them step in the step that was planned"
        )
    return out


def binds(found: dict) -> str:
    """The part that takes most."""
    return max(parts(found).items(), key=lambda item: item[1])[0]


def why_lost(found: dict, other: dict) -> str:
    """What a runner-up takes longer for."""
    worse = {
        name: other["time"][key] - found["time"][key]
        for name, key in (
            ("computing", "compute_s"), ("waiting for messages", "exposed_communication_s"), ("waiting for other stages", "bubble_s"),
        )
    }  # fmt: skip
    name, longer = max(worse.items(), key=lambda item: item[1])
    return f"{seconds(longer)} more of {name}" if longer > 0 else "as fast; takes more memory"


class _Lines:
    """Lines of a name and wrapped text."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, name: str, value: str) -> None:
        wrapped = textwrap.wrap(value, WIDTH - NAME, break_on_hyphens=False) or [""]
        for i, line in enumerate(wrapped):
            self.lines.append(f"{name if i == 0 else '':<{NAME}}{line}")

    def table(self, title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """Columns as wide as they need; where that is too much, the widest is wrapped."""
        if not rows:
            return
        sizes = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        while 2 + sum(sizes) + 2 * (len(sizes) - 1) > WIDTH:
            sizes[sizes.index(max(sizes))] -= 1
        self.lines += ["", title]
        for row in (head, *rows):
            cells = [
                textwrap.wrap(cell, size, break_on_hyphens=False) or [""]
                for cell, size in zip(row, sizes, strict=True)
            ]
            for i in range(max(len(cell) for cell in cells)):
                line = (
                    (cell[i] if i < len(cell) else "").ljust(size)
                    for cell, size in zip(cells, sizes, strict=True)
                )
                self.lines.append("  " + "  ".join(line).rstrip())


def report(found: dict) -> str:
    """The whole report."""
    out = _Lines()
    where = found["cluster"]
    out.add("model", f"{found['model']}, {found['parameters']:,} parameters")
    out.add(
        "cluster",
        f"{where['name']}: {where['devices']} x {where['device']}, {gib(where['memory_bytes'])} usable on each",
    )
    out.add("step", batch(found))
    (_fitting if found["fits"] else _not_fitting)(found, out)
    if found["no_micro_batches"]:
        out.add("one pass", f"no micro-batches: {found['no_micro_batches']}")
    for name, text in found.get("advice", {}).items():
        out.add(name, text)
    for text in warnings(found):
        out.add("careful", text)
    _tables(found, out)
    _script(found, out)
    spent = found["plan_seconds"]
    out.lines.append("")
    out.add(
        "planned in",
        f"{spent['total']:.1f} s: recording {spent['record']:.1f}, search {spent['bounds'] + spent['search']:.1f} "
        f"({found['tried']} plans tried, {found['ruled_out']} meshes ruled out)",
    )
    return "\n".join(out.lines)


def _fitting(found: dict, out: _Lines) -> None:
    memory, peak = found["cluster"]["memory_bytes"], found["peak_bytes"]
    out.add("fits", f"yes: {gib(peak)} on each device, {gib(memory - peak)} to spare")
    out.add("layout", found["layout"])
    out.add("step time", f"{seconds(found['step_time_s'])} predicted")
    out.add(
        "throughput",
        f"{rate(found)} predicted; {percent(found['utilisation'])} of the devices' peak in 16 bits",
    )
    total = found["step_time_s"]
    listed = [(n, s) for n, s in parts(found).items() if s >= 0.005 * total]
    out.add("time", ", ".join(f"{name} {seconds(s)} ({s / total:.0%})" for name, s in listed))
    bound = binds(found)
    out.add("binds", f"{BINDS[bound]} ({bound})")
    out.add("memory", ", ".join(f"{n} {gib(b)}" for n, b in found["bytes"].items() if b >= 0.005 * peak))
    if found["host_bytes"] > 0:
        out.add(
            "on the host",
            f"{gib(found['host_bytes'])} of each device's activations; its link is busy {seconds(found['time']['host_s'])}",
        )
    out.add(
        "bound",
        f"nothing overlapping, {seconds(found['sum_s'])}{' (of stages, the mean)' if found['stages'] > 1 else ''}; no plan below {seconds(found['lower_bound'])}, so at most "
        f"{found['gap']:.1%} could be gained",
    )
    out.add("faster", ADVICE[bound])


def _not_fitting(found: dict, out: _Lines) -> None:
    memory, peak = found["cluster"]["memory_bytes"], found["peak_bytes"]
    out.add("fits", f"no: {gib(peak)} on each device at least, {gib(max(0.0, peak - memory))} too many")
    out.add("exceeded", found["excess"].splitlines()[0].removeprefix("moai plan: "))
    kinds = bytes_by_kind(found)
    out.add("most of it", ", ".join(f"{k} {gib(b)}" for k, b in kinds.items() if b >= 0.005 * peak))
    if "would fit" not in found.get("advice", {}):
        out.add("would fit", what_would_fit(found))


def bytes_by_kind(found: dict) -> dict[str, float]:
    """What does not fit, by what it is: the largest first."""
    out: dict[str, float] = {}
    for part in found["memory_parts"]:
        out[part["kind"]] = out.get(part["kind"], 0) + part["bytes"]
    return dict(sorted(out.items(), key=lambda item: -item[1]))


def what_would_fit(found: dict, devices: str = "more devices") -> str:
    """These devices, or what else there is."""
    kinds = bytes_by_kind(found)
    other = ", or shorter sequences" if found["seq"] else ""
    pins = ", or fewer pins" if found["pin"] else ""
    if sum(kinds.get(k, 0) for k in LYING_STILL) > found["cluster"]["memory_bytes"]:
        still = f"{', '.join(LYING_STILL[:-1])} and {LYING_STILL[-1]}"
        return f"{devices}{pins}; no smaller batch, as {still} are too large by themselves"
    if any(plan["micro_batches"] == found["batch"] for plan in found["too_large"]):
        return f"{devices}{other}{pins}; no smaller batch, as one sample at a time is too large, too"
    return f"{devices}, or a smaller batch{other}{pins}"


def _tables(found: dict, out: _Lines) -> None:
    if found["fits"]:
        rows = [
            (f"{g['count']} x {g['type']}", g["role"], gib(g["bytes"]), placement(g["placement"])) for g in found["tensors"][:6]
        ]  # fmt: skip
        out.table("tensors, whole", ("what", "role", "bytes", "where"), rows)
        ops = [(o["op"], f"{o['count']:,.0f}", seconds(o["seconds"])) for o in found["breakdown"]["ops"][:6]]
        out.table("ops, on one device", ("op", "times", "takes"), ops)
        messages = [
            (m["collective"], f"{m['axis_name']} {found['axes'][m['axis']]['size']}", gib(m["bytes"]), seconds(m["seconds"]))
            for m in found["breakdown"]["messages"][:5]
        ]  # fmt: skip
        out.table("messages of one group", ("what", "axis", "bytes", "takes"), messages)
        others = [
            (seconds(o["step_time_s"]), gib(o["peak_bytes"]), f"{o['layout']}: {why_lost(found, o)}")
            for o in found["runners_up"][:4]
        ]  # fmt: skip
        out.table("runners-up", ("step", "memory", "layout, and why it lost"), others)
    _largest_parts(found, out)
    whole = found["kept_whole"]
    kept = [
        (o["op"] or "update", str(o["nodes"]), o["why"] or "too small", o.get("line", ""))
        for o in kept_whole(found)[:5]
    ]
    title = f"kept whole on every device: {whole['flops']:.2%} of FLOPs, {whole['bytes']:.2%} of bytes"
    out.table(title, ("op", "times", "why", "first called at"), kept)


def _largest_parts(found: dict, out: _Lines) -> None:
    head = ["bytes", "what, whole", "of", "made by"]
    rows = [
        [gib(p["bytes"]), (f"{p['count']} x " if p["count"] > 1 else "") + p["type"], p["kind"], p["op"]]
        for p in found["memory_parts"][:8]
    ]
    if any(p.get("line") for p in found["memory_parts"][:8]):
        head.append("line")
        for row, part in zip(rows, found["memory_parts"], strict=False):
            row.append(part.get("line", ""))
    out.table("largest on each device then", tuple(head), [tuple(row) for row in rows])


def _script(found: dict, out: _Lines) -> None:
    largest = [(gib(m["bytes"]), m["op"], str(m["shape"]), m["line"]) for m in found.get("largest", [])[:5]]
    out.table("largest values that the script makes, whole", ("bytes", "op", "shape", "line"), largest)
    reads = [(line, often(times)) for line, times in list(found.get("reads", {}).items())[:8]]
    out.table("values that the script read (zeros in a dry run)", ("line", "how often"), reads)


def why_not(found: dict) -> str:
    """Why there is no throughput."""
    return found.get("refused", "does not fit").partition("\n")[0]


def comparison(rows: list[tuple[str, dict]]) -> str:
    """Plans side by side, and their layouts below."""
    out = _Lines()
    table = []
    for name, found in rows:
        if found["fits"]:
            speed = (seconds(found["step_time_s"]), percent(found["utilisation"]), rate(found))
        else:
            speed = ("-", "-", why_not(found))
        table.append((name, gib(found["peak_bytes"]) if "peak_bytes" in found else "-", *speed))
    out.table("side by side", ("", "memory", "step", "of peak", "throughput"), table)
    out.lines.append("")
    for name, found in rows:
        if found["fits"]:
            out.lines += textwrap.wrap(f"{name}: {found['layout']}", WIDTH, subsequent_indent="  ")
    return "\n".join(out.lines).lstrip("\n")

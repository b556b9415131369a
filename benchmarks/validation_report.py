"""What benchmarks/validate.py found: as text, as Markdown, and as a plot."""

from __future__ import annotations

from pathlib import Path


def lines_of_scores(found: dict) -> list[tuple[str, str, str, str]]:
    """Each score's name, its median and 90th percentile, and of how many; out of sample first."""
    rows = []
    for view, all_scores in found["scores"].items():
        named = [(f"absolute, {name}", score) for name, score in all_scores["absolute"].items()]
        for name, score in [*named, ("scaling inside a group", all_scores["scaling"])]:
            if score.get("count"):
                rows.append(
                    (f"{view}: {name}", f"{score['median']:.1%}", f"{score['p90']:.1%}", str(score["count"]))
                )
        ranking = all_scores["ranking"]
        if ranking["pairs"]:
            rows.append(
                (f"{view}: pairs ranked rightly", f"{ranking['right']:.1%}", "", f"{ranking['pairs']} pairs")
            )
    memory = found["memory"]
    if memory.get("count"):
        rows.append(
            (
                "memory where stated",
                f"{memory['median']:.1%}",
                f"{memory['p90']:.1%}",
                f"{memory['count']} rows",
            )
        )
    return rows


def text(found: dict) -> str:
    """For a terminal of 80 columns and more."""
    out = [f"{'id':<44} {'measured':>9} {'predicted':>9} {'error':>7}"]
    for row in found["predictions"]:
        out.append(
            f"{row['id'][:44]:<44} {row['measured_s']:>8.3f}s {row['predicted_s']:>8.3f}s {row['errors']['fitted']:>+7.1%}"
        )
    for name, why in found["not_predicted"].items():
        out.append(f"{name[:44]:<44} not predicted: {why}")
    out += ["", f"{'':<48} median    90 %  groups"]
    out += [
        f"{name:<48} {middle:>6} {most:>7}  {count}" for name, middle, most, count in lines_of_scores(found)
    ]
    out += ["", f"{'':<48} median    90 %  groups"]
    for name, score in found["by_gpu_and_family"].items():
        if score["fitted"]["count"]:
            fitted = score["fitted"]
            out.append(f"{name:<48} {fitted['median']:>6.1%} {fitted['p90']:>7.1%}  {fitted['count']}")
    constants = found["constants"]
    out.append("")
    out.append(
        f"{constants['each']} constants each for {len(constants['fitted_families'])} pairs of GPU and family; "
        f"{len(constants['others'])} go by what is known of the two apart"
    )
    seen = {row["id"] for row in found["predictions"]} & set(constants["fitted_rows"])
    out.append(
        f"{len(seen)} of {len(found['predictions'])} rows are among those that constants were fitted to"
    )
    return "\n".join(out)


def markdown(found: dict, known: dict) -> str:
    """docs/validation.md."""
    constants, fitted = found["constants"], set(found["constants"]["fitted_rows"])
    out = ["# Predictions against published training runs", ""]
    out.append(
        "Written by `python benchmarks/validate.py FILE.csv --write docs/validation.md`: the model of each row is built from "
        "its dimensions, a step of it recorded with nothing executed, and planned with the row's layout pinned. Errors are "
        "|log(predicted / measured)| of the step time, the mean inside each group, then median and 90th percentile over "
        f"groups. {len(found['predictions'])} of {found['rows']} rows are predicted."
    )
    out.append("")
    out.append(
        f"Constants were fitted to {len(fitted)} rows, {len(fitted & {row['id'] for row in found['predictions']})} of them among "
        'these. "Group left out" and "family left out" are out of sample: constants come from the rows of all other groups, or '
        'of all other families of software. "Fitted" says how well so few numbers describe what they were fitted to.'
    )
    out += ["", "| score | median | 90 % | groups |", "|---|---|---|---|"]
    out += [f"| {' | '.join(line)} |" for line in lines_of_scores(found)]
    out += ["", "## By GPU and family of software", ""]
    out.append("Median and 90th percentile of groups.")
    views = list(found["scores"])
    out += ["", f"| GPU, family | {' | '.join(views)} | groups |", "|---" * (len(views) + 2) + "|"]
    for name, score in found["by_gpu_and_family"].items():
        if score["fitted"]["count"]:
            cells = [f"{score[view]['median']:.1%}, {score[view]['p90']:.1%}" for view in views]
            out.append(f"| {name} | {' | '.join(cells)} | {score['fitted']['count']} |")
    out += ["", "## Constants", ""]
    out.append(
        f"{constants['each']} for each GPU and family: of what the profiles say (docs/clusters.md), parts of the rates of matrix products, "
        "of attention, of memory (above 1 where ops are fused), of the links inside a host and across hosts, and multiples of the gap "
        "between two ops; the part of messages beside computing that is hidden; and the GiB of a GPU that lie in no tensor. A family "
        "that was not seen on a GPU goes by what is known of the two apart. How they are fitted: docs/prediction.md."
    )
    names = list(known["elsewhere"])
    out += ["", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    tables = [
        {"(no matter which)": known["elsewhere"]},
        *(known[k] for k in ("gpus", "software", "families")),
    ]
    for table in tables:
        for name, values in table.items():
            out.append(f"| {name} | " + " | ".join(f"{values[n]:.2f}" for n in names) + " |")
    out += ["", "## Rows", "", f"| id | measured s | predicted s | {' | '.join(reversed(views))} |"]
    out.append("|---" * (len(views) + 3) + "|")
    for row in found["predictions"]:
        cells = " | ".join(f"{row['errors'][view]:+.1%}" for view in reversed(views))
        out.append(f"| {row['id']} | {row['measured_s']:.3f} | {row['predicted_s']:.3f} | {cells} |")
    if found["not_predicted"]:
        out += ["", "## Rows without a prediction", ""]
        out += [f"- {name}: {why}" for name, why in found["not_predicted"].items()]
    return "\n".join(out) + "\n"


def plot(found: dict, path: Path) -> None:
    """Predicted against measured, both logarithmic."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError("a plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 7))
    for gpu in sorted({row["gpu"] for row in found["predictions"]}):
        rows = [row for row in found["predictions"] if row["gpu"] == gpu]
        axes.scatter(
            [r["measured_s"] for r in rows], [r["predicted_s"] for r in rows], s=14, label=gpu, alpha=0.7
        )
    ends = [f(r[k] for r in found["predictions"] for k in ("measured_s", "predicted_s")) for f in (min, max)]
    axes.plot(ends, ends, color="grey", linewidth=1)
    for factor in (0.75, 1.25):
        axes.plot(ends, [e * factor for e in ends], color="grey", linewidth=0.6, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="measured step time, s", ylabel="predicted step time, s")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)

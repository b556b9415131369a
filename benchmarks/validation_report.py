"""What benchmarks/validate.py found: as text, as Markdown, and as a plot."""

from __future__ import annotations

from pathlib import Path


def percent(score: dict) -> str:
    if not score.get("count"):
        return "no rows"
    return f"{score['median']:6.1%} {score['p90']:7.1%}  ({score['count']})"


def lines_of_scores(found: dict) -> list[tuple[str, str]]:
    """Each score's name, and its median and 90th percentile in words."""
    rows = [(f"absolute, {name}", percent(s)) for name, s in found["absolute"].items()]
    rows += [
        (f"family left out, {name}", percent(s)) for name, s in found["absolute_family_left_out"].items()
    ]
    rows.append(("scaling", percent(found["scaling"])))
    rows.append(("ranking", f"{found['ranking']['right']:6.1%} of {found['ranking']['pairs']} pairs"))
    rows.append(("memory", percent(found["memory"])))
    return rows


def text(found: dict) -> str:
    """For a terminal of 80 columns and more."""
    out = [f"{'id':<44} {'measured':>9} {'predicted':>9} {'error':>7}"]
    for row in found["predictions"]:
        out.append(
            f"{row['id'][:44]:<44} {row['measured_s']:>8.3f}s {row['predicted_s']:>8.3f}s {row['error']:>+7.1%}"
        )
    for name, why in found["not_predicted"].items():
        out.append(f"{name[:44]:<44} not predicted: {why}")
    out.append("")
    out.append(f"{'':<36} median     90 %  (groups)")
    out += [f"{name:<36} {value}" for name, value in lines_of_scores(found)]
    out.append("")
    out += [
        f"{name:<36} {percent(score)}" for name, score in found["by_gpu_and_family"].items() if score["count"]
    ]
    out.append("")
    constants = found["constants"]
    out.append(
        f"{constants['each']} constants each for {len(constants['fitted_families'])} pairs of GPU and family; "
        f"{len(constants['families_by_their_gpu'])} go by their GPU"
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
        f"groups. {len(found['predictions'])} of {found['rows']} rows are predicted. The constants were fitted to "
        f'{len(fitted)} rows, {len(fitted & {row["id"] for row in found["predictions"]})} of them among these: "absolute" says how '
        'well so few numbers describe what they were fitted to, "family left out" how well another family is foretold.'
    )
    out += ["", "| score | median | 90 % | groups |", "|---|---|---|---|"]
    tables = [(f"absolute, {k}", v) for k, v in found["absolute"].items()]
    tables += [(f"absolute, family left out, {k}", v) for k, v in found["absolute_family_left_out"].items()]
    tables += [("scaling inside a group", found["scaling"]), ("memory where stated (rows)", found["memory"])]
    for name, score in tables:
        if score.get("count"):
            out.append(f"| {name} | {score['median']:.1%} | {score['p90']:.1%} | {score['count']} |")
    ranking = found["ranking"]
    out.append(f"| ranking: pairs ordered rightly | {ranking['right']:.1%} | | {ranking['pairs']} pairs |")
    out += [
        "",
        "## By GPU and family of software",
        "",
        "| GPU, family | median | 90 % | groups |",
        "|---|---|---|---|",
    ]
    for name, score in found["by_gpu_and_family"].items():
        if score["count"]:
            out.append(f"| {name} | {score['median']:.1%} | {score['p90']:.1%} | {score['count']} |")
    out += ["", "## Constants", ""]
    out.append(
        f"{constants['each']} for each GPU and family: of what the profiles say (docs/clusters.md), parts of the rates of matrix products, "
        "of attention, of memory (above 1 where ops are fused), of the links inside a host and across hosts, and multiples of the gap "
        "between two ops; the part of messages beside computing that is hidden; and the GiB of a GPU that lie in no tensor. A family "
        "that has none goes by its GPU's. How they are fitted: docs/prediction.md."
    )
    names = list(known["elsewhere"])
    out += ["", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for kind in ("gpus", "families"):
        for name, values in known[kind].items():
            out.append(f"| {name} | " + " | ".join(f"{values[n]:.2f}" for n in names) + " |")
    out += [
        "",
        "## Rows",
        "",
        "| id | measured s | predicted s | error | family left out |",
        "|---|---|---|---|---|",
    ]
    for row in found["predictions"]:
        out.append(
            f"| {row['id']} | {row['measured_s']:.3f} | {row['predicted_s']:.3f} | {row['error']:+.1%} "
            f"| {row['error_family_left_out']:+.1%} |"
        )
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

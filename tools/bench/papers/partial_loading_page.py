"""The page and the figures of tools/bench/papers/partial_loading.py. Nothing is measured here.

The prose is in partial_loading.md beside this file; names in braces there are replaced by values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench.report import save_figure

TEMPLATE = Path(__file__).with_name("partial_loading.md")

# Figures in the paper's text, in points of served ratio: averages along B, K, T, θ.
PRINTED = {
    "6": {"Spec": (24.0, 24.0, 22.0, 26.0), "Gen": (16.0, 18.0, 18.0, 21.0)},
    "7": {"Gen": (36.0, 38.0, 36.0, 39.0)},
}
# (12) against r = 5, 10, 20 equal bands, along B and K.
PRINTED_8 = {
    "bls": {"B": (9.9, 16.9, 26.2), "K": (3.9, 7.7, 15.2)},
    "general": {"B": (9.6, 16.1, 25.6), "K": (3.4, 7.7, 16.1)},
}
NAMES = {
    "bls": "bottom layers shared",
    "general": "general case",
    "bls, float": "bottom layers shared, float images",
    "general, float": "general case, float images",
}
AXES = {
    "B": ("B (MHz)", (10, 50, 100, 200, 300, 400)),
    "K": ("K, users", (60, 70, 80, 90, 100)),
    "T": ("T (ms)", (500, 600, 700, 800, 900)),
    "θ": ("θ (%)", (75, 80, 85, 90, 95)),
}


def gain(curves: dict[str, list[float]], method: str, base: str) -> tuple[float, float]:
    """The average gain over `base` along a sweep: points of served ratio, and percent."""
    ours, theirs = np.array(curves[method]), np.array(curves[base])
    return 100 * float((ours - theirs).mean()), 100 * float(ours.mean() / theirs.mean() - 1)


def summary(figure: str, result: Any) -> dict[str, Any]:
    """The figures of one line of JSON."""
    if figure in PRINTED:
        methods = [name for name in result["B"] if name != "Indep"]
        return {
            "points_over_independent": {
                method: {
                    sweep: round(gain(curves, method, "Indep")[0], 1)
                    for sweep, curves in result.items()
                }
                for method in methods
            },
            "printed": {m: dict(zip(AXES, p, strict=True)) for m, p in PRINTED[figure].items()},
        }
    if figure == "8":
        return {
            "points_over_equal_bands": {
                family: {
                    sweep: [round(gain(c, "(12)", r)[0], 1) for r in c if r != "(12)"]
                    for sweep, c in curves.items()
                }
                for family, curves in result.items()
            },
            "printed": PRINTED_8,
        }
    return {
        family: {
            method: {"served": round(one["served"], 4), "ms": round(one["ms"], 3)}
            for method, one in methods.items()
        }
        for family, methods in result.items()
    }


def write(out: Path, results: dict[str, Any], seeds: int, small_seeds: int) -> None:
    """`partial-loading.md` and its figures, into the folder `out`."""
    _plot_curves(out / "partial-loading-fig6.svg", {"": results["6"]}, 2)
    _plot_curves(out / "partial-loading-fig7.svg", {"": results["7"]}, 2)
    as_printed = {NAMES[family]: results["8"][family] for family in ("bls", "general")}
    _plot_curves(out / "partial-loading-fig8.svg", as_printed, 2)
    _plot_small(out / "partial-loading-fig9.svg", {NAMES[f]: m for f, m in results["9"].items()})
    text = TEMPLATE.read_text(encoding="utf-8").format(
        seeds=seeds,
        small_seeds=small_seeds,
        fig6=_gains(results["6"], PRINTED["6"]),
        fig7=_gains(results["7"], PRINTED["7"]),
        default=_default_point(results),
        fig8=_equal_bands(results["8"]),
        fig9=_small(results["9"]),
        rates=_rates(results["rates"]),
        late=_table(
            ["B (MHz)", "Spec, on slots", "dp, no slots"],
            [
                [mhz, *(f"{100 * part:.0f} %" for part in parts.values())]
                for mhz, parts in results["late"].items()
            ],
        ),
    )
    (out / "partial-loading.md").write_text(text, encoding="utf-8")


def _table(headers: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] * len(headers)
    return "\n".join("| " + " | ".join(row) + " |" for row in [headers, rule, *rows])


def _gains(result: dict[str, Any], printed: Mapping[str, tuple[float, ...]]) -> str:
    methods = [name for name in result["B"] if name != "Indep"]
    headers = ["average along"]
    for method in methods:
        headers.append(f"{method}: points (relative)")
        if method in printed:
            headers.append("printed")
    rows = []
    for at, (sweep, curves) in enumerate(result.items()):
        row = [sweep]
        for method in methods:
            points, percent = gain(curves, method, "Indep")
            row.append(f"{points:+.1f} ({percent:+.0f} %)")
            if method in printed:
                row.append(f"+{printed[method][at]:g}")
        rows.append(row)
    return _table(headers, rows)


def _default_point(results: dict[str, Any]) -> str:
    """The results at the default point: B = 200 MHz, K = 80, T = 700 ms, θ = 85 %."""
    names = {"6": "bottom layers shared, 50 models", "7": "general case, 25 models"}
    methods = ["Indep", "Gen", "Spec", "dp", "greedy-plus"]
    rows = []
    for figure, name in names.items():
        curves = results[figure]["K"]
        rows.append([name, *(f"{curves[m][2]:.3f}" if m in curves else "" for m in methods)])
    return _table(["served ratio", *methods], rows)


def _equal_bands(result: dict[str, Any]) -> str:
    rows = []
    for family, curves_by_sweep in result.items():
        for sweep, curves in curves_by_sweep.items():
            printed = PRINTED_8[family.partition(",")[0]][sweep]
            row = [NAMES[family], sweep]
            for at, name in enumerate(name for name in curves if name != "(12)"):
                row.append(f"{gain(curves, '(12)', name)[0]:+.1f}")
                row.append(f"+{printed[at]:g}")
            rows.append(row)
    headers = ["", "along"]
    for channels in (5, 10, 20):
        headers += [f"r = {channels}: points", "printed"]
    return _table(headers, rows)


def _small(result: dict[str, Any]) -> str:
    rows = []
    for family, methods in result.items():
        best = methods["exact"]
        for method, one in methods.items():
            lost = 100 * (one["served"] / best["served"] - 1)
            rows.append(
                [
                    NAMES[family],
                    method,
                    f"{one['served']:.3f}",
                    f"{lost:+.1f} %",
                    f"{one['ms']:.2f}",
                    f"{best['ms'] / one['ms']:.1f}",
                ]
            )
    headers = ["", "method", "served ratio", "to exact", "ms", "times faster than exact"]
    return _table(headers, rows)


def _rates(result: dict[str, Any]) -> str:
    """The points over independent loading, averaged over all four sweeps, by loading rate."""

    def mean(curves: dict[str, Any], method: str) -> str:
        return f"{np.mean([gain(c, method, 'Indep')[0] for c in curves.values()]):+.1f}"

    rows = [
        [rate, mean(one["bls"], "Spec"), mean(one["bls"], "Gen"), mean(one["general"], "Gen")]
        for rate, one in result.items()
    ]
    printed = [
        f"+{np.mean(PRINTED[figure][method]):.1f}"
        for figure, method in (("6", "Spec"), ("6", "Gen"), ("7", "Gen"))
    ]
    headers = ["rate of V", "Spec, bottom layers", "Gen, bottom layers", "Gen, general"]
    return _table(headers, [*rows, ["printed", *printed]])


def _figure(rows: int, columns: int) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(4.5 * columns, 3.3 * rows), layout="constrained")


def _plot_curves(path: Path, groups: dict[str, dict[str, Any]], columns: int) -> None:
    """One panel for each sweep of each group: the served ratio of each method."""
    panels = [(name, sweep, c) for name, by in groups.items() for sweep, c in by.items()]
    figure = _figure(-(-len(panels) // columns), columns)
    grid = figure.subplots(-(-len(panels) // columns), columns, squeeze=False)
    for axes, (name, sweep, curves) in zip(grid.flat, panels, strict=True):
        label, values = AXES[sweep]
        for method, ratios in curves.items():
            axes.plot(values, ratios, marker=".", label=method)
        axes.set(xlabel=label, ylabel="served ratio", ylim=(0, 1.03), title=name or None)
        axes.grid(alpha=0.3)
    grid.flat[0].legend()
    save_figure(figure, path)


def _plot_small(path: Path, groups: dict[str, dict[str, dict[str, float]]]) -> None:
    """Served ratio of each method as a bar, with the time of a plan above it."""
    figure = _figure(1, 2)
    for axes, (name, methods) in zip(
        figure.subplots(1, 2, sharey=True), groups.items(), strict=True
    ):
        bars = axes.bar(list(methods), [one["served"] for one in methods.values()])
        axes.bar_label(bars, [f"{one['ms']:.2g} ms" for one in methods.values()])
        axes.set(ylabel="served ratio", ylim=(0, 1.1), title=name)
        axes.tick_params(axis="x", rotation=20)
    save_figure(figure, path)

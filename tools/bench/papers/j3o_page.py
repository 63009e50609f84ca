"""The page and the figures of tools/bench/papers/j3o.py. Nothing is measured here.

The prose is in j3o.md beside this file; names in braces there are replaced by values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bench.papers import j3o_loads, j3o_motivation

TEMPLATE = Path(__file__).with_name("j3o.md")

# Table IV as printed: loss (1 - accuracy for DomainNet), its deviation, ms.
PRINTED: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "taskonomy": {
        "greedy-ao": (0.151, 0.081, 574.82),
        "opt-ao": (0.081, 0.047, 2078.33),
        "rand-ao": (0.276, 0.073, 562.67),
        "full-local": (0.507, 0.074, 633.71),
        "milp": (0.073, 0.037, 65791.68),
        "j3o": (0.094, 0.048, 797.87),
    },
    "domainnet": {
        "greedy-ao": (0.265, 0.025, 552.27),
        "opt-ao": (0.230, 0.015, 2015.34),
        "rand-ao": (0.360, 0.054, 537.89),
        "full-local": (0.603, 0.037, 597.49),
        "milp": (0.226, 0.013, 75122.31),
        "j3o": (0.246, 0.018, 937.08),
    },
    "cityscape": {
        "greedy-ao": (0.164, 0.014, 98.73),
        "opt-ao": (0.163, 0.010, 216.62),
        "rand-ao": (0.221, 0.044, 95.81),
        "full-local": (0.439, 0.098, 40.22),
        "milp": (0.159, 0.008, 1123.47),
        "j3o": (0.162, 0.010, 165.10),
    },
}
NAMES = {"taskonomy": "Taskonomy-5", "domainnet": "DomainNet-6", "cityscape": "Cityscape3D-3"}
SWEEPS = {
    "4": ("offloading budget χ_e", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "5": ("client compute budget χ_β", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
    "6": ("client heterogeneity p_client", (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
    "7": ("batching window T_b (s)", (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
}


def summary(name: str, result: Any) -> dict[str, Any]:
    """The figures of one line of JSON."""
    if name == "IV":
        return {"ours": _rounded(result), "printed": PRINTED}
    return {"ours": _rounded(result)}


def write(out: Path, results: Mapping[str, Any], seeds: int, few: int) -> None:
    """`j3o.md` and its figures, into the folder `out`."""
    _plot_motivation(
        out / "j3o-fig1.svg", results["1"], j3o_motivation.PROPORTIONS, "task A's part"
    )
    _plot_motivation(
        out / "j3o-fig2.svg", results["2"], j3o_motivation.SETUP_COSTS_S, "setup time of m(A) (s)"
    )
    _plot_lines(
        out / "j3o-fig3-5.svg",
        [
            ("Fig. 3", "round", range(1, len(results["3"]["j3o"]) + 1), results["3"]),
            *[(f"Fig. {n}", *SWEEPS[n], results[n]) for n in ("4", "5")],
        ],
        "loss",
    )
    _plot_lines(
        out / "j3o-fig6-7.svg", [(f"Fig. {n}", *SWEEPS[n], results[n]) for n in ("6", "7")], "loss"
    )
    _plot_drift(out / "j3o-drift.svg", results["drift"])
    text = TEMPLATE.read_text(encoding="utf-8").format(
        seeds=seeds,
        few=few,
        table_iv="\n\n".join(_table_iv(name, results["IV"][name]) for name in NAMES),
        fig1=_motivation(results["1"], j3o_motivation.PROPORTIONS, "p_A"),
        fig2=_motivation(results["2"], j3o_motivation.SETUP_COSTS_S, "ν of m(A), s"),
        fig3=_curves(results["3"], "round", range(1, len(results["3"]["j3o"]) + 1)),
        fig4=_curves(results["4"], *SWEEPS["4"]),
        fig5=_curves(results["5"], *SWEEPS["5"]),
        fig6=_curves(results["6"], *SWEEPS["6"]),
        fig7=_curves(results["7"], *SWEEPS["7"]),
        intervals=_intervals(results["intervals"]),
        drift=_drift(results["drift"]),
        steps=j3o_loads.STEPS,
        planned_for=j3o_loads.PLANNED_FOR,
        judged_by=j3o_loads.JUDGED_BY,
    )
    (out / "j3o.md").write_text(text, encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 5)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(headers)
    return "\n".join("| " + " | ".join(row) + " |" for row in [headers, rule, *rows])


def _table_iv(name: str, ours: Mapping[str, Mapping[str, float]]) -> str:
    printed = PRINTED[name]
    best = printed["milp"][0]
    rows = []
    for method, found in ours.items():
        row = [
            f"`{method}`",
            f"{found['loss']:.4f} ± {found['deviation']:.3f}",
            f"{found['ratio']:.4f}",
            f"{found['ms']:.1f}",
        ]
        if method in printed:
            loss, deviation, ms = printed[method]
            row += [f"{loss:.3f} ± {deviation:.3f}", f"{(1 - loss) / (1 - best):.3f}", f"{ms:.0f}"]
        rows.append([*row, *[""] * (7 - len(row))])
    headers = [NAMES[name], "loss", "of the optimum", "ms", "printed loss", "of its optimum", "ms"]
    return _table(headers, rows)


def _curves(curves: Mapping[str, Sequence[float]], label: str, values: Sequence[float]) -> str:
    rows = [[f"`{name}`", *(f"{loss:.4f}" for loss in found)] for name, found in curves.items()]
    return _table([f"loss; {label}", *(f"{value:g}" for value in values)], rows)


def _motivation(parts: Mapping[str, Any], values: Sequence[float], label: str) -> str:
    rows = []
    for part, curves in parts.items():
        for name in ("milp", "price", "baj3o"):
            rows.append([f"{part}, `{name}`", *(f"{found:.3f}" for found in curves[name])])
    return _table([f"accuracy; {label}", *(f"{value:g}" for value in values)], rows)


def _intervals(by_spread: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for name in next(iter(by_spread.values())):
        values = [found[name] for found in by_spread.values()]
        percent = name.endswith("limit")
        rows.append([name, *(f"{100 * x:.0f} %" if percent else f"{x:.4f}" for x in values)])
    return _table(["loads within", *(f"± {100 * float(s):.0f} %" for s in by_spread)], rows)


def _drift(policies: Mapping[str, Mapping[str, float]]) -> str:
    free = policies["0"]
    rows = [
        [
            name,
            f"{found['accuracy']:.4f}",
            f"{100 * (found['accuracy'] / free['accuracy'] - 1):+.2f} %",
            f"{found['mb_a_step']:.1f}",
            f"{100 * found['steps_that_load']:.0f} %",
        ]
        for name, found in policies.items()
    ]
    headers = ["accuracy that a loaded GB must gain", "accuracy", "to free switching"]
    return _table([*headers, "MB loaded a step", "steps that load"], rows)


def _figure(rows: int, columns: int) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(4.5 * columns, 3.3 * rows), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    # Equal figures make equal files, and text stays text.
    with matplotlib.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _plot_lines(path: Path, panels: Sequence[tuple[str, str, Any, Any]], ylabel: str) -> None:
    figure = _figure(1, len(panels))
    grid = figure.subplots(1, len(panels), squeeze=False)
    for axes, (title, label, values, curves) in zip(grid.flat, panels, strict=True):
        for name, found in curves.items():
            axes.plot(values, found, marker=".", label=name)
        axes.set(xlabel=label, ylabel=ylabel, title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    _save(figure, path)


def _plot_motivation(
    path: Path, parts: Mapping[str, Any], values: Sequence[float], label: str
) -> None:
    """A row for each part: accuracy, onloading at the edge and at clients, batch sizes."""
    figure = _figure(len(parts), 4)
    grid = figure.subplots(len(parts), 4, squeeze=False)
    panels = {
        "accuracy": ("milp", "price", "baj3o"),
        "onloaded at the edge": tuple(f"edge {m}" for m in j3o_motivation.MODELS),
        "onloaded at clients": tuple(f"clients {m}" for m in j3o_motivation.MODELS),
        "batch at the edge": ("batch A", "batch B"),
    }
    for row, (part, curves) in zip(grid, parts.items(), strict=True):
        for axes, (ylabel, names) in zip(row, panels.items(), strict=True):
            for name in names:
                axes.plot(values, curves[name], marker=".", label=name)
            axes.set(xlabel=label, ylabel=ylabel, title=part)
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
    _save(figure, path)


def _plot_drift(path: Path, policies: Mapping[str, Mapping[str, float]]) -> None:
    figure = _figure(1, 1)
    axes = figure.subplots()
    axes.plot(
        [found["mb_a_step"] for found in policies.values()],
        [found["accuracy"] for found in policies.values()],
        marker="o",
    )
    for name, found in policies.items():
        axes.annotate(name, (found["mb_a_step"], found["accuracy"]), xytext=(4, -10),
                      textcoords="offset points", fontsize="small")  # fmt: skip
    axes.set(xlabel="MB loaded a step", ylabel="mean accuracy")
    axes.grid(alpha=0.3)
    _save(figure, path)

"""The two plots of README.md, drawn from docs/figures.json: `python -m eval.plots`; docs/pictures/.

The figures are those of docs/performance.md, which says how they were measured; nothing is measured here.
"""

import json
from pathlib import Path
from typing import Any

from apps.tests.support.processes import ROOT

FIGURES = ROOT / "docs/figures.json"
FOLDER = ROOT / "docs/pictures"
COLOURS = ("#2563eb", "#60a5fa", "#9ca3af")
WIDTH, HEIGHT, DOTS = 6.4, 3.2, 120


def draw(folder: Path = FOLDER) -> list[Path]:
    """Draw both; returns their files."""
    import matplotlib

    matplotlib.use("Agg")
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    return [_local(figures["local"], folder / "local-speed.png"), _gateway(figures["gateway"], folder / "gateway.png")]


def _local(figure: dict[str, Any], file: Path) -> Path:
    """Bars for each number of callers; the yardstick, which answers one after another, as a line across."""
    drawing, axes = _axes(figure)
    (ours, values), (stock, [alone]) = figure["series"].items()
    places = range(len(values))
    axes.bar_label(axes.bar(places, values, color=COLOURS[0], label=ours), padding=2)
    axes.axhline(alone, color=COLOURS[2], linewidth=2, label=f"{stock}: {alone:g}")
    axes.set_xticks(places, [str(callers) for callers in figure["callers"]])
    axes.set_xlabel("callers at once")
    return _saved(drawing, axes, file)


def _gateway(figure: dict[str, Any], file: Path) -> Path:
    drawing, axes = _axes(figure)
    count = len(figure["series"])
    for number, (name, values) in enumerate(figure["series"].items()):
        places = [group + (number - (count - 1) / 2) * 0.26 for group in range(len(values))]
        axes.bar_label(axes.bar(places, values, 0.24, color=COLOURS[number], label=name), padding=2)
    axes.set_xticks(range(len(figure["groups"])), figure["groups"])
    axes.set_ylim(0, 1.6)
    return _saved(drawing, axes, file)


def _axes(figure: dict[str, Any]) -> tuple[Any, Any]:
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(figsize=(WIDTH, HEIGHT), dpi=DOTS)
    axes.set_title(figure["title"], fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def _saved(drawing: Any, axes: Any, file: Path) -> Path:
    from matplotlib import pyplot

    axes.legend(frameon=False, fontsize=8, loc="upper left")
    drawing.tight_layout()
    # no date and no version: the file changes only with the figures
    drawing.savefig(file, metadata={"Software": None})
    pyplot.close(drawing)
    return file


if __name__ == "__main__":
    print("\n".join(str(file) for file in draw()))

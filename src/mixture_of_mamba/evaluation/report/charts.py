"""Charts of the report, as SVG with the colours of the page (light or dark)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..curves import Array, Curve

__all__ = ["bars", "flops_unit", "loss_curves", "series", "shown_variants"]

#: Colours while drawing -> what stands in the page.
_INK, _FAINT, _PANEL = "#010203", "#040506", "#070809"
_LINES = ("#0a0b00", "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05")

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
}

MOST_LINES = len(_LINES)
"""Variants that one drawing can tell apart."""


def shown_variants(variants: Sequence[str], baseline: str) -> list[str]:
    """Those that a drawing has room for: the baseline, the full mixture, and the first others."""
    first = [name for name in (baseline, "mom") if name in variants]
    return [*first, *(name for name in variants if name not in first)][:MOST_LINES]


def loss_curves(
    title: str,
    curves: Mapping[str, Sequence[Curve]],
    *,
    baseline: str,
    target: float,
    ratios: Mapping[str, float | None],
) -> str:
    """Loss over training FLOPs, with the matching point drawn in.

    Args:
        title: the modality.
        curves: smoothed curves by variant, one per seed; the baseline among them.
        baseline: the variant whose final loss is to be matched.
        target: that loss, mean over seeds.
        ratios: relative FLOPs to match of the other variants; None: not reached.
    """
    means = {name: _mean_curve(by_seed) for name, by_seed in curves.items()}
    spent = float(means[baseline][0][-1])
    scale, unit = flops_unit(spent)

    def paint(axes: Any) -> None:
        for i, (name, (flops, losses)) in enumerate(means.items()):
            colour = _LINES[i % MOST_LINES]
            for curve in curves[name]:
                axes.plot(curve.flops / scale, curve.losses, color=colour, lw=0.7, alpha=0.35)
            axes.plot(flops / scale, losses, color=colour, lw=2.0, label=name)
        _limits(axes, curves, means, baseline, sum(ratio is not None for ratio in ratios.values()))
        _mark(axes, means, baseline, target, ratios, scale)
        _legend(axes, len(means))

    return _draw(title, f"training {unit}", "validation loss", paint)


def series(
    title: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str
) -> str:
    """Plain lines with points: (x values, y values) by name."""

    def paint(axes: Any) -> None:
        for i, (name, (xs, ys)) in enumerate(lines.items()):
            axes.plot(xs, ys, color=_LINES[i % MOST_LINES], lw=2.0, marker="o", ms=4, label=name)
        _legend(axes, len(lines), "best")

    return _draw(title, x, y, paint)


def bars(title: str, values: Mapping[str, float], x: str, *, strong: Sequence[str] = ()) -> str:
    """Horizontal bars by name, in the order given; those in `strong` are highlighted."""

    def paint(axes: Any) -> None:
        names = list(values)[::-1]
        colours = [_LINES[1] if name in strong else _LINES[0] for name in names]
        axes.barh(names, [values[name] for name in names], color=colours, height=0.62)
        axes.axvline(0, color=_INK, lw=0.8)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", labelsize=8)

    return _draw(title, x, "", paint, height=0.9 + 0.24 * len(values))


def _legend(axes: Any, lines: int, place: str = "upper right") -> None:
    """Inside, where a falling curve leaves room; below the axes where there are many lines."""
    style: dict[str, Any] = {"frameon": False, "labelcolor": _INK, "fontsize": 9}
    if lines <= 3:
        axes.legend(loc=place, **style)
    else:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, **style)


def _mean_curve(curves: Sequence[Curve]) -> tuple[Array, Array]:
    """Mean over seeds, at the points of the first."""
    flops = curves[0].flops
    losses = [np.interp(flops, curve.flops, curve.losses) for curve in curves]
    return flops, np.mean(losses, axis=0)


def _limits(
    axes: Any,
    curves: Mapping[str, Sequence[Curve]],
    means: Mapping[str, tuple[Array, Array]],
    baseline: str,
    marks: int,
) -> None:
    """Leave out the steep beginning, which would flatten all that is to be seen; leave room below
    for the lowest seed and for the marks."""
    flops, losses = means[baseline]
    early = int(np.searchsorted(flops, 0.3 * flops[-1]))
    runs = [curve.losses for by_seed in curves.values() for curve in by_seed]
    low = min(float(y[-len(y) // 2 :].min()) for y in runs)
    high = max(float(losses[min(early, len(losses) - 1)]), float(losses[-1]) * 1.001)
    high = max(high, *(float(y[-1]) for _, y in means.values()))
    room = 0.08 * (high - low) or 0.01
    axes.set_ylim(low - (0.5 + 1.2 * marks) * room, high + room)
    axes.set_xlim(left=0)


def _mark(
    axes: Any,
    means: Mapping[str, tuple[Array, Array]],
    baseline: str,
    target: float,
    ratios: Mapping[str, float | None],
    scale: float,
) -> None:
    """The baseline's final loss, and where each variant reaches it."""
    end = float(means[baseline][0][-1]) / scale
    bottom, top = axes.get_ylim()
    first = min((r for r in ratios.values() if r is not None), default=1.0)
    axes.plot([min(first, 1.0) * end, end], [target, target], color=_INK, lw=1.0, ls=(0, (4, 2)))
    axes.plot([end, end], [bottom, target], color=_INK, lw=0.9, ls=":")
    shown = [(name, ratio) for name, ratio in ratios.items() if ratio is not None]
    for place, (name, ratio) in enumerate(shown):
        colour = _LINES[list(means).index(name) % MOST_LINES]
        x = ratio * end
        axes.plot([x, x], [bottom, target], color=colour, lw=1.2, ls=":")
        axes.plot([x], [target], "o", color=colour, ms=5)
        level = bottom + (0.05 + 0.075 * place) * (top - bottom)
        arrow = {"arrowstyle": "<->", "color": colour, "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=(x, level), xytext=(end, level), arrowprops=arrow)
        axes.annotate(
            f"{100 * ratio:.0f} % of the FLOPs",
            xy=(x, level),
            xytext=(-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=colour,
            fontsize=9,
            bbox={"facecolor": _PANEL, "edgecolor": "none", "pad": 1.0},
        )


def flops_unit(flops: float) -> tuple[float, str]:
    """A unit that makes the figure readable: its size and its name."""
    names = {9: "GFLOPs", 12: "TFLOPs", 15: "PFLOPs", 18: "EFLOPs", 21: "ZFLOPs"}
    exponent = min(max(int(np.log10(flops)) // 3 * 3, 9), 21)
    return 10.0**exponent, names[exponent]


def _draw(title: str, x: str, y: str, paint: Callable[[Any], None], height: float = 3.3) -> str:
    """Axes in the report's style, painted, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):  # type: ignore[arg-type]
        figure = Figure(figsize=(4.5, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(lw=0.6, alpha=0.6)
        axes.set_axisbelow(True)
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue())


def _for_page(svg: str) -> str:
    """The bare element, of any width, with the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    colours = {_INK: "currentColor", _FAINT: "var(--faint)", _PANEL: "var(--panel)"}
    colours |= {line: f"var(--line-{i})" for i, line in enumerate(_LINES)}
    for drawn, meant in colours.items():
        svg = svg.replace(drawn, meant)
    return svg.strip()

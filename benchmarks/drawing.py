"""Curves on two logarithmic scales, where growth in proportion is a straight line, as a PNG. Needs matplotlib."""

import io
from collections.abc import Sequence

from benchmarks.figures import Figure, Line, number

_INK, _MILD = "#1f4e79", "#767676"
_WIDTH, _HEIGHT, _DPI = 9.5, 3.4, 110  # inches, inches, dots in each
Point = tuple[int, float, float, float]


def curves(lines: Sequence[Line]) -> dict[str, list[Point]]:
    """The points of each curve by size: (size, median, least, most). A difference where figures are compared as that.

    Values that are not above 0 have no place on a logarithmic scale and are left out.
    """
    found: dict[str, list[Point]] = {}
    for line in lines:
        if isinstance(line, Figure) and line.curve:
            samples = line.ours
            if line.compared == "difference" and line.comparison is not None:
                samples = line.comparison
            least, most = samples.spread
            if least > 0:
                found.setdefault(line.curve, []).append((line.size, samples.median, least, most))
    return {name: sorted(points) for name, points in found.items()}


def proportional(points: Sequence[Point]) -> list[float]:
    """What each size would cost if the second one's cost grew in proportion: above it is worse than that.

    The second, since what one device takes is for the most part what any number takes once.
    """
    size, median, _, _ = points[min(1, len(points) - 1)]
    return [median * one[0] / size for one in points]


def png(lines: Sequence[Line]) -> bytes:
    """A panel for each curve. Raises ImportError where matplotlib is not installed."""
    from matplotlib.figure import Figure as Drawing  # not pyplot, which would keep it

    drawn = curves(lines)
    drawing = Drawing(figsize=(_WIDTH, _HEIGHT), layout="constrained", facecolor="white")
    for panel, (name, points) in zip(drawing.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        sizes, medians = [point[0] for point in points], [point[1] for point in points]
        spread = [[point[1] - point[2] for point in points], [point[3] - point[1] for point in points]]
        panel.plot(sizes, proportional(points), color=_MILD, linestyle="--", label="in proportion")
        panel.errorbar(sizes, medians, yerr=spread, color=_INK, marker="o", capsize=3, label="measured")
        for place, (size, median) in enumerate(zip(sizes, medians, strict=True)):
            panel.annotate(
                number(median), (size, median), (8, -10 if place else -4), textcoords="offset points",
                fontsize="small", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )  # fmt: skip
        panel.set(xscale="log", yscale="log", xlabel="devices at once", xlim=(sizes[0] / 1.6, sizes[-1] * 4))
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.set_title(name, loc="left", fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e0e0e0", linewidth=0.6)
    drawing.axes[0].legend(loc="upper left", frameon=False, fontsize="small")
    picture = io.BytesIO()
    drawing.savefig(picture, format="png", dpi=_DPI, metadata={"Software": None})
    return picture.getvalue()

import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest

from dpsx_helpers.views.chart import Panel, panels

SVG = "{http://www.w3.org/2000/svg}"


def drawn(values: Sequence[float], marks: str = "dots", unit: str = "ms") -> ET.Element:
    panel = Panel("Latency", unit, list(enumerate(values, 1)), "bars" if marks == "bars" else "dots")
    view = panels(panel)
    assert view is not None
    return ET.fromstring(view.html)


def points(drawing: ET.Element) -> list[tuple[float, float]]:
    return [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in drawing.iter("circle")]


def ticks(drawing: ET.Element) -> list[float]:
    return [float(text.text or "") for text in drawing.iter("text") if text.attrib["text-anchor"] == "end"]


def test_with_nothing_to_draw_there_is_no_chart() -> None:
    assert panels() is None
    assert panels(Panel("Latency", "ms", [], "dots")) is None


def test_higher_values_stand_higher_and_later_ones_further_right() -> None:
    marks = points(drawn([3, 7, 5]))
    assert [x for x, _ in marks] == sorted(x for x, _ in marks)
    heights = [-y for _, y in marks]
    assert heights[0] < heights[2] < heights[1]


@pytest.mark.parametrize(
    "values", [[0], [7], [-3, 4], [-5, -1], [0.001, 0.002], [1e12], [3] * 200, [1e-12], [1e300, -1e300], [999.6, 1000]]
)
@pytest.mark.parametrize("marks", ["dots", "bars"])
def test_whatever_the_values_all_is_drawn_within_the_panel_and_the_scale_holds_them(
    values: list[float], marks: str
) -> None:
    drawing = drawn(values, marks)
    _, _, width, height = (float(number) for number in next(drawing.iter("svg")).attrib["viewBox"].split())
    for line in drawing.iter("line"):
        assert 0 <= float(line.attrib["y1"]) <= height
    for x, y in points(drawing):
        assert 0 < x < width
        assert 0 < y < height
    assert 2 <= len(ticks(drawing)) <= 8
    assert ticks(drawing)[0] <= min(0, *values, 0)
    assert ticks(drawing)[-1] >= max(values) * 0.999


def test_a_chart_is_named_and_said_in_words() -> None:
    svg = next(drawn([3, 7, 5]).iter("svg"))
    assert svg.attrib["role"] == "img"
    assert [child.tag for child in svg][:2] == ["title", "desc"]
    assert svg[0].text == "Latency (ms), message by message"
    assert svg[1].text == "Latency, 3 messages: from 3 to 7 ms, median 5 ms, last 5 ms."
    one = panels(Panel("Latency", "ms", [(1, 4.25)], "bars"))
    assert one is not None
    assert one.text == "Latency, one message: 4.25 ms."


def test_bars_are_told_from_dots_without_their_colour() -> None:
    assert len(points(drawn([3, 7, 5]))) == 3
    bars = drawn([3, 7, 5], "bars")
    assert points(bars) == []
    assert len(list(bars.iter("path"))) == 2


def test_the_axes_are_labelled_with_what_they_count() -> None:
    drawing = drawn([3, 7, 5], unit="")
    texts = [text.text for text in drawing.iter("text")]
    assert texts[-4:] == ["1", "2", "3", "# in the table"]
    assert next(drawing.iter("figcaption")).text == "Latency (no unit)"

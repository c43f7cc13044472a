"""Charts are small SVG documents that need nothing from elsewhere."""

import base64
import math
import xml.etree.ElementTree as ET

import pytest

from tasks.charts import MAX_POINTS, Bar, Curve, Mark, curves, data_uri, histogram, short


def texts(svg: str) -> list[str]:
    """All words and numbers of a chart, in order."""
    return [element.text for element in ET.fromstring(svg).iter() if element.text]


def test_a_histogram_says_title_counts_ranges_and_axis():
    """The axis ends at a round number above the highest bar; an empty range has a label and no bar."""
    bars = [Bar("1", 3), Bar("2", 0), Bar("4", 12)]
    svg = histogram("Lengths", "tokens", bars, Mark("a row has 6", 2.5))
    assert texts(svg) == [
        "Lengths",
        *("0", "5", "10", "15"),
        *("3", "1", "2", "12", "4"),
        "a row has 6",
        "tokens",
    ]
    assert svg.count("<rect x=") == 2


def test_curves_share_their_axis_and_say_their_last_value():
    """One panel a curve."""
    loss, rate = [(1, 5.0), (2, 4.0), (3, 4.5)], [(1, 0.0), (2, 1e-3), (3, 5e-4)]
    words = texts(curves("Training", "step", [Curve("loss", loss), Curve("learning rate", rate)]))
    assert [word for word in words if not word[0].isdigit()] == ["Training", "loss 4.5", "learning rate 0.0005", "step"]


@pytest.mark.parametrize(
    "points",
    [[], [(1, 5.0)], [(1, 5.0), (2, 5.0)], [(1, 0.0), (2, 0.0)], [(1, math.nan), (2, 1.0)], [(1, math.inf), (2, 1.0)]],
    ids=["no step", "one step", "constant", "zero", "not a number", "infinite"],
)
def test_a_strange_curve_is_still_a_picture(points):
    """A chart must not end a training."""
    ET.fromstring(curves("Training", "step", [Curve("loss", points)]))


def test_a_long_curve_stays_small():
    """A million steps are a few kilobytes, and the last value is the last value."""
    points = [(float(step), 1.0 / (step + 1)) for step in range(100_000)]
    svg = curves("Training", "step", [Curve("loss", points)])
    assert len(svg) < 60 * MAX_POINTS
    assert "loss 1e-05" in texts(svg)


def test_the_address_of_a_picture_is_the_picture():
    """Nothing has to be fetched."""
    head, code = data_uri("<svg/>").split(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(code) == b"<svg/>"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (950, "950"), (1234, "1.23k"), (3e7, "30M"), (2e-5, "2e-05"), (0.25, "0.25")]
)
def test_numbers_on_axes_are_short(number, text):
    """Three digits and a unit."""
    assert short(number) == text

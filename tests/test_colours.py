"""The colours of the marks: readable in both themes, told apart by colour-blind readers."""

import re
from itertools import product

import numpy as np
import pytest

from proponent.views.page import css

# fmt: off
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# fmt: on
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
THEMES = ("light", "dark")


def linear(name: str, theme: str) -> np.ndarray:
    found = re.search(rf"--wh-{name}: light-dark\((#\w{{6}}), (#\w{{6}})\)", str(css()))
    assert found, f"no colour --wh-{name}"
    digits = found[1 + THEMES.index(theme)]
    value = np.array([int(digits[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str, theme: str) -> float:
    low, high = sorted(float(XYZ[1] @ linear(name, theme)) for name in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> tuple[float, float, float]:
    ratio = XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return float(116 * f[1] - 16), float(500 * (f[0] - f[1])), float(200 * (f[1] - f[2]))


def ciede2000(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * np.sqrt(mean / (mean + 25.0**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * stretch)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    light, chroma, dh = (l1 + l2) / 2, (c1 + c2) / 2, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    t = 1 - 0.17 * np.cos(np.radians(hue - 30)) + 0.24 * np.cos(np.radians(2 * hue))
    t += 0.32 * np.cos(np.radians(3 * hue + 6)) - 0.20 * np.cos(np.radians(4 * hue - 63))
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    rotation = (
        -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    )
    x, y, z = (l2 - l1) / sl, (c2 - c1) / (1 + 0.045 * chroma), dh / (1 + 0.015 * chroma * t)
    return float(np.sqrt(x**2 + y**2 + z**2 + rotation * y * z))


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425), ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
     ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644)],
)  # fmt: skip
def test_the_distance_agrees_with_its_published_examples(
    one: tuple[float, float, float], other: tuple[float, float, float], distance: float
) -> None:
    assert ciede2000(one, other) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize(("theme", "side", "step"), list(product(THEMES, "ho", range(11))))
def test_text_is_readable_on_every_step(theme: str, side: str, step: int) -> None:
    assert contrast("ink", f"{side}{step}", theme) >= 4.5
    assert contrast("up" if side == "h" else "down", f"{side}{step}", theme) >= 3.0


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_bars_are_readable_on_their_ground(theme: str) -> None:
    assert (
        min(contrast(text, ground, theme) for text in ("ink", "soft", "up", "down") for ground in ("paper", "card"))
        >= 4.5
    )
    assert min(contrast(bar, "card", theme) for bar in ("up-bar", "down-bar", "ink-bar")) >= 3.0


@pytest.mark.parametrize(("theme", "eye", "step"), list(product(THEMES, BLINDNESS, range(3, 11))))
def test_helped_and_hurt_differ_for_every_eye(theme: str, eye: str, step: int) -> None:
    seen = [lab(BLINDNESS[eye] @ linear(f"{side}{step}", theme)) for side in "ho"]
    assert ciede2000(*seen) >= 20


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(
    "name", ["up-bar", "down-bar", "ink-bar", "ink", "soft", *(f"mark-{at}" for at in range(2, 7))]
)
def test_marks_of_plots_stand_out_from_their_ground(name: str, theme: str) -> None:
    assert contrast(name, "card", theme) >= 3

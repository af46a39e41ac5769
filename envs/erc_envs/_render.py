"""Small raster and text tools, made with numpy alone, for the environments' renderings."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # top, left, height, width, in pixels

# Okabe and Ito's palette, distinguishable with any common colour vision.
BLUE: Colour = (0, 114, 178)
SKY: Colour = (86, 180, 233)
GREEN: Colour = (0, 158, 115)
ORANGE: Colour = (230, 159, 0)
VERMILION: Colour = (213, 94, 0)
GREY: Colour = (120, 128, 136)
PALE: Colour = (230, 232, 235)
INK: Colour = (33, 37, 41)
WHITE: Colour = (255, 255, 255)

_GLYPHS = {  # 3 x 5 pixels, row by row
    "0": "111101101101111",
    "1": "010110010010111",
    "2": "111001111100111",
    "3": "111001111001111",
    "4": "101101111001001",
    "5": "111100111001111",
    "6": "111100111101111",
    "7": "111001010010010",
    "8": "111101111101111",
    "9": "111101111001111",
    "+": "000010111010000",
    "-": "000000111000000",
    "=": "000111000111000",
    ",": "000000000010100",
    " ": "000000000000000",
    ".": "000000000000010",
}

TILE, GAP, MARGIN, BARS, STRIP = 40, 4, 14, 64, 8


def blank(height: int, width: int) -> Frame:
    """A white frame (height, width, 3)."""
    return np.full((height, width, 3), WHITE, dtype=np.uint8)


def rectangle(frame: Frame, box: Box, colour: Colour) -> None:
    """Fill a rectangle in place."""
    top, left, height, width = box
    frame[top : top + height, left : left + width] = colour


def outline(frame: Frame, box: Box, colour: Colour, thick: int = 3) -> None:
    """Draw the inner border of a rectangle in place."""
    top, left, height, width = box
    rectangle(frame, (top, left, thick, width), colour)
    rectangle(frame, (top + height - thick, left, thick, width), colour)
    rectangle(frame, (top, left, height, thick), colour)
    rectangle(frame, (top, left + width - thick, height, thick), colour)


def label(frame: Frame, value: int | str, box: Box, colour: Colour) -> None:
    """Write characters that have a glyph, centred in the box, 15 pixels high or less."""
    top, left, height, width = box
    text = str(value)
    scale = 3 if 12 * len(text) <= width else 2 if 8 * len(text) <= width else 1
    start = left + (width - (4 * len(text) - 1) * scale) // 2
    for i, character in enumerate(text):
        glyph = np.array([pixel == "1" for pixel in _GLYPHS[character]]).reshape(5, 3)
        mask = glyph.repeat(scale, axis=0).repeat(scale, axis=1)
        at = start + 4 * scale * i
        corner = frame[top + (height - 5 * scale) // 2 :, at:][: mask.shape[0], : mask.shape[1]]
        corner[mask] = colour


def tile(frame: Frame, top: int, left: int, value: int | str | None, colour: Colour) -> None:
    """Draw a square with a label in it, or an empty one if there is no label yet."""
    rectangle(frame, (top, left, TILE, TILE), PALE if value is None else colour)
    if value is not None:
        label(frame, value, (top, left, TILE, TILE), WHITE)


def reward_tile(frame: Frame, top: int, left: int, reward: float | None) -> None:
    """Draw a square for a reward in [0, 1]: vermilion for 0, green above, and pale before the end."""
    value = None if reward is None else f"{reward:.1f}".removesuffix(".0")
    tile(frame, top, left, value, GREEN if reward else VERMILION)
    if reward is None:
        outline(frame, (top, left, TILE, TILE), GREY, thick=2)


def token_frame(
    *,
    tokens: Sequence[int | str],
    colours: Sequence[Colour],
    wrong: Sequence[bool],
    levels: Sequence[float],
    strip: Sequence[Colour],
    reward: float | None,
) -> Frame:
    """A row of token tiles under bars, with the reward at the end.

    Args:
        tokens: the tokens so far; their tiles are filled.
        colours: colours of the tiles, one per position.
        wrong: which tokens get a vermilion border and a thick bar; one per token.
        levels: in [0, 1], heights of the bars above the first tiles.
        strip: colour of the thin strip below each position.
        reward: the final reward, or None before the end.
    """
    pitch, length = TILE + GAP, len(colours)
    top = MARGIN + BARS + GAP
    width = 2 * MARGIN + length * pitch + GAP + TILE
    frame = blank(top + TILE + GAP + STRIP + MARGIN, width)
    rectangle(frame, (MARGIN + BARS - 1, MARGIN, 1, length * pitch - GAP), GREY)
    for t in range(length):
        left = MARGIN + t * pitch
        if t < len(levels):
            height = max(1, round(BARS * min(1.0, levels[t])))
            rectangle(frame, (MARGIN + BARS - height, left + 6, height, TILE - 12), INK)
        tile(frame, top, left, tokens[t] if t < len(tokens) else None, colours[t])
        if t < len(tokens) and wrong[t]:
            outline(frame, (top, left, TILE, TILE), VERMILION, thick=5)
            rectangle(frame, (top + TILE - 10, left, 5, TILE), VERMILION)
        if t == len(tokens) and reward is None:
            outline(frame, (top, left, TILE, TILE), INK)
        rectangle(frame, (top + TILE + GAP, left, STRIP, TILE), strip[t])
    reward_tile(frame, top, width - MARGIN - TILE, reward)
    return frame


def bar_frame(
    *,
    means: Sequence[float],
    marks: Sequence[float],
    best: Container[int],
    chosen: int | None,
    reward: float | None,
    arms: Sequence[int] | None = None,
    slots: int | None = None,
) -> Frame:
    """Bars with a mark on each, the chosen one framed, and the reward at the end.

    Args:
        means: in [0, 1], bar heights; the best ones are green, the others blue.
        marks: in [0, 1], heights of the black marks.
        best: numbers of the best bars.
        chosen: number of the chosen bar, or None.
        reward: the reward, or None before the end.
        arms: the number of each bar; by default they count from 0.
        slots: how many bars there is room for; by default just these.
    """
    arms = range(len(means)) if arms is None else arms
    slots = len(means) if slots is None else slots
    pitch, height = TILE + GAP, 3 * BARS
    width = 2 * MARGIN + slots * pitch + GAP + TILE
    base = MARGIN + height
    frame = blank(base + GAP + TILE + MARGIN, width)
    for level in (0.25, 0.5, 0.75, 1.0):
        rectangle(frame, (base - round(level * height), MARGIN, 1, slots * pitch - GAP), PALE)
    for i, (arm, mean, mark) in enumerate(zip(arms, means, marks, strict=True)):
        left, bar = MARGIN + i * pitch, max(1, round(mean * height))
        rectangle(frame, (base - bar, left, bar, TILE), GREEN if arm in best else SKY)
        rectangle(frame, (base - max(3, round(mark * height)), left + 4, 3, TILE - 8), INK)
        tile(frame, base + GAP, left, arm, GREEN if arm in best else GREY)
        if arm == chosen:
            outline(frame, (base - bar, left, bar, TILE), ORANGE, thick=5)
            outline(frame, (base + GAP, left, TILE, TILE), ORANGE, thick=5)
    rectangle(frame, (base - 1, MARGIN, 1, slots * pitch - GAP), GREY)
    reward_tile(frame, base + GAP, width - MARGIN - TILE, reward)
    return frame


def text_table(title: str, rows: Mapping[str, Sequence[object]]) -> str:
    """A title and rows of right-aligned cells, in columns; a short row leaves the rest empty.

    >>> print(text_table("episode", {"token": [7, 11], "role": ["fixed", "fork"]}))
    episode
    token      7    11
    role   fixed  fork
    """
    cells = {name: [str(value) for value in values] for name, values in rows.items()}
    columns = max(len(values) for values in cells.values())
    widths = [max(len(v[i]) for v in cells.values() if i < len(v)) for i in range(columns)]
    label = max(len(name) for name in cells)
    lines = [title]
    for name, values in cells.items():
        row = "  ".join(value.rjust(width) for value, width in zip(values, widths, strict=False))
        lines.append(f"{name:<{label}}  {row}".rstrip())
    return "\n".join(lines)

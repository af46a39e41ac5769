"""Figure 12: which policies of three actions a rule allows, and where its expected update leads them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.objectives import Objective, make
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.style import (
    INK,
    MUTED,
    arm_style,
    group_of,
    name_text,
)
from erc_bench.training.expectation import every_action, expected_gradient

#: Recipes with a panel, in reading order, and what their rule does.
SHOWN = {
    "dapo": "clips each action's ratio",
    "gppo": "clips, keeps the gradient",
    "dppo-tv": "bounds each probability",
    "erc-dapo": "gates on the entropy ratio",
    "erc-directional-dapo": "the same, but only outwards",
    "kl-gate-dapo": "gates on the exact KL",
}
OLD, SWAPPED = (0.6, 0.3, 0.1), (0.3, 0.6, 0.1)
#: Policies that an update may find: that of the rollout, its swap, and two that other states moved.
STARTS = (OLD, SWAPPED, (0.4, 0.3, 0.3), (0.84, 0.08, 0.08))
VALUES = (0.0, 0.0, 1.0)  # expected return of each action
STEP, UPDATES = 0.2, 75
GRID, ARROWS, HALVINGS = 160, 13, 20
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])  # of the actions
WIDTH = 5.5

Points = NDArray[np.float64]


def _logits(points: Points) -> Tensor:
    """As runs of one state, ``(n, 1, 3)``."""
    return torch.from_numpy(np.ascontiguousarray(points)).log().unsqueeze(1)


def _given(points: Points) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, those of the old policy, and values."""
    logits = _logits(points)
    old, values = (torch.tensor(x, dtype=torch.float64).expand(logits.shape) for x in (OLD, VALUES))
    return logits, old.log(), values


def allowed(objective: Objective, points: Points) -> NDArray[np.bool_]:
    """Policies ``(n, 3)`` at which the rule leaves every action alone, whichever way it is pushed.

    Of an objective with gates the rule is the gates', of others the ratio clip's.
    """
    batch = every_action(*_given(points))
    inside = torch.ones(len(points), dtype=torch.bool)
    for sign in (1.0, -1.0):
        pushed = replace(batch, advantage=torch.full_like(batch.advantage, sign))
        acts = ~objective.keep(pushed) if objective.gates else objective.bound(pushed)
        inside &= ~acts.any(-1).any(-1)
    return inside.numpy()


def _inside(objective: Objective, points: Points) -> NDArray[np.bool_]:
    """Whether points ``(..., 3)`` are policies, and allowed."""
    found: NDArray[np.bool_] = np.asarray((points > 1e-9).all(-1))
    found[found] = allowed(objective, points[found])
    return found


def outline(objective: Objective) -> list[Points]:
    """The region's boundary as closed curves, the region on their left.

    A grid finds where it runs; bisection on the grid's edges finds it to ``2^-20`` of their length.
    """
    steps = np.arange(-1, GRID + 2) / GRID
    one, two = np.meshgrid(steps, steps)
    points = np.stack([one, two, 1 - one - two], axis=-1)
    inside = _inside(objective, points)
    found = []
    for line in (
        layout.new_figure(1, 1).subplots().contour(inside, [0.5]).get_paths()[0].to_polygons()
    ):
        down, up = np.floor(line).astype(int), np.ceil(line).astype(int)  # ends of a grid's edge
        first = inside[down[:, 1], down[:, 0]]
        ends = [points[at[:, 1], at[:, 0]] for at in (down, up)]
        kept = np.where(first[:, None], *ends)
        lost = np.where(first[:, None], *ends[::-1])
        for _ in range(HALVINGS):
            middle = (kept + lost) / 2
            good = _inside(objective, middle)
            kept = np.where(good[:, None], middle, kept)
            lost = np.where(good[:, None], lost, middle)
        found.append(kept)
    return found


def step(objective: Objective, points: Points) -> Points:
    """The policies after one expected update."""
    logits, old, values = _given(points)
    logits = logits - STEP * expected_gradient(objective, logits, old, values)
    return np.asarray(logits.softmax(-1).squeeze(1))


def paths(objective: Objective) -> Points:
    """Policies from every start through all updates, ``(UPDATES + 1, starts, 3)``."""
    found = [np.array(STARTS)]
    for _ in range(UPDATES):
        found.append(step(objective, found[-1]))
    return np.stack(found)


def _arrows() -> Points:
    """Policies at which an arrow starts: a triangular grid."""
    i, j = np.meshgrid(np.arange(ARROWS), np.arange(ARROWS))
    points = np.stack([i, j, ARROWS - 1 - i - j], axis=-1)[i + j < ARROWS] + 1 / 3
    return np.asarray(points / ARROWS)


def _rows(points: Points, **more: Any) -> pd.DataFrame:
    return pd.DataFrame({f"p{a + 1}": points[:, a] for a in range(3)} | more)


def table(frames: Frames) -> pd.DataFrame:
    """Boundaries, arrows (a policy and its change by one update) and paths of the recipes that ran."""
    trained = [e for e in frames.experiments if "imported" not in frames.about(e)]
    ran = {arm.recipe for e in trained for arm in frames.arms(e).values()}
    shown = [name for name in SHOWN if name in ran]
    if not shown:
        raise NothingToDraw(f"none of {', '.join(SHOWN)} was trained here")
    tables = []
    for name in shown:
        objective = make(name)
        drawn = [_rows(line, kind="boundary", line=k) for k, line in enumerate(outline(objective))]
        at = _arrows()
        change = step(objective, at) - at
        changes = {f"d{a + 1}": change[:, a] for a in range(3)}
        drawn.append(_rows(at, kind="update", **changes))
        walked = paths(objective)
        for start in range(len(STARTS)):
            updates = np.arange(UPDATES + 1)
            drawn.append(_rows(walked[:, start], kind="path", line=start, updates=updates))
        tables.append(pd.concat(drawn).assign(objective=name))
    return pd.concat(tables, ignore_index=True)


def _flat(rows: pd.DataFrame, of: str = "p") -> Points:
    """Places in the plane."""
    return np.asarray(rows[[f"{of}1", f"{of}2", f"{of}3"]].to_numpy() @ CORNERS)


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """A triangle for each objective: its corners are sure of one action, its centre is of none."""
    names = list(dict.fromkeys(data["objective"]))
    rows = -(-len(names) // 3)
    figure = layout.new_figure(WIDTH, 2.05 * rows + 0.6)
    for axes, name in zip(layout.panel_grid(figure, len(names)), names, strict=True):
        draw_triangle(axes, data[data["objective"] == name], frames, name)
    dot: dict[str, Any] = {"color": INK, "marker": "o", "markersize": 4.5, "markeredgewidth": 0.8}
    path: dict[str, Any] = {"color": INK, "linestyle": "-", "marker": "s", "markersize": 3.5}
    layout.legend_below(
        figure,
        [
            (layout.mark(**dot), "policy of the rollout"),
            (layout.mark(**dot, markerfacecolor="white"), "its swaps: same entropy"),
            (
                Patch(facecolor="#d5d9de", edgecolor=MUTED, linewidth=0.8),
                "where the rule is silent",
            ),
            (layout.mark(**path), f"{UPDATES} updates, and their end"),
            (layout.mark(color=INK, marker="x", markersize=5), "a start that none moves"),
            (
                layout.mark(color=MUTED, marker=r"$\rightarrow$", markersize=9),
                "one update; dot: none",
            ),
        ],
    )
    return figure


def draw_triangle(axes: Axes, data: pd.DataFrame, frames: Frames, name: str) -> Axes:
    """The region, an arrow for every policy of the grid, and paths with their starts and ends."""
    arm = frames.looks([name])[name]
    color = arm_style(arm).color
    axes.set_aspect("equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.07, 1.07), ylim=(-0.08, 1.2))
    heading: dict[str, Any] = {"fontsize": 8, "va": "baseline", "color": INK}
    axes.text(-0.07, 1.14, name_text(name), fontweight="bold", **heading)
    axes.text(-0.07, 1.03, SHOWN[name], **heading)
    edge = np.vstack([CORNERS, CORNERS[:1]])
    axes.plot(*edge.T, color=MUTED, linewidth=0.8, zorder=2)
    for action, (x, y) in enumerate(CORNERS):
        where = (x + (-0.05, 0.05, 0)[action], y + (-0.03, -0.03, 0.05)[action])
        text = f"{action + 1}" + (" (best)" if VALUES[action] == max(VALUES) else "")
        axes.text(*where, text, fontsize=8, ha="center", va="center", color=INK)
    lines = data[data["kind"] == "boundary"].groupby("line")
    if len(lines):
        region = Path.make_compound_path(*(Path(_flat(line), closed=True) for _, line in lines))
        fill = {"facecolor": to_rgba(color, 0.35), "edgecolor": color, "linewidth": 0.8}
        axes.add_patch(PathPatch(region, gid=group_of(arm), zorder=1, **fill))
    update = data[data["kind"] == "update"]
    at, change = _flat(update), _flat(update, "d")
    length = np.hypot(*change.T)
    moves = length > 1e-9
    shown = change[moves] * (0.055 / np.sqrt(length.max() * length[moves]))[:, None]
    look: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "color": MUTED}
    look |= {"width": 0.006, "headwidth": 3.6, "headlength": 3.6, "headaxislength": 3.2}
    axes.quiver(*at[moves].T, *shown.T, minshaft=1.6, zorder=3, **look)
    axes.plot(*at[~moves].T, ".", color=MUTED, markersize=1.4, zorder=3)
    swaps = np.array([*itertools.permutations(OLD)][1:]) @ CORNERS
    axes.plot(*swaps.T, "o", color=INK, markerfacecolor="white", markersize=4, zorder=6, mew=0.8)
    for _, path in data[data["kind"] == "path"].groupby("line"):
        places = _flat(path)
        moved = bool(np.ptp(places, axis=0).max() > 1e-6)
        axes.plot(*places.T, color=color, linewidth=1.5, zorder=5, gid=group_of(arm))
        end: dict[str, Any] = {"marker": "s", "markersize": 3.5} if moved else {"marker": "x"}
        axes.plot(*places[-1], color=color, linestyle="none", zorder=8, gid=group_of(arm), **end)
    axes.plot(*(np.array(OLD) @ CORNERS), "o", color=INK, markersize=4.5, zorder=7)
    return axes


FIGURE = Exhibit("12", "simplex", "Three actions: what a rule allows", table, draw)

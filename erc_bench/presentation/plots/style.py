"""How every figure looks: one fixed colour, line and marker per objective, type sizes, widths.

Colours start from the Okabe-Ito palette. An arm with an entropy band has the hue of its base, darker
and with a solid line; without the gate the line is broken. So a pair can be told apart in colour, in
grey and by its dashes. Other gates tint that hue, and a placebo is what it stands for, greyed and dotted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import matplotlib as mpl
import seaborn as sns

from erc_bench.studies.arms import StoredArm, stored_arm

COLUMN, WIDE = 3.3, 6.8  # inches: one column of a paper, and both
INK, MUTED, GRID = "#1a1a1a", "#6b6b6b", "#e4e4e4"
ACCENT = "#c1440e"
DOTTED = (0, (1, 1.5))  # the line of a reference value

#: What differs from seaborn's white grid and its sizes for papers.
_OWN: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "text.color": "black",
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "patch.force_edgecolor": False,
    "xtick.bottom": True,
    "ytick.left": True,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.hashsalt": "erc-bench",
    "svg.fonttype": "path",
}
for _axis in ("xtick", "ytick"):
    _OWN |= {f"{_axis}.color": MUTED, f"{_axis}.labelcolor": INK}
    _OWN |= {f"{_axis}.major.width": 0.6, f"{_axis}.major.size": 3.5}


def rc() -> AbstractContextManager[None]:
    """The settings every figure is drawn and saved with: seaborn's white grid, in small type."""
    settings: dict[Any, Any] = {
        **mpl.rcParamsDefault,
        **sns.plotting_context("paper", font_scale=0.78),
        **sns.axes_style("whitegrid"),
        **_OWN,
    }
    settings.pop("backend", None)
    return mpl.rc_context(settings)


P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Draw under :func:`rc`, whatever settings the caller's process has."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with rc():
            return draw(*args, **kwargs)

    return wrapper


@dataclass(frozen=True)
class ArmStyle:
    """Colour, dash pattern and marker of an objective."""

    color: str
    dash: tuple[float, tuple[float, ...]] | str
    marker: str


_DASH = (0.0, (4.0, 1.6))
_DOT = (0.0, (1.2, 1.2))
_DASHDOT = (0.0, (5.0, 1.4, 1.2, 1.4))
_LONG = (0.0, (8.0, 1.6))
_SPARSE = (0.0, (1.2, 2.4))
_UNEVEN = (0.0, (7.0, 1.2, 2.4, 1.2))
_TWODOT = (0.0, (5.0, 1.2, 1.2, 1.2, 1.2, 1.2))

#: The one place for a recipe's look, in the order of legends. Recipe: (colour, colour of an arm with
#: an entropy band on it, dashes, marker).
COLORS: dict[str, tuple[str, str, tuple[float, tuple[float, ...]], str]] = {
    "reinforce": ("#b9a0cf", "#5b2a86", _DOT, "v"),
    "ppo-clip": ("#8a8a8a", "#1a1a1a", _DASH, "s"),
    "dual-clip": ("#c9b400", "#6f6300", _DASHDOT, "P"),
    "grpo": ("#5fd6ae", "#00583f", _DASH, "^"),
    "dr-grpo": ("#8fd14f", "#3d6b10", _DOT, "<"),
    "dapo": ("#56b4e9", "#00508c", _DASH, "o"),
    "gppo": ("#f0a202", "#a63600", _DASH, "D"),
    "ce-gppo": ("#f6c667", "#8a5a00", _DASHDOT, "d"),
    "gspo": ("#e58fc0", "#8e1b62", _DASH, "p"),
    "gmpo": ("#cc79a7", "#7a2f5c", _DOT, "h"),
    "cispo": ("#d55e00", "#7a3300", _DASHDOT, "X"),
    "sapo": ("#7f8ff4", "#2b2f9e", _DASH, "*"),
    "clip-cov": ("#66c2c2", "#0d5a5a", _LONG, "8"),
    "kl-cov": ("#2a9d9d", "#063f3f", _DASHDOT, "H"),
    "pg-is": ("#562af4", "#241166", _TWODOT, "<"),
    "dppo-tv": ("#a8763e", "#57320a", _DASH, ">"),
    "dppo-kl": ("#5443c7", "#231c53", _TWODOT, ">"),
    "m2po": ("#d0c683", "#575337", _TWODOT, "p"),
    "trm": ("#9d272b", "#411012", _DOT, "d"),
    "drpo": ("#a50e67", "#45052b", _LONG, "h"),
    "troll": ("#8254f9", "#362368", _TWODOT, "H"),
    "vespo": ("#406885", "#1a2b37", _DOT, "8"),
    "luspo": ("#175eb2", "#09274a", _DASHDOT, "^"),
    "topr": ("#7476f7", "#303167", _LONG, "D"),
    "high-entropy-only": ("#e07b7b", "#8b1a1a", _TWODOT, "P"),
    "ppo-entropy": ("#b5651d", "#5e3206", _LONG, "v"),
    "ppo-kl": ("#7d7db3", "#33335e", _LONG, "s"),
    "ppo-kl-adaptive": ("#9c9cc9", "#44447a", _TWODOT, "s"),
    "dapo-tis": ("#1f78b4", "#0b3c5d", _DOT, "o"),
    "dapo-is": ("#1fd9f6", "#0d5b67", _TWODOT, "<"),
    "icepop": ("#a7aa5b", "#464726", _DASH, ">"),
    "seq-tis": ("#5535d6", "#231659", _DOT, "p"),
    "seq-mis": ("#f08132", "#643615", _LONG, "d"),
    "seq-k3-rs": ("#26a576", "#0f4531", _DASHDOT, "P"),
    "kl-gate-dapo": ("#ff6f91", "#9e1038", _DOT, "*"),
    "dapo-kl": ("#3f9b57", "#14491f", _LONG, "^"),
    "dapo-entropy": ("#a678de", "#451a73", _DASHDOT, "v"),
    "tv-gate-dapo": ("#c2185b", "#6a0032", _LONG, "*"),
}
#: What gates other than ERC's own give to the hue of the base they stand on.
_TINTS = {
    "DirectionalEntropyRatio": "#00b386",
    "KLTrustRegion": "#ff6f91",
    "TVTrustRegion": "#c2185b",
    "SampledTV": "#a8763e",
}
#: Hues that no recipe above has, for all others.
_SPARE = ("#6d597a", "#b56576", "#4f772d", "#355070", "#bc4749", "#7f5539", "#5f0f40", "#4d7c8a")
_ORDER = {name: place for place, name in enumerate(COLORS)}


def arm_style(arm: StoredArm) -> ArmStyle:
    """The same style for the same composition, in every figure and every run of the program.

    A recipe without a row of its own in :data:`COLORS` is shown by what it is made of: an arm with
    gates has its base's dark hue, solid with the entropy band alone, otherwise dash-dotted and tinted by
    the kind of gate. Any other recipe gets a style from the digest of its name.
    """
    if arm.control_of is not None:
        real = arm_style(stored_arm(arm.control_of))
        return ArmStyle(_mixed(real.color, "#b0b0b0", 0.62), _SPARSE, "x")
    if arm.recipe in COLORS:
        color, _, dashes, marker = COLORS[arm.recipe]
        return ArmStyle(color, dashes, marker)
    if arm.gates and arm.base in COLORS:
        _, color, _, marker = COLORS[arm.base]
        if arm.plain:
            return ArmStyle(color, "-", marker)
        tint = _TINTS.get(arm.gates[0], "#707070")
        return ArmStyle(_mixed(color, tint, 0.7), _UNEVEN, "X")
    digest = hashlib.sha256(arm.recipe.encode(errors="replace")).digest()
    dashes = (_DASH, _DOT, _DASHDOT, _LONG, _TWODOT)[digest[1] % 5]
    color, marker = _SPARE[digest[0] % len(_SPARE)], "oDs^vXP*"[digest[2] % 8]
    return ArmStyle(color, "-" if arm.band else dashes, marker)


def _mixed(color: str, other: str, share: float) -> str:
    """A colour with this share of another."""
    return mpl.colors.to_hex(
        mpl.colors.LinearSegmentedColormap.from_list("", [color, other])(share)
    )


def legend_place(arm: StoredArm) -> tuple[int, bool, bool, str, str]:
    """What legends and rows are sorted by: each base with its gated arms behind it, unknown names last."""
    own = _ORDER.get(arm.recipe)
    base = _ORDER.get(arm.base or "", len(_ORDER))
    return base if own is None else own, own is None, not arm.plain, arm.recipe, arm.label


def ordered(arms: Iterable[StoredArm]) -> list[StoredArm]:
    """Arms in the fixed order of legends and rows."""
    return sorted(arms, key=legend_place)


def settings_text(arm: StoredArm) -> str:
    """What differs from the recipe, in the manifest's order; equal ends of a pair are one setting.

    >>> settings_text(StoredArm("x", "erc-dapo", "dapo", overrides={"band_low": 0.1, "band_high": 0.1}))
    'band=0.1'
    """
    found = dict(arm.overrides)
    for name in [key for key in found if key.endswith("_low")]:
        pair = name.removesuffix("_low")
        if found.get(f"{pair}_high") == found[name]:
            found = {pair if k == name else k: v for k, v in found.items() if k != f"{pair}_high"}
    return ",".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in found.items())


#: Settings of a point of a grid as they are called where there is little room.
_SHORT = {"learning_rate": "lr", "temperature": "temp", "minibatches": "mb", "epochs": "ep"}


def name_text(name: str, width: int = 26) -> str:
    """A name from outside as plain text in a figure: no mathematics, one line, not overlong."""
    text = " ".join(str(name).split()).replace("$", r"\$")
    for setting, short in _SHORT.items():
        text = text.replace(f"{setting}=", f"{short}=")
    if text.startswith("_"):  # matplotlib leaves such labels out of legends
        text = " " + text
    return text if len(text) <= width else text[: width - 1] + "…"


#: Start of the id of every mark that shows one objective; in an SVG it names the mark's group.
GROUP = "objective."


def group_of(arm: StoredArm) -> str:
    """The id of an objective's marks: its recipe, without settings, in characters an id may have.

    >>> group_of(StoredArm("erc-dapo:epochs=4", "erc-dapo", "dapo")), group_of(StoredArm("x", "a<b", None))
    ('objective.erc-dapo', 'objective.a%3Cb')
    """
    return GROUP + quote(arm.recipe, safe="", errors="replace")


def line_of(arm: StoredArm, **extra: Any) -> dict[str, Any]:
    """Keyword arguments of a line for an objective."""
    style = arm_style(arm)
    return {"color": style.color, "linestyle": style.dash, "gid": group_of(arm), **extra}


def shade_of(arm: StoredArm, **extra: Any) -> dict[str, Any]:
    """Keyword arguments of the shaded interval of an objective."""
    return {"color": arm_style(arm).color, "linewidth": 0, "gid": group_of(arm), **extra}


#: Keyword arguments of words in a figure that stand out from its other text.
BOLD: dict[str, Any] = {"ha": "center", "fontweight": "bold"}
#: Keyword arguments of a cloud of sampled tokens: small points, as a picture also in an SVG.
CLOUD: dict[str, Any] = {"s": 5, "alpha": 0.6, "linewidth": 0, "legend": False, "rasterized": True}

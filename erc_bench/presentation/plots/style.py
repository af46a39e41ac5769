"""How every figure looks: one fixed colour, line and marker per objective, type sizes, widths.

Colours start from the Okabe-Ito palette. An ERC arm has the hue of its base, darker and with a
solid line; without the gate the line is broken. So a pair can be told apart in colour, in grey and
by its dashes.
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

__all__ = [
    "COLUMN",
    "GROUP",
    "INK",
    "MUTED",
    "WIDE",
    "ArmStyle",
    "arm_style",
    "group_of",
    "name_text",
    "ordered",
    "pairs",
    "rc",
    "styled",
]

COLUMN, WIDE = 3.3, 6.8  # inches: one column of a paper, and both
INK, MUTED, GRID = "#1a1a1a", "#6b6b6b", "#e4e4e4"
ACCENT = "#c1440e"

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.3,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "svg.hashsalt": "erc-bench",
    "svg.fonttype": "path",
    "path.simplify": True,
}


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
_TWODOT = (0.0, (5.0, 1.2, 1.2, 1.2, 1.2, 1.2))

#: base: (colour without gate, colour of the ERC arm, dashes without gate, marker)
_BASES: dict[str, tuple[str, str, tuple[float, tuple[float, ...]], str]] = {
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
    "dppo-tv": ("#a8763e", "#57320a", _DASH, ">"),
    "high-entropy-only": ("#e07b7b", "#8b1a1a", _TWODOT, "P"),
    "ppo-entropy": ("#b5651d", "#5e3206", _LONG, "v"),
    "ppo-kl": ("#7d7db3", "#33335e", _LONG, "s"),
    "ppo-kl-adaptive": ("#9c9cc9", "#44447a", _TWODOT, "s"),
    "dapo-tis": ("#1f78b4", "#0b3c5d", _DOT, "o"),
    "kl-gate-dapo": ("#ff6f91", "#9e1038", _DOT, "*"),
    "dapo-kl": ("#3f9b57", "#14491f", _LONG, "^"),
    "dapo-entropy": ("#a678de", "#451a73", _DASHDOT, "v"),
    "tv-gate-dapo": ("#c2185b", "#6a0032", _LONG, "*"),
}
#: other gates on a base: its dark hue, dash-dotted
_VARIANTS = {"dapo": ("erc-directional-dapo",)}
#: for names outside the list: hues that no known name has
_SPARE = ("#6d597a", "#b56576", "#4f772d", "#355070", "#bc4749", "#7f5539", "#5f0f40", "#4d7c8a")
_KNOWN: dict[str, ArmStyle] = {}
for _name, (_light, _dark, _dashes, _marker) in _BASES.items():
    _KNOWN[_name] = ArmStyle(_light, _dashes, _marker)
    _KNOWN[f"erc-{_name}"] = ArmStyle(_dark, "-", _marker)
    for _variant in _VARIANTS.get(_name, ()):
        _KNOWN[_variant] = ArmStyle(_dark, _DASHDOT, "X")
_ORDER = {name: i for i, name in enumerate(_KNOWN)}


def arm_style(name: str) -> ArmStyle:
    """The same style for the same name, in every figure and every run of the program.

    A name outside the list gets a style from its digest. A directional or otherwise varied gate,
    ``<variant>-erc-<base>`` or ``erc-<variant>-<base>``, keeps its base's dark hue, dash-dotted.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    if "erc-" in name:
        for base in sorted(_BASES, key=len, reverse=True):
            if name.endswith(f"-{base}"):
                return ArmStyle(_BASES[base][1], _DASHDOT, "X")
    digest = hashlib.sha256(name.encode()).digest()
    color, marker = _SPARE[digest[0] % len(_SPARE)], "oDs^vXP*"[digest[2] % 8]
    gated = name.startswith("erc-")
    dashes = (_DASH, _DOT, _DASHDOT, _LONG, _TWODOT)[digest[1] % 5]
    return ArmStyle(color, "-" if gated else dashes, marker)


def ordered(names: Iterable[str]) -> list[str]:
    """Names in the fixed order of legends and rows: known ones first, each beside its ERC arm."""
    return sorted(set(names), key=lambda n: (_ORDER.get(n, len(_ORDER)), n))


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each (base, ERC arm) of which both are there."""
    present = set(names)
    return [(n, f"erc-{n}") for n in ordered(present) if f"erc-{n}" in present]


#: Settings of a point of a grid as they are called where there is little room.
_SHORT = {"learning_rate": "lr", "temperature": "temp", "minibatches": "mb", "epochs": "ep"}


def _shortened(name: str) -> str:
    """``dapo:learning_rate=0.0005`` as ``dapo:lr=0.0005``, so that points differ before the cut."""
    arm, colon, settings = name.partition(":")
    items = (item.partition("=") for item in settings.split(","))
    return arm + colon + ",".join(f"{_SHORT.get(k, k)}{equals}{v}" for k, equals, v in items)


def name_text(name: str, width: int = 26) -> str:
    """A name from outside as plain text in a figure: no mathematics, one line, not overlong."""
    text = _shortened(" ".join(str(name).split())).replace("$", r"\$")
    if text.startswith("_"):  # matplotlib leaves such labels out of legends
        text = " " + text
    return text if len(text) <= width else text[: width - 1] + "…"


#: Start of the id of every mark that shows one objective; in an SVG it names the mark's group.
GROUP = "objective."


def group_of(name: str) -> str:
    """The id of an objective's marks: its recipe, without settings, in characters an id may have.

    >>> group_of("erc-dapo:epochs=4"), group_of("a<b")
    ('objective.erc-dapo', 'objective.a%3Cb')
    """
    return GROUP + quote(name.partition(":")[0], safe="", errors="replace")


def rc() -> AbstractContextManager[None]:
    """The settings every figure is drawn and saved with."""
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **_RC}
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


def line_of(name: str, **extra: Any) -> dict[str, Any]:
    """Keyword arguments of a line for an objective."""
    style = arm_style(name)
    return {"color": style.color, "linestyle": style.dash, "gid": group_of(name), **extra}

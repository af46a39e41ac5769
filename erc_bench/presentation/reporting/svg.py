"""A figure's SVG as a part of an HTML page: marks by objective, no foreign ids, few digits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from erc_bench.presentation.plots.style import GROUP

__all__ = ["inline_svg"]

_XLINK = "{http://www.w3.org/1999/xlink}"
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_PLACES = ("d", "x", "y", "points", "width", "height")
#: Attributes that the root element loses, because the page decides on its size, and two that it gets,
#: which the style sheet of the file would have given to all marks.
_DROPPED = ("width", "height", "version")
_STYLE = {"stroke-linejoin": "round", "stroke-linecap": "butt"}


def inline_svg(source: bytes, prefix: str, objectives: Mapping[str, int]) -> tuple[str, set[int]]:
    """The ``svg`` element to stand in a page, and the objectives of which it has marks.

    A group of marks of an objective gets its number in ``objectives`` as ``data-o``. Ids that
    something refers to get the prefix, others go, as do comments and metadata: they hold names from
    outside. Places are rounded to a hundredth of a point.
    """
    root = ET.fromstring(re.sub(rb"<!--.*?-->|<!DOCTYPE[^>]*>", b"", source, flags=re.DOTALL))
    for parent in [*root.iter()]:
        for child in [*parent]:
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    used = _referred(root)
    shown: set[int] = set()
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text = element.tail = None
        given = dict(element.attrib)
        element.attrib.clear()
        for key, value in given.items():
            if key == "id":
                shown |= _name(element, value, used, prefix, objectives)
            else:
                element.set(key.removeprefix(_XLINK), _short(key, value, prefix))
    for key in _DROPPED:
        root.attrib.pop(key, None)
    root.attrib.update(_STYLE)
    return ET.tostring(root, encoding="unicode"), shown


def _referred(root: ET.Element) -> set[str]:
    found: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href") and value.startswith("#"):
                found.add(value[1:])
            found.update(_REFERENCE.findall(value))
    return found


def _name(
    element: ET.Element, name: str, used: set[str], prefix: str, objectives: Mapping[str, int]
) -> set[int]:
    """Give an element its id or its objective's number; returns the latter."""
    if name in used:
        element.set("id", prefix + name)
    elif name.startswith(GROUP):
        number = objectives.get(unquote(name.removeprefix(GROUP).rpartition(".")[0]))
        if number is not None:
            element.set("data-o", str(number))
            return {number}
    return set()


def _short(key: str, value: str, prefix: str) -> str:
    if key.endswith("href"):
        return f"#{prefix}{value[1:]}" if value.startswith("#") else value
    if key in _PLACES:
        return _rounded(" ".join(value.split()))
    if key == "transform":
        return re.sub(r"translate\([^)]*\)", lambda m: _rounded(m[0]), value)
    if key == "style":
        value = value.replace(": ", ":").replace("; ", ";")
    return _REFERENCE.sub(rf"url(#{prefix}\1)", value)


def _rounded(text: str) -> str:
    return _NUMBER.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), text)

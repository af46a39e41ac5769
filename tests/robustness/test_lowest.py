"""``constraints-lowest.txt`` is what pyproject.toml allows at least."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bounds(requirements, sign):
    """Names and versions of requirements ``name>=version``."""
    found = (re.match(rf"([\w.-]+){sign}([\d.]+)", text) for text in requirements)
    return {m[1].lower().replace("_", "-"): m[2] for m in found if m}


def number(version):
    """2.0 and 2.0.0 are one version."""
    return tuple(int(part) for part in re.sub(r"(\.0)+$", "", version).split("."))


def test_the_lowest_versions_are_those_of_the_bounds():
    """Every direct dependency, at its bound; torch at its pin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    lowest = bounds(lines, "==")
    needed = bounds(project["dependencies"], ">=")
    dev = bounds(project["optional-dependencies"]["dev"], ">=")
    assert set(needed) <= set(lowest) <= set(needed) | set(dev)
    pinned = bounds((ROOT / "constraints.txt").read_text().splitlines(), "==")
    for name, version in lowest.items():
        if name == "torch":
            assert version == pinned["torch"]
        else:
            assert number({**dev, **needed}[name]) == number(version), name

"""Commands and Python blocks of the documents, as a reader would copy them."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from types import ModuleType

from gymnasium.error import DependencyNotInstalled

from tools.docs_pages import claims, conformance, environments, experiments

ROOT = Path(__file__).parents[2]
COMMITTED = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "figures" / "README.md",
    ROOT / "paper_repro" / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def _generated(module: ModuleType) -> dict[str, str | bytes]:
    """A module's pages; those of the environments need erc-bench[tasks], and are left out without it."""
    with contextlib.suppress(DependencyNotInstalled):
        return module.pages()
    return {}


#: Text of every document by its name: committed pages, and those that are generated without measuring.
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in COMMITTED} | {
    f"docs/{path}": text
    for module in (claims, conformance, environments, experiments)
    for path, text in _generated(module).items()
    if isinstance(text, str)
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)")
PROGRAM = re.compile(
    r"^(?:[A-Z_]+=\S+ )*(?:\.venv[\w/.-]*|erc-bench|make|pip|pytest|python|export|cat|tensorboard)\b"
)


def commands(text: str) -> list[str]:
    """Of fenced bash blocks and of indented blocks that start with a program; comments are cut off."""
    blocks = [(m.start(), m[2]) for m in FENCE.finditer(text) if m[1] in ("bash", "sh", "console")]
    plain = FENCE.sub(lambda m: re.sub(r"[^\n]", "#", m[0]), text)
    for found in INDENTED.finditer(plain):
        block = re.sub(r"^ {4}", "", found[1], flags=re.MULTILINE)
        if PROGRAM.match(block):
            blocks.append((found.start(), block))
    lines = []
    for _, block in sorted(blocks):
        joined = re.sub(r"\s*\\\n\s*", " ", block)
        for line in joined.splitlines():
            command = re.sub(r"(^|\s+)#.*$", "", line).strip()
            if command:
                lines.append(command)
    return lines


def python_blocks(text: str) -> list[str]:
    return [m[2] for m in FENCE.finditer(text) if m[1] == "python"]

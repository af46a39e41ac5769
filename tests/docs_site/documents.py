"""Commands and Python blocks of the documents, as a reader would copy them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "figures" / "README.md",
    ROOT / "paper_repro" / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)")
PROGRAM = re.compile(
    r"^(?:[A-Z_]+=\S+ )*(?:\.venv[\w/.-]*|erc-bench|make|pip|pytest|python|export|cat|tensorboard)\b"
)


def name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def commands(document: Path) -> list[str]:
    """Of fenced bash blocks and of indented blocks that start with a program; comments are cut off."""
    text = document.read_text()
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


def python_blocks(document: Path) -> list[str]:
    return [m[2] for m in FENCE.finditer(document.read_text()) if m[1] == "python"]

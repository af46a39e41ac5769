"""Write the site's source into a folder for another builder: ``python -m tools.docs_pages FOLDER``.

The folder gets ``docs/``, with every page as plain Markdown, and a ``mkdocs.yml`` without mkdocs-gen-files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from tools.docs_pages.site import ROOT, expanded, files


def export(folder: Path) -> None:
    """Write everything; nothing is removed."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    made = files(config["nav"])
    for name, content in made.items():
        path = folder / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    config["nav"] = expanded(config["nav"], made)
    config["plugins"] = [p for p in config["plugins"] if "gen-files" not in p]
    for plugin in config["plugins"]:
        if "mkdocstrings" in plugin:
            python = plugin["mkdocstrings"]["handlers"]["python"]
            python["paths"] = [str(ROOT / path) for path in python["paths"]]
            extensions = python["options"]["extensions"]
            python["options"]["extensions"] = [str(ROOT / path) for path in extensions]
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (folder / "mkdocs.yml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.docs_pages FOLDER")
    export(Path(sys.argv[1]))

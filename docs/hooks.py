"""What the site needs besides the files under docs/; MkDocs calls these functions by name.

- What a page links to outside docs/ comes along, under its path in the repository: links are written
  for the repository and work in both places.
- The page of figures/ shows each figure with its caption.
- Notebooks become pages with the outputs that are stored in them.
- Formulas in dollars become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
# Pages of the navigation that no page need link to.
ALSO = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "figures/README.md",
    "paper_repro/README.md",
)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def repository_path(uri: str) -> str:
    """Where a file of the site lies in the repository."""
    return uri if not (ROOT / "docs" / uri).exists() and (ROOT / uri).exists() else f"docs/{uri}"


def site_path(path: str) -> str:
    """Where a file of the repository lies in the site."""
    return path.removeprefix("docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add notebooks as pages, and what is linked to outside docs/."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        for made in notebook_page(notebook, config):
            files.append(made)
    waiting = [ROOT / path for path in ALSO]
    texts = {f.src_uri: f.content_string for f in files if f.is_documentation_page()}
    for uri, text in texts.items():
        waiting += linked(repository_path(uri), text)
    waiting += [ROOT / "figures" / f"{figure['name']}.png" for figure in figures()]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("docs/") or files.get_file_from_path(site_path(name)):
            continue
        files.append(File.generated(config, site_path(name), abs_src_path=str(path)))
        if path.suffix == ".md":
            waiting += linked(name, path.read_text())
    return files


def figures() -> list[dict[str, str]]:
    """Of the committed gallery: name, title and caption of each."""
    found: list[dict[str, str]] = json.loads((ROOT / "figures" / "figures.json").read_text())[
        "figures"
    ]
    return found


def linked(name: str, text: str) -> list[Path]:
    """Files of the repository that a page of it links to."""
    folder = posixpath.dirname(name)
    found = [ROOT / posixpath.normpath(posixpath.join(folder, m[1])) for m in LINK.finditer(text)]
    return [path for path in found if path.is_file() and path.is_relative_to(ROOT)]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between files of the site."""
    uri = page.file.src_uri
    if uri == "figures/README.md":
        markdown += "\n\n## Figures\n"
        for figure in figures():
            number = figure["name"].split("_")[0].removeprefix("fig")
            caption = html.escape(figure["caption"]).replace("_", "\\_").replace("*", "\\*")
            markdown += f"\n### Figure {number}: {figure['title']}\n\n"
            markdown += f"![{figure['title']}]({figure['name']}.png)\n\n{caption}\n"
    folder = posixpath.dirname(repository_path(uri))

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if not (ROOT / target).is_file():
            return match[0]  # MkDocs says that it is missing
        here = posixpath.dirname(uri) or "."
        return posixpath.relpath(site_path(target), here) + (match[2] or "")

    return LINK.sub(moved, markdown)


def on_page_content(html_text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas become MathML; roles of reStructuredText in docstrings go."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        try:
            return convert(html.unescape(match[2]).strip(), display=display)
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: {match[2]!r}: {error}") from error

    return ROLE.sub("<code>", FORMULA.sub(mathml, html_text))


def notebook_page(file: File, config: MkDocsConfig) -> list[File]:
    """The page of a notebook, and the images of its outputs."""
    notebook = nbformat.read(file.abs_src_path, as_version=4)
    stem = file.src_uri.removesuffix(".ipynb")
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, resources={"output_files_dir": posixpath.basename(stem)}
    )
    made = [File.generated(config, f"{stem}.md", content=ANSI.sub("", text))]
    folder = posixpath.dirname(stem)
    for name, data in resources["outputs"].items():
        made.append(File.generated(config, posixpath.join(folder, name), content=data))
    return made

"""Links: committed pages lead to what is committed, and the site can be built from plain Markdown."""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys

import pytest
from docs_site.documents import COMMITTED, ROOT

from erc_bench.objectives import RECIPES
from tools.docs_pages.environments import ENVIRONMENTS

for package in ("latex2mathml", "mkdocs", "mkdocs_gen_files", "nbconvert", "reasoning_gym"):
    pytest.importorskip(package, reason="needs erc-bench[docs,tasks]")

from tools.docs_pages.__main__ import export  # noqa: E402  # it needs erc-bench[docs]
from tools.docs_pages.site import LINK, generated  # noqa: E402

PAGES = [*COMMITTED, *sorted((ROOT / "docs").rglob("*.ipynb"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_committed_pages_link_to_what_is_committed(page):
    """Links work where the repository is read, without the site."""
    missing = {m[1] for m in LINK.finditer(page.read_text()) if not (page.parent / m[1]).exists()}
    assert not missing


def test_every_source_leads_to_a_page():
    """A link to a source file becomes a link to the page made from it."""
    made, sources = generated()
    for source, page in sources.items():
        assert (ROOT / source).exists(), source
        assert page.partition("#")[0] in made, page


def test_no_objective_and_no_environment_is_listed_by_hand():
    """The navigation names folders; the pages in them come from the registries."""
    words = set(re.findall(r"[\w-]+", (ROOT / "mkdocs.yml").read_text()))
    names = {type_.__name__ for type_ in ENVIRONMENTS.values()}
    assert not words & {*RECIPES, *names}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export(folder)
    return folder


def test_exported_pages_are_plain_markdown(exported):
    """Every link of theirs leads to a file beside them, and no formula is left to an extension."""
    files = {p.relative_to(exported / "docs").as_posix() for p in (exported / "docs").rglob("*")}
    for path in (exported / "docs").rglob("*.md"):
        text, here = path.read_text(), path.relative_to(exported / "docs").as_posix()
        for match in LINK.finditer(re.sub(r"(?s)^```.*?^```", "", text, flags=re.MULTILINE)):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[1]))
            assert target in files, (here, match[1])
        assert "$$" not in text, here


@pytest.mark.slow
def test_exported_site_is_built_without_hooks_and_generators(exported):
    """Strictly: another builder needs mkdocs.yml and Markdown only."""
    assert "gen-files" not in (exported / "mkdocs.yml").read_text()
    built = exported / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(built)],
        cwd=exported,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for page in (
        "index",
        "objectives/erc-dapo",
        "environments/token-forks",
        "api/core",
        "figures/index",
    ):
        assert (built / f"{page}.html").is_file()

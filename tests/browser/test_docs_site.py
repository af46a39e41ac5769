"""The documentation site in a browser, opened from its folder: complete, quiet, and readable on a phone."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZES = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
PAGES = (
    "index",
    "concepts",
    "metrics",
    "experiments",
    "objectives/index",
    "objectives/erc-dapo",
    "environments/token-forks",
    "figures/index",
    "tutorials/one-update",
    "tutorials/ci-check",
    "api/objectives",
)
#: Boxes that scroll on their own may be wider inside than the page.
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const whole = document.documentElement.scrollWidth;
  if (whole > width) return ["the page: " + whole];
  const scrolls = (e) =>
    e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  return [...document.querySelectorAll("article *")]
    .filter((e) => e.getBoundingClientRect().right > width + 1 && e.checkVisibility() && !scrolls(e))
    .map((e) => e.outerHTML.slice(0, 120));
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as `make docs` does: a warning is an error."""
    if not all(map(find_spec, ("mkdocs", "material", "reasoning_gym"))):
        pytest.skip("needs erc-bench[docs,tasks]")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(site, opened, screenshot, name, size):
    """No error or outside request (the fixture asserts both), every image, nothing off the side."""
    page = opened(site / f"{name}.html", **SIZES[size])
    page.wait_for_load_state("load")
    broken = page.eval_on_selector_all(
        "img", "all => all.filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
    )
    assert not broken
    assert page.locator("article h1").count() == 1
    assert page.evaluate(TOO_WIDE) == []
    screenshot(page, f"docs-{name.replace('/', '-')}-{size}", full_page=name == "index")


def test_search_finds_a_metric(site, opened, screenshot):
    """Also from a folder, where a page may not start a worker."""
    page = opened(site / "index.html")
    page.locator("input[data-md-component=search-query]").click()
    page.keyboard.type("hidden violation")
    results = page.locator(".md-search-result__item a")
    results.first.wait_for()
    assert "metrics.html" in " ".join(a.get_attribute("href") for a in results.all())
    screenshot(page, "docs-search", full_page=False)


def test_both_themes(site, opened, screenshot):
    """The reader's preference is followed, and can be changed."""
    page = opened(site / "concepts.html", color_scheme="dark")
    assert page.locator("body").get_attribute("data-md-color-scheme") == "slate"
    screenshot(page, "docs-concepts-dark", full_page=False)
    page.locator("label[title='To the light theme']:visible").click()
    assert page.locator("body").get_attribute("data-md-color-scheme") == "default"


def test_formulas_are_drawn(site, opened):
    """As MathML: no source of a formula is left in the text, and each has a size."""
    page = opened(site / "concepts.html")
    assert "\\frac" not in page.locator("article").inner_text()
    boxes = page.eval_on_selector_all(
        "article math", "all => all.map(m => m.getBoundingClientRect().width)"
    )
    assert len(boxes) > 20
    assert min(boxes) > 3

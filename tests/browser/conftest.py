"""Pages in a real browser: Debian's Chromium, driven by Playwright, allowed to reach files only.

A page fails its test for any console error, uncaught exception or request outside ``file:``, ``data:``
and ``blob:``. Without a Chromium the tests are skipped with that reason, or fail where
ERC_BENCH_BROWSER=1 demands one (CI).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
ALLOWED = ("file:", "data:", "blob:", "about:")


@pytest.fixture(scope="session")
def browser():
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    missing = "no Chromium found (apt-get install chromium, or name one in CHROMIUM)"
    if not found:
        if os.environ.get("ERC_BENCH_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """``opened(path, fragment="", **context options)``: the page, watched; closed after the test."""
    contexts, faults = [], []

    def open_page(path: Path, fragment: str = "", **options):
        context = browser.new_context(**{"viewport": DESKTOP, "offline": True, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type in ("error", "warning") and faults.append(m.text))
        page.on("pageerror", lambda error: faults.append(f"uncaught: {error}"))
        page.on(
            "request",
            lambda r: r.url.startswith(ALLOWED) or faults.append(f"outside request: {r.url}"),
        )
        page.goto(Path(path).resolve().as_uri() + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture
def screenshot(tmp_path_factory):
    """``screenshot(page, name)``: kept where ERC_BENCH_SCREENSHOTS says, to be looked at."""
    named = os.environ.get("ERC_BENCH_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)

    def keep(page, name: str, *, full_page: bool = True) -> Path:
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=full_page)
        return path

    return keep


@pytest.fixture(scope="session")
def explain_page(tmp_path_factory):
    """The teaching page as ``erc-bench explain --out`` writes it."""
    from erc_bench.presentation.explain import write  # noqa: PLC0415

    return write(tmp_path_factory.mktemp("explain") / "explain.html")

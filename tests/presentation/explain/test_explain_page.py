"""The page as a file: one, small, and closed to everything outside it."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from erc_bench.core.errors import InputError
from erc_bench.core.metrics import BAND, DELTA
from erc_bench.presentation.explain import FIRST, PRESETS, assemble, write

ROOT = Path(__file__).parents[3]


def inside(tag, page):
    return re.findall(rf"<{tag}\b([^>]*)>(.*?)</{tag}>", page, flags=re.DOTALL)


def test_one_small_file_with_one_module():
    """Under 120 kB (500 are allowed); one style, one module, one block of data, nothing left to fill in."""
    page = assemble()
    assert len(page.encode()) < 120_000
    assert [attributes.strip() for attributes, _ in inside("script", page)] == [
        'type="application/json" id="data"',
        'type="module"',
    ]
    assert len(inside("style", page)) == 1
    assert "{{" not in page


def test_nothing_is_fetched():
    """The only address is the paper's, in a link; no import, no font, no handler in an attribute."""
    page = assemble()
    outside = {u for u in re.findall(r"https?://[\w./-]+", page) if "www.w3.org" not in u}
    assert outside == {"https://arxiv.org/abs/2512.05591"}
    assert not re.search(r"\bsrc=|@import|url\(|\bimport\b|fetch\(|XMLHttp", page)
    assert not re.search(r"<[^>]+\son\w+=", page)


def test_nothing_from_outside_becomes_markup():
    """Text reaches the page as text."""
    _, script = inside("script", assemble())[1]
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in script


def test_the_policy_admits_only_what_is_there():
    """The hashes are those of the inlined blocks; without one of them the block would not run."""
    page = assemble("swap")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    for tag, index in (("style", 0), ("script", 1)):
        digest = hashlib.sha256(inside(tag, page)[index][1].encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_presets_are_those_of_the_page():
    """The data block holds them all, every step and question has one, and the first is the start."""
    page = assemble("swap")
    data = json.loads(inside("script", page)[0][1])
    assert data == {"delta": DELTA, "band": list(BAND), "presets": PRESETS}
    used = set(re.findall(r'data-preset="(\w+)"', page))
    assert used <= set(PRESETS)
    assert used >= set(PRESETS) - {"restored"}
    assert '<html lang="en" data-preset="swap">' in page
    assert f'data-preset="{FIRST}"' in assemble()


def test_the_docs_know_the_presets_and_the_questions():
    """Names and wording as on the page."""
    docs = " ".join((ROOT / "docs" / "explain.md").read_text(encoding="utf-8").split())
    assert ", ".join(f"`{name}`" for name in PRESETS) in docs
    questions = assemble().partition('id="questions"')[2]
    asked = [" ".join(q.split()) for q in re.findall(r"<h3>(.*?)</h3>", questions, re.DOTALL)]
    assert len(asked) == 5
    for number, question in enumerate(asked, 1):
        assert f"{number}. {question}" in docs


def test_an_unknown_preset_is_refused():
    """With the names that are known."""
    with pytest.raises(InputError, match=r"preset: 'nope' is unknown .known: tour, .*swap"):
        assemble("nope")


def test_writing_makes_the_folder(tmp_path):
    """The file is the assembled page."""
    path = write(tmp_path / "new" / "page.html", "hidden")
    assert path.read_text(encoding="utf-8") == assemble("hidden")

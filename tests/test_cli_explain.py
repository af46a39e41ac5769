"""Tests of what ``erc-bench explain`` writes, opens and refuses."""

import webbrowser
from pathlib import Path

import pytest

from erc_bench.cli import main
from erc_bench.presentation.explain import assemble


@pytest.fixture
def visits(monkeypatch):
    """The addresses that the browser was asked to open."""
    seen = []
    monkeypatch.setattr(webbrowser, "open", lambda url: seen.append(url) or True)
    return seen


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("ERC_BENCH_CACHE", str(folder))
    return folder


def test_opens_a_page_from_the_cache(visits, cache, capsys):
    """Without an argument, the path is printed and the browser opens it, each time the same."""
    for _ in range(2):
        main(["explain"])
    page = (cache / "explain.html").resolve()
    assert capsys.readouterr().out.split() == [str(page)] * 2
    assert visits == [page.as_uri()] * 2
    assert page.read_text(encoding="utf-8") == assemble()


def test_out_writes_and_does_not_open(visits, cache, tmp_path, capsys):
    """The named file is written and starts at the preset, and the cache stays empty."""
    out = tmp_path / "deep" / "page.html"
    main(["explain", "--out", str(out), "--preset", "swap"])
    assert capsys.readouterr().out.strip() == str(out.resolve())
    assert out.read_text(encoding="utf-8") == assemble("swap")
    assert [p.name for p in out.parent.iterdir()] == ["page.html"]
    assert visits == []
    assert not cache.exists()


def test_opening_can_be_asked_for_or_not(visits, cache, tmp_path):
    """``--open`` overrides whether the browser opens."""
    main(["explain", "--out", str(tmp_path / "page.html"), "--open", "True"])
    assert visits == [(tmp_path / "page.html").resolve().as_uri()]
    main(["explain", "--open", "False"])
    assert len(visits) == 1


def test_a_machine_without_a_browser(cache, monkeypatch, capsys):
    """The command says so, and writes the page all the same."""
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    main(["explain"])
    out, err = capsys.readouterr()
    assert Path(out.strip()).exists()
    assert err == "erc-bench: no browser found; open the file in one\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--preset", "nope"], ["preset: 'nope' is unknown", "swap"]),
        (["--out", "folder"], ["out: folder cannot be written to"]),
        (["--out", "file/page.html"], ["out: file/page.html cannot be written to"]),
        (["--out", ""], ["out: . cannot be written to"]),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments, told, visits, cache, tmp_path, monkeypatch, capsys
):
    """The exit code is 2, and nothing is written or opened."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["explain", *arguments])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    for text in ["erc-bench: ", *told]:
        assert text in err
    assert visits == []
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"

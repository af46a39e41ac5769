import json
import re
import xml.dom.minidom
from xml.etree import ElementTree

import pytest
from planted_faults import built

from erc_bench import cli
from erc_bench.analysis import comparison
from erc_bench.conformance import adapt, check, load_loss, reports

HOSTILE = "a<b>&\"'|`*_[x](y)\x00\x1b]]>\n# head <script>"

BROKEN = """
import torch

def half_done(logp, old_logp, advantage, mask):
    r = (logp - old_logp.detach()).exp()
    return (-r * advantage.detach() * mask).sum() / mask.sum()

def fine(logp, old_logp, advantage, mask, entropy=None):
    a = advantage.detach().masked_fill(~mask, 0.0)
    limit = 11.0 if logp.dtype == torch.float16 else 20.0
    l = logp.masked_fill(~mask, 0.0) - old_logp.detach().masked_fill(~mask, 0.0)
    r = l.clamp(-limit, limit).exp()
    return -torch.minimum(r * a, r.clamp(0.8, 1.28) * a)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses_of_mine.py").write_text(BROKEN)
    return tmp_path


@pytest.fixture(scope="module")
def hostile():
    """A report with every status, and hostile names and reasons."""
    broken = built(reduce=lambda x, mask, count: x.mean(), inside=lambda rho, low, high: rho < 1.1)
    loss = adapt(broken, name=HOSTILE)
    report = check(loss, waive={"padding_columns": HOSTILE})
    assert {r.status for r in report.results} == {"passed", "failed", "waived", "skipped"}
    return report


def test_junit_is_valid_and_complete(hostile):
    """Two parsers read it; counts agree; hostile texts come back as texts."""
    text = reports.as_junit(hostile)
    xml.dom.minidom.parseString(text.encode())
    suite = ElementTree.fromstring(text.encode()).find("testsuite")
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == len(cases) == len(hostile.results)
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
    assert int(suite.get("failures")) == hostile.count("failed") > 0
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
    assert cases[0].get("classname").startswith("a<b>&\"'|")
    waived = [c.find("skipped").get("message") for c in cases if c.get("name") == "padding_columns"]
    assert "waived" in waived[0]
    assert "<script>" in waived[0]


def test_markdown_holds_no_markup_of_others(hostile):
    """Tables keep their columns; no HTML but the fold."""
    text = reports.as_markdown(hostile)
    tags = set(re.findall(r"<[^>]*>", text))
    assert tags == {"<details>", "<summary>", "</summary>", "</details>"}
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 4, line
    assert "\n# head" not in text
    assert text.index("❌") < text.index("✅")


def test_json_is_strict_and_has_everything(hostile):
    """Names, rules, outcomes, waivers, versions."""
    found = json.loads(reports.as_json(hostile), parse_constant=pytest.fail)
    assert found["loss"] == HOSTILE
    assert found["passed"] is False
    assert [p["name"] for p in found["properties"]] == [r.property.name for r in hostile.results]
    waived = next(p for p in found["properties"] if p["status"] == "waived")
    assert waived["waiver"] == HOSTILE
    assert found["drift"] is None


def run(*arguments):
    """Exit code of the command."""
    try:
        cli.main(["check", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code
    return 0


def test_exit_codes(folder, capfd):
    """0: passed or waived. 1: a property failed. 2: could not check. Never a traceback."""
    assert run("dapo", "--no-drift") == 0
    assert "24 passed" in capfd.readouterr().out
    assert run("losses_of_mine:fine", "--no-drift") == 0
    out, err = capfd.readouterr()
    assert "importing and running the code of losses_of_mine:fine" in err
    assert run("losses_of_mine:half_done", "--no-drift") == 1
    out, err = capfd.readouterr()
    assert "failed" in out
    failed = re.findall(r"^(\w+) +failed", out, re.M)
    assert f'--waive {failed[0]}="the reason"' in err
    waivers = [f"--waive={name}=we know" for name in failed]
    assert run("losses_of_mine:half_done", "--no-drift", *waivers) == 0
    assert "waived: we know" in " ".join(capfd.readouterr().out.split())
    for bad in (
        ["losses_of_mine:nothing"],
        ["nothing"],
        ["dapo", "--waive", "nothing=x"],
        ["dapo", "--waive", "dual_clip"],
        ["dapo", "--baseline", "nothing"],
        ["dapo", "--seeds", "1"],
        ["dapo", "--set", "clip_low"],
        ["dapo", "--band", "0", "1"],
        ["dapo", "--no-drift", "--json", "/proc/nowhere/x.json"],
    ):
        assert run(*bad) == 2, bad
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        lines = [s for s in err.splitlines() if "importing and running" not in s]
        assert len(lines) == 1
        assert lines[0].startswith("erc-bench: ")


def test_code_is_not_imported_where_the_call_is_refused_anyway(folder, capfd):
    """Options are checked first, and the notice comes before the import."""
    (folder / "noisy.py").write_text("print('imported')")
    assert run("noisy:x", "--waive", "nothing=x") == 2
    assert "imported" not in capfd.readouterr().out
    assert run("noisy:x", "--traceback") == 2
    out, err = capfd.readouterr()
    assert "imported" in out
    assert "Traceback" in err


def test_the_three_files_are_written(folder, capfd):
    """Into folders that need not exist; with the drift comparison where there is one."""
    code = run(
        "losses_of_mine:fine",
        "--baseline",
        "dapo",
        "--seeds",
        "2",
        "--json",
        "o/r.json",
        "--junit",
        "o/r.xml",
        "--markdown",
        "o/r.md",
    )
    assert code == 0
    found = json.loads((folder / "o/r.json").read_text(), parse_constant=pytest.fail)
    assert len(found["drift"]["rows"]) == 12
    assert "against dapo" in (folder / "o/r.md").read_text()
    assert "against dapo" in capfd.readouterr().out
    ElementTree.parse(folder / "o/r.xml")
    # the same loss as the baseline's, written by hand and called run by run: no difference
    for row in found["drift"]["rows"]:
        assert abs(row["difference"]) <= 1e-3 * abs(row["baseline"]), row


def test_a_loss_with_another_clip_differs_from_the_baseline():
    """The comparison sees what it is for: a clip at 2 % moves the policy less than one at 20 %."""
    narrow = load_loss("dapo", options={"clip_low": 0.02, "clip_high": 0.02})
    found = comparison.compare(narrow, "dapo", seeds=3)
    drift = {r.experiment: r for r in found.rows if r.measure == "exact KL"}
    assert all(row.loss < row.baseline for row in drift.values())
    assert found.diverged == (0, 0)
    assert found.runs == 9

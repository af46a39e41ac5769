import json
import re
import xml.dom.minidom
from xml.etree import ElementTree

import pytest
import torch
from planted_faults import built

from erc_bench import cli
from erc_bench.analysis import comparison
from erc_bench.conformance import PROPERTIES, adapt, check, load_loss, reports
from erc_bench.conformance.registry import LEVELS

HOSTILE = "a<b>&\"'|`*_[x](y)\x00\x1b]]>\n# head <script>"

BROKEN = """
import torch

def half_done(logp, old_logp, advantage, mask):
    r = (logp - old_logp.detach()).exp()
    return (-r * advantage.detach() * mask).sum() / mask.sum()

def wrong(logp, advantage, mask):
    return logp.masked_fill(~mask, 0.0) * advantage.detach().masked_fill(~mask, 0.0)

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
    suites = ElementTree.fromstring(text.encode()).findall("testsuite")
    assert [suite.get("name").rpartition(" ")[2] for suite in suites] == list(LEVELS)
    for suite, level in zip(suites, LEVELS, strict=True):
        inside = suite.findall("testcase")
        assert int(suite.get("tests")) == len(inside) == len(hostile.at(level))
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
    assert int(suites[0].get("failures")) == hostile.count("failed", "objective") > 0
    assert int(suites[1].get("failures")) == 0
    cases = [case for suite in suites for case in suite]
    assert cases[0].get("classname").startswith("a<b>&\"'|")
    waived = [c.find("skipped").get("message") for c in cases if c.get("name") == "padding_columns"]
    assert "waived" in waived[0]
    assert "<script>" in waived[0]


def test_markdown_holds_no_markup_of_others(hostile):
    """Tables keep their columns; no HTML but the fold."""
    text = reports.as_markdown(hostile)
    tags = set(re.findall(r"<[^>]*>", text))
    assert tags == {"<details>", "<summary>", "</summary>", "</details>"}
    cells = 4
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == cells, line
        elif line.startswith(("### ", "<details>")):
            cells = 5 if line.startswith("### ") else 4  # failures have a column: how to mend them
    assert "\n# head" not in text
    assert text.index("❌") < text.index("✅")


def test_json_is_strict_and_has_everything(hostile):
    """Names, rules, outcomes, waivers, versions."""
    found = json.loads(reports.as_json((hostile, None)), parse_constant=pytest.fail)
    assert found["loss"] == HOSTILE
    assert found["passed"] is False
    assert [p["name"] for p in found["properties"]] == [r.property.name for r in hostile.results]
    waived = next(p for p in found["properties"] if p["status"] == "waived")
    assert waived["waiver"] == HOSTILE
    for found_property in found["properties"]:
        entry = PROPERTIES[found_property["name"]]
        assert found_property["level"] == entry.level
        failed = found_property["status"] == "failed"
        assert found_property["mend"] == (entry.mend if failed else None)
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
    assert "objective 19 passed, 5 skipped; robustness 8 passed" in capfd.readouterr().out
    assert run("losses_of_mine:fine", "--no-drift") == 0
    out, err = capfd.readouterr()
    assert "importing and running the code of losses_of_mine:fine" in err
    assert run("losses_of_mine:half_done", "--no-drift") == 0
    out, err = capfd.readouterr()
    assert "robustness" in out
    assert re.findall(r"^(\w+) +failed", out, re.M)
    assert run("losses_of_mine:half_done", "--no-drift", "--strict") == 1
    out, err = capfd.readouterr()
    failed = re.findall(r"^(\w+) +failed", out, re.M)
    assert f'--waive {failed[0]}="the reason"' in err
    text = " ".join(out.split())
    assert all(f"mend: {PROPERTIES[name].mend}" in text for name in failed)
    waivers = [f"--waive={name}=we know" for name in failed]
    assert run("losses_of_mine:half_done", "--no-drift", "--strict", *waivers) == 0
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
        ["dapo", "--clip", "0", "1"],
        ["dapo", "--like", "nothing"],
        ["losses_of_mine:fine", "--bind", "logp=nothing"],
        ["losses_of_mine:fine", "--bind", "logp=old_logp:nothing"],
        [],
        ["dapo", "--no-drift", "--json", "/proc/nowhere/x.json"],
    ):
        assert run(*bad) == 2, bad
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        lines = [s for s in err.splitlines() if "importing and running" not in s]
        assert len(lines) == 1
        assert lines[0].startswith("erc-bench: ")


def test_a_broken_objective_exits_with_one(folder, capfd):
    """Without --strict; several losses are checked in one command, and each file holds them all."""
    files = ["--json", "all.json", "--junit", "all.xml", "--markdown", "all.md"]
    assert run("losses_of_mine:fine", "losses_of_mine:wrong", "dapo", "--no-drift", *files) == 1
    assert '--waive on_policy_gradient="the reason"' in capfd.readouterr().err
    found = json.loads((folder / "all.json").read_text())
    assert [one["passed"] for one in found] == [True, False, True]
    assert ["objective_right" in one["badge"] for one in found] == [True, False, True]
    assert len(ElementTree.parse(folder / "all.xml").getroot()) == 3 * len(LEVELS)
    assert (folder / "all.md").read_text().count("## erc-bench check: ") == 3


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


def test_a_loss_that_asks_for_a_sampler_and_a_reference_can_be_trained():
    """Both are the old policy; with those the loss is the baseline's."""

    def loss(logp, old_logp, advantages, mask, ref_logp, rollout_logp):
        far = (rollout_logp - old_logp).abs().sum() + (ref_logp - old_logp).abs().sum()
        r = (logp - old_logp).exp()
        losses = -torch.minimum(r * advantages, r.clamp(0.8, 1.28) * advantages)
        return (losses * mask).sum() / mask.sum() + far

    found = comparison.compare(adapt(loss), "dapo", seeds=2)
    for row in found.rows:
        assert abs(row.difference.estimate) <= 1e-3 * abs(row.baseline), row


def test_a_loss_with_another_clip_differs_from_the_baseline():
    """The comparison sees what it is for: a clip at 2 % moves the policy less than one at 20 %."""
    narrow = load_loss("dapo", options={"clip_low": 0.02, "clip_high": 0.02})
    found = comparison.compare(narrow, "dapo", seeds=3)
    drift = {r.experiment: r for r in found.rows if r.measure == "exact KL"}
    assert all(row.loss < row.baseline for row in drift.values())
    assert found.diverged == (0, 0)
    assert found.runs == 9

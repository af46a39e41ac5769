"""``erc-bench claims`` and the report's section."""

import json
import re

import pytest

from analysis.synthetic_claims import PAPER, make_world
from erc_bench import api
from erc_bench.cli import main
from erc_bench.presentation.reporting import write_report


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("claims") / "r", only=[*PAPER, "stress"])


def test_the_command_prints_verdicts_and_writes_files(results, tmp_path, capfd):
    """Lines of at most 120 columns; the files hold what the function gives."""
    (results.path / "figures").mkdir(exist_ok=True)
    (results.path / "figures" / "fig4_clip_fractions.png").touch()
    files = tmp_path / "deep" / "claims.json", tmp_path / "claims.md"
    main(["claims", str(results.path), "--json", str(files[0]), "--markdown", str(files[1])])
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    for text in ("C1", "D3", "reproduced", "not measured: run erc-bench run baselines --tier full"):
        assert text in out
    data = json.loads(files[0].read_text())
    found = api.claims(results)
    assert [c["verdict"] for c in data["claims"]] == [v.verdict for v in found.verdicts]
    by = {(c["claim"], c["regime"]): c for c in data["claims"]}
    assert by["C4", "stress"]["figures"] == ["fig4_clip_fractions.png"]
    assert by["C1", "stress"]["figures"] == ["fig1", "fig6"]
    assert "0.02 % clipped, 20.29 % dropped" in files[1].read_text()


def test_bad_input_is_one_line_and_exit_code_two(results, tmp_path, capfd):
    for arguments, told in (
        ([str(tmp_path / "none")], "is not a folder"),
        ([str(results.path), "--json", "/proc/nowhere/x.json"], "cannot be written to"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["claims", *arguments])
        assert stop.value.code == 2
        err = capfd.readouterr().err
        assert err.count("\n") == 1
        assert told in err


def test_the_report_shows_the_verdicts_the_records_allow(results, tmp_path):
    """One row for each that was measured, with its class; what was not is listed, not tabled."""
    page = write_report(results, tmp_path / "report.html").read_text()
    section = re.search(r'<section id="claims">.*?</section>', page, re.DOTALL)
    assert section
    found = api.claims(results)
    measured = [v for v in found.verdicts if v.verdict != "not measured"]
    assert section[0].count('<th scope="row"') == len(measured)
    assert section[0].count('<td class="better">reproduced</td>') == sum(
        v.verdict == "reproduced" for v in measured
    )
    assert "erc-bench run baselines --tier full" in section[0]
    assert 'href="#claims"' in page


def test_a_report_without_anything_to_judge_has_no_section(tmp_path):
    only = make_world(tmp_path / "r", only=["mode_swap"])
    page = write_report(only, tmp_path / "report.html").read_text()
    assert 'id="claims"' not in page
    assert 'href="#claims"' not in page

import base64
import hashlib
import html
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote

import matplotlib.image
import pandas as pd
import pytest
from analysis.synthetic import ARMS, make_results
from matplotlib.figure import Figure

from erc_bench.analysis import MEASURES, interval_text, scores, summary
from erc_bench.analysis.tables import interval_of
from erc_bench.presentation.plots import FIGURES
from erc_bench.presentation.reporting import Gallery, write_figures, write_report
from erc_bench.presentation.reporting.html import headlines
from erc_bench.studies.records import InputError, Results

DRAWN = {
    "fig1_one_update",
    "fig2_entropy_gradient",
    "fig3_learning_curves",
    "fig4_clip_fractions",
    "fig5_probability_entropy",
    "fig6_ratios",
    "fig11_profiles",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "r"
    return make_results(path, seeds=6, tokens=80, diverged=(("gppo", 2),))


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "deep" / "report.html"
    assert write_report(results, path) == path
    return path.read_text()


class Reader(HTMLParser):
    """Attributes of every element, the tags' balance and the text."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, text):
        super().__init__()
        self.attributes, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_loads_nothing_from_elsewhere(page):
    assert len(re.findall(r"<script", page)) == 1  # our own, known by its hash
    for tag, key, value in Reader(page).attributes:
        if key in ("src", "href", "srcset", "data", "action", "poster"):
            assert value.startswith(("data:", "#")), (tag, key, value[:60])
    assert not re.search(r"url\((?!#)|@import|https?://", page)


def test_the_policy_in_the_page_allows_its_own_script_and_nothing_from_outside(page):
    policy = html.unescape(
        re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)[1]
    )
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe-eval" not in policy


def test_ids_are_distinct_and_what_figures_refer_to_is_there(page):
    attributes = Reader(page).attributes
    ids = [value for _, key, value in attributes if key == "id"]
    assert len(ids) == len(set(ids))
    wanted = {w for _, _, v in attributes for w in re.findall(r"url\(#([^)]+)\)", v)}
    wanted |= {v[1:] for tag, k, v in attributes if tag == "use" and k == "href"}
    assert wanted
    assert wanted <= set(ids)


def test_the_settings_of_a_grid_share_their_objectives_toggle(tmp_path):
    arms = ("dapo:epochs=1", "dapo:epochs=2", "erc-dapo:epochs=2")
    results = make_results(tmp_path / "r", experiments=("e",), arms=arms, seeds=2, tokens=10)
    text = write_report(results, tmp_path / "report.html").read_text()
    assert re.findall(r'<input [^>]*value="([^"]*)"', text) == ["dapo", "erc-dapo"]
    assert "objectives, 3 with their settings" in text


def test_links_within_the_page_have_targets(page):
    attributes = Reader(page).attributes
    ids = {value for _, key, value in attributes if key == "id"}
    assert {v[1:] for _, k, v in attributes if k == "href" and v.startswith("#")} <= ids


def test_the_tables_numbers_are_the_summarys(page, results):
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    for _, row in summary(results).iterrows():
        for measure in MEASURES:
            text = interval_text(interval_of(row, measure.key), measure.metric.scale)
            assert text.replace("-", "−") in cells


def test_diverged_runs_are_counted_in_the_table_and_the_summary(page):
    assert page.count('<td class="failed">1/6</td>') == 2
    assert "<b>2</b> diverged, counted as failures" in page


def test_best_marks_every_interval_that_overlaps_the_best(page, results):
    page = page.partition('<section id="experiments">')[2]
    row = re.search(r'title="erc-dapo".*?</tr>', page, re.DOTALL)
    assert row
    assert 'class="best">0.850 [0.850, 0.850]' in row[0]
    row = re.search(r'title="ppo-clip".*?</tr>', page, re.DOTALL)
    assert row
    assert 'class="best">0.7' not in row[0]


def test_the_scorecard_section_holds_every_score(page, results):
    section = page.partition('<section id="scorecard">')[2].partition("</section>")[0]
    found = scores(results)
    for objective in found.objectives:
        row = re.search(rf'title="{objective}".*?</tr>', section, re.DOTALL)[0]
        for experiment in found.experiments:
            text = interval_text(found.mean(experiment, objective))
            assert f"<td>{text}</td>" in row
        assert f"<td>{found.iqm(objective).value:.3f} (" in row


def test_without_scores_the_section_says_why(tmp_path):
    results = make_results(tmp_path / "r", experiments=("e",), arms=("dapo",), seeds=1, tokens=10)
    for part in (tmp_path / "r" / "runs").iterdir():
        pd.read_parquet(part).drop(columns="score").to_parquet(part)
    assert (
        "Not shown: the records have no scores"
        in write_report(results, tmp_path / "report.html").read_text()
    )


def test_every_figure_stands_in_the_page_with_a_text_alternative(page):
    figures = re.findall(r"<figure id=.*?</figure>", page, re.DOTALL)
    assert len(figures) >= len(DRAWN)
    for figure in figures:
        image = re.search(r'<div class="plate"[^>]*role="img"[^>]*>\s*<svg ', figure)
        assert image
        for key, least in (("labelledby", 8), ("describedby", 60)):
            named = re.search(rf'aria-{key}="([^"]*)"', image[0])[1]
            assert len(re.search(rf'id="{named}">(.*?)</(?:div|h3)>', figure, re.DOTALL)[1]) > least


def test_a_figure_is_drawn_once_for_each_picture_of_it(results, tmp_path, monkeypatch):
    """Half of what a small run takes is drawing: the layout, the other format and the report draw none."""
    drawn, draw = Counter(), Figure.draw

    def counted(figure, renderer):
        drawn[figure] += 1
        draw(figure, renderer)

    monkeypatch.setattr(Figure, "draw", counted)
    gallery = Gallery(results)
    assert not drawn
    write_figures(results, tmp_path / "figures", gallery)
    write_report(results, tmp_path / "report.html", gallery)
    assert drawn == {drawing.figure: 2 for drawing in gallery.drawings}  # a PNG and an SVG


def test_a_figure_has_the_number_that_claims_and_files_call_it_by(page, results):
    for drawing in Gallery(results).drawings:
        number = re.match(r"fig(\d+b?)_", drawing.name)[1]
        assert f">{number}. {html.escape(drawing.title)}</h3>" in page
        assert f'<a href="#{drawing.name}">{number}. ' in page


def test_every_figure_says_what_to_look_for_and_carries_its_data_or_says_why_not(page, results):
    for drawing in Gallery(results).drawings:
        figure = re.search(rf'<figure id="{drawing.name}".*?</figure>', page, re.DOTALL)[0]
        assert html.escape(drawing.notice, quote=False) in html.unescape(figure)
        assert len(drawing.notice) > 60
        data = re.search(r'href="data:text/csv;charset=utf-8,([^"]*)"', figure)
        table = pd.read_csv(io.StringIO(unquote(data[1]))) if data else None
        if table is None:
            assert "too large to carry" in figure
        else:
            assert list(table.columns) == list(drawing.data.columns)
            assert len(table) == len(drawing.data)


def test_names_from_outside_are_text(tmp_path):
    evil = "<script>alert(1)</script>"
    results = make_results(
        tmp_path / "r", experiments=(f"e{evil}",), arms=("dapo", f'"{evil}'), seeds=2, tokens=20
    )
    path = write_report(results, tmp_path / "report.html")
    text = path.read_text()
    assert text.count("<script") == 1
    assert "&lt;script&gt;" in text
    assert evil in Reader(text).text


def test_definitions_configuration_and_provenance_are_there(page, results):
    text = Reader(page).text
    for measure in MEASURES:
        assert f"{measure.metric.definition} {measure.metric.name}" in text
    assert json.dumps(results.config["experiments"]["forking_tokens"]["train"]["rollouts"]) in text
    assert results.provenance["python"] in text
    assert "What does forking_tokens ask?" in text
    assert "min(rA, clip(r)A)" in text


def test_one_seed_and_one_arm_still_make_a_report(tmp_path):
    results = make_results(tmp_path / "r", experiments=("e",), arms=("reinforce",), seeds=1)
    text = write_report(results, tmp_path / "report.html").read_text()
    assert "n=1" in text
    assert "Not drawn: fig1_one_update" in text
    assert 'class="best"' not in text
    assert not re.search(r"\bnan\b", Reader(text).text.lower())


def test_headlines_name_both_shares_and_the_verdict(results):
    sentences = headlines(results, summary(results))
    assert sum("times as many" in s for s in sentences) == 2
    pair = next(s for s in sentences if s.startswith("erc-dapo against dapo"))
    assert "final reward better in 2" in pair
    assert not any("nan" in s for s in sentences)


def test_the_sentence_on_one_experiment_has_units_difference_and_verdict(tmp_path):
    results = make_results(
        tmp_path / "r", experiments=("e",), arms=("dapo", "erc-dapo"), seeds=6, tokens=10
    )
    text = headlines(results, summary(results))[-1]
    assert text.startswith(
        "e, erc-dapo against dapo: final reward 0.85 against 0.75 (difference +0."
    )
    assert ": better)" in text
    assert " % against " in text


def test_headlines_of_one_seed_claim_no_interval(tmp_path):
    results = make_results(
        tmp_path / "r", experiments=("e",), arms=("dapo", "erc-dapo"), seeds=1, tokens=10
    )
    text = " ".join(headlines(results, summary(results)))
    assert "one seed, no interval" in text
    assert "±" not in text


def test_figures_come_with_data_captions_and_provenance(results, tmp_path):
    paths = write_figures(results, tmp_path / "figures")
    assert paths[-1].name == "figures.json"
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(p.name for p in paths)
    index = json.loads(paths[-1].read_text())
    drawn = {figure["name"] for figure in index["figures"]}
    assert drawn >= DRAWN
    assert drawn.isdisjoint(index["not_drawn"])
    assert drawn | set(index["not_drawn"]) == set(FIGURES)
    assert "radar" in index["not_drawn"]["fig9_scorecard"]  # two experiments are too few
    assert index["provenance"] == results.provenance
    for figure in index["figures"]:
        assert figure["caption"]
        for file in figure["files"]:
            assert (tmp_path / "figures" / file).stat().st_size > 500
    image = matplotlib.image.imread(tmp_path / "figures" / "fig2_entropy_gradient.png")
    assert image.shape[1] == pytest.approx(6.8 * 200, abs=2)
    curves = pd.read_csv(tmp_path / "figures" / "fig3_learning_curves.csv")
    assert set(curves["objective"]) == set(ARMS)


def test_figures_written_twice_are_the_same_bytes(tmp_path):
    results = make_results(
        tmp_path / "r", experiments=("e",), arms=("dapo", "erc-dapo"), seeds=2, tokens=60
    )
    one, two = (write_figures(results, tmp_path / d) for d in "ab")
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_records_without_a_finished_part_are_refused_and_nothing_is_written(tmp_path):
    results = Results.create(tmp_path / "r", {})
    with pytest.raises(InputError, match="no finished part"):
        write_report(results, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()

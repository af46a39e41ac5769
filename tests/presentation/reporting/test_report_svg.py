import re
import xml.etree.ElementTree as ET
from urllib.parse import quote

import pytest
from analysis.synthetic import make_results

from erc_bench.presentation.plots import ordered
from erc_bench.presentation.plots.style import GROUP
from erc_bench.presentation.reporting import Gallery
from erc_bench.presentation.reporting.svg import inline_svg
from erc_bench.studies.arms import stored_arm

HOSTILE = '"><script>-->'
ARMS = ("ppo-clip", "dapo", "erc-dapo:epochs=2", HOSTILE)
NUMBERS = {name: i for i, name in enumerate(("ppo-clip", "dapo", "erc-dapo", HOSTILE))}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "r"
    return Gallery(make_results(path, arms=ARMS, seeds=3, tokens=60))


@pytest.fixture(scope="module")
def files(gallery):
    return {d.name: gallery.bytes(d, "svg") for d in gallery.drawings}


def test_ids_in_a_file_are_distinct(files):
    for name, content in files.items():
        ids = re.findall(rb'\bid="([^"]*)"', content)
        assert len(ids) == len(set(ids)), name


def test_curves_name_the_objective_they_show(files):
    """One group per line, band and legend entry; names are quoted, settings left out."""
    for name in ("fig2_entropy_gradient", "fig3_learning_curves", "fig4_clip_fractions"):
        found = set(re.findall(rf'id="{re.escape(GROUP)}([^"]*)\.\d+"', files[name].decode()))
        assert found == {quote(n, safe="") for n in NUMBERS}, name


def test_every_group_becomes_its_objectives_number(files):
    """As many marks of each objective as the file has groups."""
    for name, content in files.items():
        text, shown = inline_svg(content, "p-", NUMBERS)
        marks = re.findall(r'data-o="(\d+)"', text)
        for objective, number in NUMBERS.items():
            group = re.escape(GROUP + quote(objective, safe=""))
            groups = re.findall(rf'id="{group}\.\d+"', content.decode())
            assert marks.count(str(number)) == len(groups), (name, objective)
        assert shown == set(map(int, marks))


def test_what_the_svg_refers_to_is_in_it_under_the_prefix(files):
    for content in files.values():
        text, _ = inline_svg(content, "p-", NUMBERS)
        ids = set(re.findall(r'\bid="([^"]*)"', text))
        referred = set(re.findall(r'href="#([^"]*)"', text)) | set(
            re.findall(r"url\(#([^)]*)\)", text)
        )
        assert ids == referred
        assert all(i.startswith("p-") for i in ids)


def test_shapes_keep_their_places_to_a_hundredth(files):
    """Paths of the same length at the same places: nothing is lost but digits."""
    for content in files.values():
        text, _ = inline_svg(content, "p-", NUMBERS)
        before, after = (
            [e.get("d") or "" for e in root.iter() if e.tag.endswith("path")]
            for root in (ET.fromstring(content), ET.fromstring(text.replace(" data-o", " o")))
        )
        assert len(before) == len(after)
        for a, b in zip(before, after, strict=True):
            old, new = ([float(x) for x in re.findall(r"-?[\d.]+(?:e-?\d+)?", d)] for d in (a, b))
            assert new == pytest.approx(old, abs=0.0051)
        assert len(text) < 0.9 * len(content)


def test_names_from_outside_do_not_reach_the_page(files):
    for content in files.values():
        text, _ = inline_svg(content, "p-", NUMBERS)
        assert "script" not in text
        assert "<!--" not in text
        assert "metadata" not in text


def test_every_drawing_has_the_same_marks_for_the_same_names(gallery):
    """Known names come in the fixed order, so that numbers do not depend on the records' order."""
    assert [arm.label for arm in ordered(map(stored_arm, NUMBERS))][:3] == [
        "ppo-clip",
        "dapo",
        "erc-dapo",
    ]
    assert all(d.notice.endswith(".") for d in gallery.drawings)

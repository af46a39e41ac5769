"""The report in a browser: a real results folder, and one whose every name is hostile."""

from __future__ import annotations

import json
import re
import shlex
from urllib.parse import quote

import pandas as pd
import pytest
from analysis.synthetic import make_results
from browser.conftest import PHONE

from erc_bench.analysis import MEASURES, scores, summary
from erc_bench.cli import main
from erc_bench.presentation.plots import ordered, read
from erc_bench.presentation.reporting import Gallery, write_report
from erc_bench.studies.arms import stored_arm
from erc_bench.studies.records import Results

RUN = [
    "run",
    "unsampled_shift",
    "forking_tokens",
    "--tier",
    "smoke",
    "--seeds",
    "2",
    "--workers",
    "1",
]


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """What a smoke tier of two experiments leaves behind."""
    out = tmp_path_factory.mktemp("report") / "smoke"
    main([*RUN, "--no-report", "--out", str(out)])
    return Results.open(out)


@pytest.fixture(scope="session")
def gallery(results):
    return Gallery(results)


@pytest.fixture(scope="session")
def report(results, gallery, tmp_path_factory):
    return write_report(results, tmp_path_factory.mktemp("page") / "report.html", gallery)


ORDER = "table => [...table.tBodies[0].rows].map(row => row.cells[0].textContent.trim())"


def expected_orders(results):
    """For each table in the page, its rows' values: a frame per table, rows in the page's order."""
    found = scores(results)
    names = sorted(found.objectives, key=lambda n: n not in found.ranked)
    yield pd.DataFrame(
        {"IQM": [found.iqm(n).value for n in names]}
        | {e: [found.mean(e, n).estimate for n in names] for e in found.experiments},
        index=names,
    )
    for _, rows in summary(results).groupby("experiment", sort=False):
        here = rows.set_index("objective")
        here = here.loc[[a.label for a in ordered(map(stored_arm, here.index))]]
        for group in ("learning", "drift"):
            columns = {m.key: here[f"{m.key}/estimate"] for m in MEASURES if m.group == group}
            first = {"diverged": here["diverged"] / here["seeds"]} if group == "learning" else {}
            yield pd.DataFrame(first | columns)


def test_every_column_sorts_as_pandas_sorts_the_means(opened, results, report):
    """First press: largest first; second: smallest first; third: the page's own order. Ties keep it."""
    page = opened(report)
    tables = page.locator("table.scores").all()
    expected = list(expected_orders(results))
    assert len(tables) == len(expected) == 5
    for table, frame in zip(tables, expected, strict=True):
        original = table.evaluate(ORDER)
        assert original == list(frame.index)
        heads = table.locator("thead th")
        assert heads.count() == frame.shape[1] + 1
        for place, column in enumerate(frame, start=1):
            head = heads.nth(place)
            for direction in ("descending", "ascending"):
                head.locator("button").click()
                assert head.get_attribute("aria-sort") == direction
                wanted = frame[column].sort_values(
                    ascending=direction == "ascending", kind="stable", na_position="last"
                )
                assert table.evaluate(ORDER) == list(wanted.index), (column, direction)
                assert table.locator("[aria-sort]").count() == 1
            head.locator("button").click()
            assert head.get_attribute("aria-sort") is None
            assert table.evaluate(ORDER) == original


def test_a_column_of_text_sorts_by_key(opened, report):
    page = opened(report)
    table = page.locator("table.scores").first
    table.locator("thead button").first.focus()
    page.keyboard.press("Enter")
    assert table.evaluate(ORDER) == sorted(table.evaluate(ORDER))
    page.keyboard.press("Space")
    assert table.evaluate(ORDER) == sorted(table.evaluate(ORDER), reverse=True)


def visible_rows(page):
    return {
        row.split("\n")[0].strip()
        for row in page.locator("table.scores tbody tr:visible th").all_inner_texts()
    }


def drawn(page, number):
    """Lines that the learning curves show: of one objective, and of the others."""
    return page.evaluate(
        """number => {
          const lines = [...document.querySelectorAll("#fig3_learning_curves svg [data-o] path")]
            .filter((line) => line.getClientRects().length);
          const own = lines.filter((line) => line.closest("[data-o]").dataset.o === number).length;
          return { own, others: lines.length - own };
        }""",
        number,
    )


def test_the_filter_hides_rows_and_marks_and_is_in_the_address(opened, report, results):
    page = opened(report)
    every = set(summary(results)["objective"])
    assert visible_rows(page) == every
    number = page.locator('#filter input[value="gppo"]').get_attribute("data-number")
    page.add_style_tag(content="figure { content-visibility: visible !important; }")
    before = drawn(page, number)
    assert before["own"] > 2  # lines in two panels and the legend's
    assert before["others"] > 2
    page.locator('#filter label:has(input[value="gppo"])').click()
    assert visible_rows(page) == every - {"gppo"}
    assert drawn(page, number) == {"own": 0, "others": before["others"]}
    assert page.locator("#shown").inner_text() == f"{len(every) - 1} of {len(every)} shown"
    shared = page.evaluate("location.hash")
    assert shared.startswith("#show=")
    assert "gppo" not in shared.removeprefix("#show=").split(",")
    page.locator("#filter button[value=none]").click()
    assert visible_rows(page) == set()
    page.locator("#filter button[value=all]").click()
    assert visible_rows(page) == every
    assert page.evaluate("location.hash") == ""
    assert visible_rows(opened(report, shared)) == every - {"gppo"}


def test_a_link_within_the_page_keeps_the_filter(opened, report):
    page = opened(report, "#show=dapo,erc-dapo")
    page.locator('.toc a[href="#definitions"]').first.click()
    page.wait_for_url(lambda url: url.endswith("#definitions&show=dapo,erc-dapo"))
    assert visible_rows(page) == {"dapo", "erc-dapo"}
    page = opened(report, "#fig3_learning_curves&show=dapo")
    top = page.locator("#fig3_learning_curves").evaluate("e => e.getBoundingClientRect().top")
    assert 0 <= top < 400


@pytest.mark.parametrize(
    "fragment",
    [
        "#show=",
        "#show=nobody",
        "#show=%E0%A4%A",
        "#%00&show=,,,",
        '#"><img src=x onerror=alert(1)>',
        "#show=" + quote("<img src=x onerror=alert(1)>"),
        "#__proto__&show=constructor",
        "#" + "&" * 500,
    ],
)
def test_hostile_fragments_do_nothing(opened, report, results, fragment):
    page = opened(report, fragment)
    wanted = set() if fragment == "#show=" else set(summary(results)["objective"])
    assert visible_rows(page) == wanted


def test_figures_that_cannot_be_filtered_say_so(opened, report):
    page = opened(report)
    for figure in page.locator("main figure").all():
        said = figure.get_by_text("the filter leaves it as it is").count()
        assert said == (figure.locator("svg [data-o]").count() == 0)


def test_a_figure_opens_larger_and_closes_by_key(opened, report, screenshot):
    page = opened(report, "#show=dapo,erc-dapo")
    figure = page.locator("#fig3_learning_curves")
    small = figure.locator("svg").bounding_box()["width"]
    button = figure.get_by_role("button", name="Enlarge")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Learning curves")
    assert dialog.locator("svg").bounding_box()["width"] > small
    dialog.get_by_role("button", name="Larger").click()
    assert dialog.locator("svg").bounding_box()["width"] > 1.4 * 1280
    screenshot(page, "report-dialog", full_page=False)
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert figure.locator("svg").bounding_box()["width"] == pytest.approx(small, abs=1)
    assert button.evaluate("e => e === document.activeElement")


def test_a_figure_and_its_data_can_be_saved(opened, report, gallery):
    page = opened(report, "#show=dapo,erc-dapo", accept_downloads=True)
    figure = page.locator("#fig3_learning_curves")
    with page.expect_download() as waiting:
        figure.get_by_role("button", name="Save as SVG").click()
    saved = waiting.value.path().read_text()
    assert waiting.value.suggested_filename == "fig3_learning_curves.svg"
    assert 'xmlns="http://www.w3.org/2000/svg"' in saved
    shown = set(re.findall(r'data-o="(\d+)"', saved))
    assert len(shown) == 2
    with page.expect_download() as waiting:
        figure.get_by_role("link", name="Its data").click()
    table = pd.read_csv(waiting.value.path())
    drawn = next(d.data for d in gallery.drawings if d.name == "fig3_learning_curves")
    pd.testing.assert_frame_equal(table, drawn.reset_index(drop=True), check_dtype=False, rtol=1e-5)


def test_the_command_that_made_the_records_can_be_copied(opened, results, tmp_path):
    arguments = ["run", "unsampled_shift", "--out", "my folder's `x` $HOME"]
    manifest = json.loads((results.path / "manifest.json").read_text())
    made = Results(results.path, results.config, manifest["provenance"] | {"arguments": arguments})
    page = opened(
        write_report(made, tmp_path / "report.html", _empty(results)),
        permissions=["clipboard-read", "clipboard-write"],
    )
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert shlex.split(copied) == ["erc-bench", *arguments]


def _empty(results):
    gallery = Gallery.__new__(Gallery)
    gallery.frames, gallery.drawings, gallery.skipped = read(results), [], {}
    return gallery


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, PHONE])
def test_the_page_fits_its_window_and_its_text_is_readable(
    opened, report, screenshot, scheme, viewport
):
    """No horizontal scrolling, first paint within three seconds on a busy machine, contrast from 4.5."""
    page = opened(report, viewport=viewport, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    # The page's security policy forbids `wait_for_function` to evaluate a second time.
    for _ in range(500):
        if page.evaluate("performance.getEntriesByName('first-contentful-paint').length"):
            break
        page.wait_for_timeout(20)
    assert (
        page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") < 3000
    )
    for fold in page.locator("details").all():
        fold.evaluate("fold => { fold.open = true; }")
    poor = page.evaluate(CONTRAST)
    assert poor == []
    screenshot(page, f"report-{scheme}-{viewport['width']}", full_page=False)


CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = channels(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll("body *:not(svg *):not(script)")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility()) continue;
    const [a, b] = [channels(getComputedStyle(e).color), ground(e)].map(luminance).sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push([e.tagName, e.className, e.textContent.slice(0, 40)]);
  }
  return poor;
}"""


def test_on_a_phone_tables_scroll_in_their_box_with_the_names_in_sight(opened, report):
    page = opened(report, viewport=PHONE)
    box = page.locator("#experiments .scroll").first
    name = box.locator("tbody th").first
    before = name.bounding_box()["x"]
    box.evaluate("box => { box.scrollLeft = 200; }")
    assert box.evaluate("box => box.scrollLeft") == 200
    assert name.bounding_box()["x"] == before


def test_everything_can_be_reached_by_key_and_has_a_name(opened, report):
    page = opened(report)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, [tabindex]")].filter((e) =>
            !(e.textContent.trim() || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby")
              || e.labels?.[0]?.textContent.trim())).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("#filter input").first.focus()
    page.keyboard.press("Space")
    assert "show=" in page.evaluate("location.hash")


def test_without_javascript_everything_is_there_and_nothing_that_cannot_work(
    opened, report, results, screenshot
):
    page = opened(report, java_script_enabled=False)
    assert page.locator("button:visible").count() == 0
    assert not page.locator("#filter").is_visible()
    names = [row.strip() for row in page.locator("table.scores tbody th:visible").all_inner_texts()]
    found = scores(results)
    assert len(names) == len(found.objectives) + 2 * len(summary(results))
    figures = page.locator("main figure").all()
    assert figures
    for figure in figures:
        figure.scroll_into_view_if_needed()  # those off screen are not drawn
        figure.locator("svg").wait_for(state="visible")
    screenshot(page, "report-no-script", full_page=False)


def test_on_paper_there_are_no_controls_and_nothing_is_cut(opened, report):
    page = opened(report)
    page.emulate_media(media="print")
    assert (
        page.locator(":not(thead *) > button:visible, .toc:visible, #filter:visible").count() == 0
    )
    assert page.locator(".scroll").first.evaluate("e => getComputedStyle(e).overflow") == "visible"
    # pages of JSON, with lines wider than paper, stay on the screen; a sentence says where they are
    assert not page.locator("#provenance details pre").is_visible()
    assert page.locator(".on-paper").is_visible()
    page.emulate_media(media="screen")
    assert not page.locator(".on-paper").is_visible()


HOSTILE = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror="window.hit=1">',
    "</script></style></svg><script>window.hit=1</script>",
    "erc-\u202edapo\u2066<b>",
    "]]>--><svg onload=window.hit=1>",
    "{{ 7 * 7 }} ${hit} ' onmouseover='window.hit=1",
)


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    """Every string that comes from outside, hostile at once."""
    folder = tmp_path_factory.mktemp("hostile")
    arms = (HOSTILE[0], "dapo", f"erc-{HOSTILE[1]}", HOSTILE[1], HOSTILE[2], HOSTILE[3], HOSTILE[5])
    made = make_results(
        folder / "r", experiments=HOSTILE[:2] + HOSTILE[4:5], arms=arms, seeds=2, tokens=30
    )
    config = json.loads(json.dumps(made.config))
    for entry in config["experiments"].values():
        entry["question"] = " ".join(HOSTILE)
        entry["objectives"] = {
            arm: {"equation": HOSTILE[1], "source": HOSTILE[2]} for arm in entry["objectives"]
        }
    provenance = made.provenance | {
        "arguments": ["run", *HOSTILE],
        "git_revision": HOSTILE[0],
        "packages": {HOSTILE[1]: HOSTILE[0]},
    }
    return write_report(Results(made.path, config, provenance), folder / "report.html")


def test_hostile_names_are_text_and_run_nothing(opened, hostile_report, screenshot):
    page = opened(hostile_report)
    for box in page.locator("#filter input").all():
        assert box.get_attribute("value")
    for button in page.locator(
        "#scorecard thead button:visible, #experiments thead button:visible"
    ).all():
        button.click()
    page.locator("#filter").evaluate("e => { e.querySelector('details').open = true; }")
    for label in page.locator("#filter label").all():
        label.click()
    page.reload()
    page.get_by_role("button", name="Enlarge").first.click()
    page.keyboard.press("Escape")
    assert page.evaluate("window.hit") is None
    assert (
        page.locator("img, main script, svg script, [onerror], [onload], [onmouseover]").count()
        == 0
    )
    assert page.locator("script").count() == 1
    text = page.evaluate("document.body.textContent")
    for name in (*HOSTILE[:3], *HOSTILE[4:]):
        assert name in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", text)
    assert "erc-⟨U+202E⟩dapo" in text
    screenshot(page, "report-hostile", full_page=False)


def test_hostile_names_stay_apart_in_the_filter(opened, hostile_report):
    page = opened(hostile_report, "#show=" + quote(HOSTILE[0], safe=""))
    shown = visible_rows(page)
    assert shown == {HOSTILE[0]}
    values = [b.get_attribute("value") for b in page.locator("#filter input").all()]
    assert len(values) == len(set(values)) == 7

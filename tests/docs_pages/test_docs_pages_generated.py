"""Generated pages say what objectives, environments and experiments are, and show what was measured."""

from __future__ import annotations

import inspect
import io
import json
import re

import numpy as np
import pytest
from extras import marked, needs_tasks
from PIL import Image

from erc_bench.objectives import RECIPES, make
from erc_bench.studies import EXPERIMENTS
from tools.docs_pages import curves, environments, experiments, objectives
from tools.docs_pages.constraints import PROBES, cells, facts
from tools.docs_pages.environments import ENVIRONMENTS
from tools.docs_pages.figure import draw, svg


@pytest.mark.parametrize("name", RECIPES)
def test_page_of_an_objective_says_what_it_is(name):
    """Sentence, equation, source, every parameter with its default, and every piece."""
    text, recipe, objective = objectives.objective_page(name), RECIPES[name], make(name)
    assert text.startswith(f"# {name}\n\n{recipe.description}\n")
    assert recipe.equation in " ".join(text.split())
    assert recipe.source in re.sub(r"\[(.*?)\]\(.*?\)", r"\1", text)
    for parameter, default in recipe.parameters.items():
        assert f"| `{parameter}` | `{default!r}` |" in text
        assert f"{parameter}={default!r}" in text
    for piece in (
        objective.surrogate,
        *objective.gates,
        *objective.regularizers,
        objective.aggregate,
    ):
        assert f"`{piece!r}`" in text
    assert f"](plots/{name}.svg)" in text
    assert f"](plots/{name}.json)" in text


@pytest.mark.parametrize("name", RECIPES)
def test_page_of_an_objective_names_its_constraints(name):
    """Each move that it constrains, with the share of the gradient that is left."""
    text = objectives.objective_page(name).partition("## Constraints")[2]
    for probe, found in cells(name).items():
        assert (f"{probe} ({found})" in text) == found.active


def test_tables_of_constraints_hold_what_was_measured():
    """Every share in the row of its objective and the column of its move; every distance of the moves."""
    text = objectives.constraints_page()
    for title, on_policy in (("## On-policy", True), ("## Off-policy", False)):
        section = text.partition(title)[2].partition("\n## ")[0]
        rows = [
            line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| [")
        ]
        names = [p.name for p in PROBES if p.on_policy == on_policy]
        assert f"| | {' | '.join(names)} |" in section.replace("|  |", "| |")
        assert [row[0] for row in rows] == [f"[`{name}`]({name}.md)" for name in RECIPES]
        for name, row in zip(RECIPES, rows, strict=True):
            assert row[1:] == [str(cells(name)[p]) for p in names]
    for probe in PROBES:
        assert f"| {probe.name} | {probe.what} | {' | '.join(facts(probe).values())} |" in text


@pytest.mark.parametrize("name", RECIPES)
def test_figure_is_drawn_from_measured_weights(name):
    """Every corner of a line is a measured point, and the data beside the figure are those points."""
    panels = curves.measure(name)
    for ax, panel in zip(draw(panels).axes, panels, strict=True):
        lines = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
        for label, weights in zip(("A > 0", "A < 0"), panel.weights, strict=True):
            drawn = lines[label][~np.isnan(lines[label]).any(1)]
            measured = dict(zip(panel.x, weights, strict=True))
            assert len(drawn) > 1
            assert all(measured[x] == y for x, y in drawn)
    for stored, panel in zip(json.loads(curves.as_json(panels)), panels, strict=True):
        assert (stored["axis"], stored["old_probability"]) == (panel.axis, panel.probability)
        pairs = zip(
            (stored["x"], stored["A > 0"], stored["A < 0"]), (panel.x, *panel.weights), strict=True
        )
        for found, expected in pairs:
            np.testing.assert_allclose(np.array(found, dtype=float), expected, rtol=0, atol=1e-6)


def test_figures_are_small():
    """A page of the site loads quickly."""
    assert len(svg(draw(curves.measure("tv-gate-dapo")))) < 150_000


@pytest.mark.parametrize("name", ["dapo", "gspo", "ppo-kl", "erc-dapo"])
def test_other_responses_change_no_weight_of_what_looks_at_one_response(name, monkeypatch):
    """So only objectives that choose among a batch's tokens are measured beside other responses."""
    alone = curves.measure(name)
    plain = curves.gradient_weights
    monkeypatch.setattr(
        curves, "gradient_weights", lambda o, rows: plain(o, [*rows, *curves.context()])
    )
    for panel, among in zip(alone, curves.measure.__wrapped__(name), strict=True):
        np.testing.assert_allclose(panel.weights, among.weights, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spec", marked(ENVIRONMENTS))
def test_page_of_an_environment_says_what_it_is(spec):
    """Summary, optimum, every option with its default, and the experiments that use it."""
    text, dynamics = environments.page(spec), ENVIRONMENTS[spec]
    assert text.startswith(f"# {dynamics.__name__}\n")
    assert f"| {dynamics().optimal_return:.4g} |" in text
    for option in inspect.signature(dynamics).parameters.values():
        assert f"| `{option.name}` | `{option.default!r}` |" in text
    for name, entry in EXPERIMENTS.items():
        assert (f"(../experiments.md#{name}): {entry.question}" in text) == (
            entry.environment == spec
        )


@needs_tasks
def test_pictures_of_environments_are_their_frames():
    """Pixel by pixel."""
    files = environments.pages()
    for spec, dynamics in ENVIRONMENTS.items():
        made = dynamics()
        name = environments.page_name(spec).replace(".md", ".png")
        assert f"](images/{name})" in files[f"environments/{environments.page_name(spec)}"]
        with Image.open(io.BytesIO(files[f"environments/images/{name}"])) as picture:
            frame = made.render_frame(environments.episode(made))
            np.testing.assert_array_equal(np.asarray(picture), frame)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_page_of_the_experiments_says_what_each_is(name):
    """Question, expectation, score, and all arms."""
    entry = EXPERIMENTS[name]
    section = experiments.page().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    for text in (entry.question, entry.expectation, entry.score_meaning, *entry.objectives):
        assert text in section


def test_indexes_lead_to_every_page():
    """An objective, an environment or an experiment that is registered is listed."""
    assert all(f"]({name}.md)" in objectives.index_page() for name in RECIPES)
    assert all(f"]({environments.page_name(s)})" in environments.index() for s in ENVIRONMENTS)
    assert all(f"](#{name})" in experiments.page() for name in EXPERIMENTS)

"""Every number on the teaching page beside the library's own, in float64 with autograd."""

import numpy as np
import pytest
from browser.explain_pages import compare, hidden_numbers, move
from browser.explain_reference import OBJECTIVES, PRESETS, filled, link, reference

#: shown whatever the state
ALWAYS = {
    "r",
    "rho",
    "kl",
    "kl.reverse",
    "tv",
    "tv.hidden",
    "entropy.old",
    "entropy.new",
    "value",
    "weight",
    "pull",
    "p.old.0",
    "p.new.0",
    "logit.logits.0",
    "t.0.r",
    "t.0.rho",
    "t.0.kl",
    "t.0.tv",
    "set.advantage",
    "set.step",
    "set.updates",
    "set.clip.low",
    "set.clip.high",
    "set.band",
    "set.actions",
    "bound.clip.low",
    "bound.clip.high",
    "bound.band.low",
    "bound.band.high",
    "delta",
}


def states(objective, *, shared, count, seed):
    """Random states: every vocabulary, both signs, small and reckless steps, near and far starts."""
    rng = np.random.default_rng([seed, OBJECTIVES.index(objective), shared])
    for k in range(count):
        actions = 2 + k % 7

        def logits(n=actions):
            return [round(float(z), 3) for z in rng.uniform(-4, 4, n)]

        old = logits()
        near = [round(float(np.clip(z + rng.normal(0, 0.4), -5, 5)), 3) for z in old]
        state = {
            "objective": objective,
            "logits": old,
            "start": (None, near, logits())[k % 3],
            "action": int(rng.integers(actions)) + 1,
            "advantage": 0.0 if k == 5 else round(float(rng.uniform(-3, 3)), 1),
            "step": round(float(rng.choice([0.05, 0.3, 2.0]) * rng.uniform(0.3, 1)), 3),
            "updates": int(rng.integers(17)),
            "band": round(float(rng.uniform(0.01, 0.5)), 2),
        }
        if k % 2:
            state["clip"] = [
                round(float(rng.uniform(0.01, 0.99)), 2),
                round(float(rng.uniform(0.01, 2)), 2),
            ]
        if shared:
            state |= {"second": logits(), "cosine": round(float(rng.uniform(-0.95, 0.95)), 2)}
        yield state


@pytest.mark.parametrize("shared", [False, True], ids=["one state", "two states"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_numbers_are_the_librarys(opened, explain_page, objective, shared):
    """Everything displayed equals what ``make(...)``, autograd and ``drift`` give a user, to 1e-9."""
    page = opened(explain_page)
    acted = set()
    for state in states(objective, shared=shared, count=21, seed=1):
        move(page, link(state))
        expected = reference(state)
        shown = compare(page, expected, state)
        per_update = {f"t.{k}.{m}" for k in range(state["updates"] + 1) for m in ("r", "kl")}
        assert shown >= ALWAYS | per_update
        if shared:
            assert shown >= {"kl2", "kl.reverse2", "tv2", "entropy.new2", "p2.new.1", "rho2"}
        acted |= {flag for flag in ("bound", "dropped", "hidden") if expected[flag]}
    # the states reach what tells the objectives apart
    assert {"reinforce": "hidden"}.get(objective, "bound") in acted
    assert ("dropped" in acted) == objective.startswith("erc")


@pytest.mark.parametrize(
    ("state", "ratio", "entropy"),
    [
        (
            {"start": [3.0, 0.7, 0.0, -0.4], "advantage": 0.0},
            "without an advantage",
            "no gradient to drop",
        ),
        (
            {"start": [3.0, 0.7, 0.0, -0.4], "advantage": -1.0},
            "this gradient leads back",
            "keeps what leads back",
        ),
        (
            {"start": [4.0, 0.7, 0.0, -0.4]},
            "the clip binds: no gradient",
            "the gate drops the gradient",
        ),
        ({"start": [1.6, 0.7, 0.0, -0.4]}, "inside the clip range", "inside the band"),
    ],
)
def test_the_gauges_say_what_happens(opened, explain_page, state, ratio, entropy):
    """In words, under the needle, as the library's flags and the gradient's sign have it."""
    state = {"objective": "erc-directional-dapo", "updates": 0, **state}
    page = opened(explain_page, link(state))
    expected = reference(state)
    compare(page, expected, state)
    assert ratio in page.locator("#says-r").inner_text()
    assert entropy in page.locator("#says-rho").inner_text()
    assert expected["bound"] == ("binds:" in ratio)
    assert expected["dropped"] == ("drops" in entropy)
    assert ("leads back" in ratio) <= (expected["weight"] * (expected["r"] - 1) < 0)


def test_nothing_is_a_negative_zero(opened, explain_page):
    """A number that rounds to zero has no sign; one that does not has a true minus."""
    page = opened(explain_page)
    state = {"logits": [-0.004, -0.5], "action": 2, "advantage": -0.01, "updates": 1}
    move(page, link(state))
    compare(page, reference(state), state)
    assert page.locator("[data-key='logit.logits.0']").inner_text() == "0.00"
    assert page.locator("[data-key='logit.logits.1']").inner_text() == "\N{MINUS SIGN}0.50"
    assert page.locator("#out-advantage").inner_text() == "0.0"


@pytest.mark.parametrize("name", PRESETS)
def test_the_numbers_of_every_preset(opened, explain_page, name):
    """A preset by its name shows what its state stands for."""
    page = opened(explain_page, f"#preset={name}")
    compare(page, reference(PRESETS[name]), PRESETS[name])
    assert not page.locator("#note").is_visible()


def test_a_number_never_shows_without_its_value(opened, explain_page):
    """No digits in the readings, formula, gauges or course but those of a checked number."""
    page = opened(explain_page)
    for state in ("swap", "shared", "stuck", "gppo", "tour"):
        move(page, f"#preset={state}")
        assert hidden_numbers(page) == []


@pytest.mark.parametrize("name", ["tour", "swap", "shared", "stuck"])
def test_bars_are_as_high_as_their_probabilities(opened, explain_page, name):
    """Old, new and moved bars against the plot's height and scale; unsampled mass alone is hatched."""
    page = opened(explain_page, f"#preset={name}")
    state = filled(PRESETS[name])
    expected = reference(PRESETS[name])
    for suffix in ("", "2") if state["second"] else ("",):
        old, new = (
            [expected[f"p{suffix}.{kind}.{i}"] for i in range(len(state["logits"]))]
            for kind in ("old", "new")
        )
        full = 1.0 if max(old + new) > 0.5 else 0.5
        plot = page.locator(".bars").nth(1 if suffix else 0).bounding_box()["height"]
        moved = [
            abs(n - o) * (suffix == "2" or i != state["action"] - 1)
            for i, (o, n) in enumerate(zip(old, new, strict=True))
        ]
        for kind, values in {"old": old, "new": new, "moved": moved}.items():
            for i, p in enumerate(values):
                bar = page.locator(f'[data-bar="{kind}{suffix}.{i}"]').bounding_box()["height"]
                assert bar == pytest.approx(p / full * plot, abs=0.6), (kind, suffix, i)
        change = sum(abs(n - o) for o, n in zip(old, new, strict=True))
        assert expected[f"tv.hidden{suffix}"] == pytest.approx(sum(moved) - change / 2, abs=1e-12)

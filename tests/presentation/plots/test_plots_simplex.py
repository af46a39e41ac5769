"""Figure 12: regions against closed forms, updates against the expected gradient's own, and the drawing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from presentation.plots.test_plots_figures import assert_legible

from erc_bench.objectives import make
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.simplex import (
    FIGURE,
    OLD,
    SHOWN,
    STARTS,
    STEP,
    SWAPPED,
    UPDATES,
    VALUES,
    allowed,
    outline,
    step,
)
from erc_bench.presentation.reporting.captions import captioned

P = np.array(OLD)


def entropy(q):
    return -(q * np.log(q)).sum(-1)


def kl(q):
    return (P * np.log(P / q)).sum(-1)


#: How far inside its rule each recipe leaves a policy q; at the rule's edge it is 0.
MARGIN = {
    "dapo": lambda q: np.minimum(q / P - 0.8, 1.28 - q / P).min(-1),
    "gppo": lambda q: np.minimum(q / P - 0.8, 1.2 - q / P).min(-1),
    "dppo-tv": lambda q: 0.15 - np.abs(q - P).max(-1),
    "erc-dapo": lambda q: 0.05 - np.abs(entropy(q) / entropy(P) - 1),
    "erc-directional-dapo": lambda q: 0.05 - np.abs(entropy(q) / entropy(P) - 1),
    "kl-gate-dapo": lambda q: 0.01 - kl(q),
}


def frames_of(*recipes):
    runs = pd.DataFrame({"experiment": "e", "objective": recipes, "seed": 0})
    return Frames(runs, runs, runs, {})


@pytest.fixture(scope="module")
def drawing():
    frames = frames_of(*SHOWN, "grpo")
    return captioned(FIGURE(frames), frames)


@pytest.mark.parametrize("name", SHOWN)
@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.float64, (20, 3), elements=st.floats(0.01, 1)))
def test_what_is_allowed_is_the_rules_closed_form(name, weights):
    """Ratios, probabilities, entropy ratio and exact KL, written out."""
    q = weights / weights.sum(-1, keepdims=True)
    margin = MARGIN[name](q)
    clear = np.abs(margin) > 1e-9
    assert (allowed(make(name), q) == (margin > 0))[clear].all()


@pytest.mark.parametrize("name", SHOWN)
def test_the_boundary_is_where_the_margin_is_zero_or_an_action_impossible(name):
    """To 1e-6; one closed curve around the old policy, and a second one inside the band's ring."""
    found = outline(make(name))
    assert len(found) == (2 if name.startswith("erc-") else 1)
    for line in found:
        np.testing.assert_array_equal(line[0], line[-1])
        at_edge = line.min(-1) < 1e-6
        assert (np.abs(MARGIN[name](np.maximum(line, 1e-12)))[~at_edge] < 1e-6).all()


def test_only_a_band_on_the_entropy_allows_a_swap():
    """The blind spot: 0.21 nats of exact KL away, and the ratio of the third action is 1."""
    swapped = np.array([SWAPPED])
    blind = [name for name in SHOWN if allowed(make(name), swapped).item()]
    assert blind == ["erc-dapo", "erc-directional-dapo"]


def test_a_step_is_the_policy_gradients_where_no_rule_acts():
    """At the old policy: logits move by STEP p_a A_a, with A the scaled advantage."""
    advantage = np.array(VALUES) - (P * VALUES).sum()
    advantage /= np.sqrt((P * advantage**2).sum()) + 1e-6
    logits = np.log(P) + STEP * P * advantage
    expected = np.exp(logits) / np.exp(logits).sum()
    for name in SHOWN:
        np.testing.assert_allclose(step(make(name), P[None])[0], expected, rtol=1e-9)


def test_paths_end_where_their_rules_hold_them(drawing):
    """Outside the band ERC moves nothing, the directional gate leads back, GPPO is never held."""
    paths = drawing.data[drawing.data.kind == "path"]
    ends = paths[paths.updates == UPDATES].set_index(["objective", "line"])[["p1", "p2", "p3"]]
    sure = len(STARTS) - 1  # the start of too little entropy
    assert MARGIN["erc-dapo"](np.array(STARTS[sure])) < 0
    np.testing.assert_allclose(ends.loc["erc-dapo", sure], STARTS[sure])
    assert MARGIN["erc-dapo"](ends.loc["erc-directional-dapo", sure].to_numpy(float)) > -0.05
    assert (ends.loc["gppo"].p3 > 0.95).all()
    assert kl(ends.loc["kl-gate-dapo", 0].to_numpy(float)) < 0.05


def test_recipes_that_ran_have_a_panel_and_no_others(drawing):
    """Every text is legible with one panel and with all."""
    assert list(dict.fromkeys(drawing.data.objective)) == list(SHOWN)
    assert_legible(drawing.figure)
    one = FIGURE(frames_of("erc-dapo", "grpo"))
    assert set(one.data.objective) == {"erc-dapo"}
    assert_legible(one.figure)
    with pytest.raises(NothingToDraw, match=r"none of dapo, .* was trained here"):
        FIGURE(frames_of("grpo"))


def test_the_words_name_the_blind_rules_and_the_starts_that_stay(drawing):
    """Computed from the table."""
    assert "erc-dapo and erc-directional-dapo cannot tell (0.3, 0.6, 0.1) from" in drawing.notice
    assert "0.21 nats" in drawing.notice
    assert "erc-dapo 2, erc-directional-dapo 0, kl-gate-dapo 3" in drawing.caption

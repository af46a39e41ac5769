"""What the lesson and the answers say is true of the presets they say it about."""

import re
from html import unescape

import pytest
from browser.explain_reference import PRESETS, claimed, reference

from erc_bench.presentation.explain import assemble

CLAIM = re.compile(r'<b data-claim="([^"]+)">([^<]*)</b>')
TEXTS = re.findall(r"<article.*?</article>|<li>\s*<h3>.*?</li>", assemble(), flags=re.DOTALL)
CLAIMS = [(unescape(address), text) for part in TEXTS for address, text in CLAIM.findall(part)]
#: Digits that name actions, states, settings or a question's own givens.
NAMES = re.compile(
    r"[Aa]ctions? \d|[Ss]tate \d|A = 1\.|A > 0|step of size 2 |update 1, and look|needles at 1\."
    r"|updates to 1 |cosine to 0,"
    r"|KL above 0\.01 while|from \(0\.7, 0\.2, 0\.1\) to \(0\.2, 0\.7, 0\.1\)"
)


def at(preset, **changes):
    return reference({**PRESETS[preset], **changes})


@pytest.mark.parametrize(("address", "text"), CLAIMS, ids=[a for a, _ in CLAIMS])
def test_a_quoted_number_is_the_librarys(address, text):
    """Rounded to the digits that are quoted."""
    state, key = claimed(address)
    digits = len(text.partition(".")[2])
    assert float(text) == pytest.approx(float(reference(state)[key]), abs=0.5 * 10**-digits + 1e-12)


def test_no_number_is_quoted_without_a_claim():
    """Nine steps and five questions; other digits than claims are names."""
    assert len(TEXTS) == 9 + 5
    for part in TEXTS:
        plain = re.sub(r"<[^>]+>", "", CLAIM.sub("", part))
        text = " ".join(unescape(plain).split())
        assert not re.search(r"\d", NAMES.sub("", text)), text


def test_the_clip_stops_and_does_not_pull_back():
    """After the clip binds every later policy is the same, outside the range; the gradient is 0."""
    shown = at("clip")
    first = shown["first.bound"]
    assert first < PRESETS["clip"]["updates"]
    rest = {shown[f"t.{k}.r"] for k in range(first, PRESETS["clip"]["updates"] + 1)}
    assert len(rest) == 1
    assert rest.pop() > shown["bound.clip.high"]
    assert shown["weight"] == 0


def test_a_hidden_violation_and_the_same_ratio_at_a_rare_action():
    """At equal ratios the rare action costs less divergence."""
    likely = at("hidden")
    assert likely["hidden"]
    logits = PRESETS["hidden"]["logits"]
    assert at("hidden", logits=[-2.0, *logits[1:]])["kl"] < 0.01  # as the step asks one to try
    rare = [at("hidden", logits=[-2.0, *logits[1:]], updates=k) for k in range(17)]
    closest = min(rare, key=lambda s: abs(s["r"] - likely["r"]))
    assert closest["r"] == pytest.approx(likely["r"], rel=0.1)
    assert closest["kl"] < 0.2 * likely["kl"]
    assert not closest["hidden"]


def test_a_state_that_was_never_visited_moves():
    """State 1 inside the trust region and the clip, state 2 outside; with the cosine's size and sign."""
    shown = at("shared")
    assert shown["kl"] <= 0.01 < shown["kl2"]
    assert not shown["bound"]
    before = shown["p2.old.0"]
    assert at("shared", cosine=0.0)["p2.new.0"] == pytest.approx(before, abs=1e-12)
    assert at("shared", cosine=-0.5)["p2.new.0"] < before < shown["p2.new.0"]


def test_the_band_against_no_band():
    """ERC ends inside the trust region where DAPO leaves it, and drops from the quoted update on."""
    gated, free = at("band"), at("hidden")
    assert PRESETS["band"]["logits"] == PRESETS["hidden"]["logits"]
    assert gated["kl"] < 0.01 < free["kl"]
    assert gated["dropped"]
    assert gated["t.2.kl"] == gated["t.4.kl"]


def test_the_first_update_is_free():
    """Under ERC, DAPO or no clip at all it is the same, and a large step leaves every range."""
    ends = [
        at("first", updates=1, objective=o)["r"]
        for o in ("erc-dapo", "dapo", "ppo-clip", "reinforce")
    ]
    assert ends == pytest.approx([ends[0]] * 4, abs=1e-12)
    far = at("first", updates=1, step=2.0)
    assert far["r"] > far["bound.clip.high"]
    assert far["rho"] < far["bound.band.low"]
    assert far["kl"] > 0.01
    assert at("first", updates=1)["rho"] > far["bound.band.low"]


def test_gppo_has_the_clips_value_and_a_gradient():
    """At one policy their values agree; only GPPO's gradient is not 0 where the clip binds."""
    assert PRESETS["gppo"]["updates"] == PRESETS["clip"]["updates"] == 8
    far = [1.2, 1.6, 0.2, 0.0, -0.4]
    ppo, gppo = (at(name, start=far, updates=0) for name in ("clip", "gppo"))
    assert ppo["value"] == gppo["value"] == pytest.approx(1.2)
    assert (ppo["weight"], gppo["weight"]) == (0, pytest.approx(1.2))
    assert gppo["bound"]


def test_the_lost_restoring_force():
    """ERC never moves; directional ERC returns into the band, and is dropped where it leaves below."""
    erc, directional = at("stuck"), at("restored")
    last = PRESETS["stuck"]["updates"]
    assert {k: v for k, v in PRESETS["stuck"].items() if k not in ("objective", "compare")} == {
        k: v for k, v in PRESETS["restored"].items() if k not in ("objective", "compare")
    }
    assert erc["t.0.rho"] == erc[f"t.{last}.rho"] > 1.05
    assert erc["slope"] < 0  # the gradient would lower the entropy
    assert erc["dropped"]
    band = [k for k in range(last + 1) if 0.95 < directional[f"t.{k}.rho"] < 1.05]
    assert band
    assert directional["first.dropped"] > band[-1]
    assert directional["rho"] < 0.95
    assert at("stuck", objective="dapo")["rho"] < directional["rho"] < 1 < erc["rho"]
    assert directional["kl"] < 0.01 < erc["kl"]


def test_the_swap():
    """Both ratios are 1; half of the mass has moved, none of it sampled."""
    shown = at("swap")
    assert shown["r"] == pytest.approx(1, abs=1e-12)
    assert shown["rho"] == pytest.approx(1, abs=1e-12)
    assert shown["tv"] == pytest.approx(0.5, abs=1e-12)
    assert shown["tv.hidden"] == pytest.approx(0.5, abs=1e-12)
    assert [shown[f"p.old.{i}"] for i in range(3)] == pytest.approx([0.7, 0.2, 0.1], abs=1e-9)
    assert [shown[f"p.new.{i}"] for i in range(3)] == pytest.approx([0.2, 0.7, 0.1], abs=1e-9)
    assert shown["hidden"]
    assert not shown["dropped"]

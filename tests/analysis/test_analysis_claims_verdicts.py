"""Verdicts on records of a known world: every claim true, then false or inconclusive by one change."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.synthetic_claims import PAPER, make_world
from erc_bench.analysis.claims import as_data, assess, claims_markdown, load, unmeasured_lines

SEQUENCES = ("forking_tokens", "arithmetic")


def rule(name):
    (claim,) = [c for c in load().claims if c.id == name]
    return claim


def verdict(results, claim, regime="paper"):
    """By the rule of that claim alone: claims do not depend on each other."""
    found = assess(results, replace(load(), claims=(rule(claim),))).verdicts
    return next(v for v in found if v.regime == regime)


def world_of(path, claim, **changes):
    """Only the experiments that a claim asks for."""
    places = {e for p in rule(claim).parts for names in p.experiments.values() for e in names}
    return make_world(path, only=sorted(places), **changes)


def test_in_a_world_made_true_every_claim_holds_in_every_regime(tmp_path):
    found = assess(make_world(tmp_path / "r"))
    for v in found.verdicts:
        if v.claim.id != "D3":
            assert v.verdict == v.claim.words[0], (v.claim.id, v.regime, v.because)
    assert len({v.claim.id for v in found.verdicts}) == 10
    assert found.verdicts[-1].verdict == "erc-dapo: helps; erc-directional-dapo: helps"
    assert unmeasured_lines(found) == []
    swap = [r for r in found.rows if r.experiment == "mode_swap"]
    assert [r.verdict for r in swap] == ["no"]


def scaled(column, factor, *, where=None, arms=("dapo",), spread=0.0):
    """Multiply a column in some experiments and arms; with ``spread`` by seeds at random."""

    def change(experiment, label, frame):
        if (where is None or experiment in where) and label.partition(":")[0] in arms:
            noise = np.random.default_rng(len(experiment)).normal(size=len(frame))
            frame[column] = frame[column] * factor * np.exp(spread * noise)

    return change


HIDDEN, DROPPED = "mean/drift/hidden_violation_fraction", "mean/gate/dropped_fraction"
BOUND, KL = "mean/clip/ratio_bound_fraction", "mean/drift/kl_exact"
ENTROPY, NORM = "jitter/drift/entropy_new", "jitter/grad/norm"
ERC, DIRECTIONAL, FLOOR = (
    ("erc-dapo",),
    ("erc-directional-dapo",),
    "mean/drift/out_of_band_fraction",
)
REWARD = "reward/final"
RIVALS = ("gspo",)

FALSE = [
    ("C1", scaled(HIDDEN, 0.5, where=("rare_reward",))),
    ("C1", scaled(HIDDEN, 0.5, where=("stress",), arms=("ppo-clip",)), "stress"),
    ("C3", scaled(ENTROPY, 3, arms=ERC)),
    ("C3", scaled(NORM, 3, arms=("erc-gppo",))),
    ("C4", scaled(BOUND, 10, where=SEQUENCES)),
    ("C4", scaled(DROPPED, 3, where=("arithmetic",), arms=ERC)),
    ("C4", scaled(DROPPED, 0.1, where=("staleness",), arms=ERC), "sweep"),
    ("C6", scaled(REWARD, 0.8, arms=ERC)),
    ("C6", scaled(REWARD, 0.8, where=("stress",), arms=("erc-gppo",)), "stress"),
    ("C7", scaled(REWARD, 1.2, arms=RIVALS)),
    ("D1", scaled(REWARD, 0.8, arms=DIRECTIONAL)),
    ("D1", scaled(KL, 1.5, arms=DIRECTIONAL)),
    ("D1", scaled(HIDDEN, 1.4, arms=DIRECTIONAL)),
    ("D2", scaled(FLOOR, 0.1, arms=ERC), "sweep"),
]


@pytest.mark.parametrize("case", FALSE, ids=lambda c: f"{c[0]}-{FALSE.index(c)}")
def test_one_planted_fault_makes_a_claim_fail_and_no_other_regime(tmp_path, case):
    claim, change, regime = (*case, "paper")[:3]
    found = verdict(world_of(tmp_path / "r", claim, runs=change), claim, regime)
    assert found.verdict == found.claim.words[1], found.because


NOISY = [
    ("C1", scaled(HIDDEN, 0.05 / 0.07, arms=("ppo-clip",), spread=0.2)),
    ("C3", scaled(NORM, 2, arms=("erc-dapo",), spread=0.5)),
    ("C4", scaled(BOUND, 4.5, where=SEQUENCES, spread=0.4)),
    ("C6", scaled(REWARD, 0.886, arms=("erc-dapo",), spread=0.4)),
    ("C7", scaled(REWARD, 1.05, arms=RIVALS, spread=0.3)),
    ("D1", scaled(KL, 1.1, arms=DIRECTIONAL, spread=0.6)),
    ("D2", scaled(FLOOR, 0.2, arms=ERC, spread=0.5), "sweep"),
]


@pytest.mark.parametrize("case", NOISY, ids=lambda c: c[0])
def test_an_interval_that_straddles_the_threshold_is_inconclusive(tmp_path, case):
    claim, change, regime = (*case, "paper")[:3]
    found = verdict(world_of(tmp_path / "r", claim, runs=change), claim, regime)
    assert found.verdict == "inconclusive", found.because
    assert found.missing == {}


def shuffled(column, arm, only=None):
    """Give an arm's tokens another token's value: the column then knows nothing."""

    def change(experiment, label, frame):
        if label.partition(":")[0] == arm and (only is None or experiment == only):
            frame[column] = np.random.default_rng(0).permutation(frame[column])

    return change


def exchanged(experiment, label, frame):
    frame[["log_ratio", "log_entropy_ratio"]] = frame[["log_entropy_ratio", "log_ratio"]].to_numpy()


def test_claims_on_tokens_fail_and_are_inconclusive(tmp_path):
    """C2: a score that sees less fails, one that sees as little is inconclusive; C5 likewise."""
    worse = make_world(tmp_path / "a", only=PAPER, tokens=exchanged)
    assert verdict(worse, "C2").verdict == "not reproduced"
    equal = make_world(tmp_path / "b", tokens=shuffled("log_entropy_ratio", "dapo", "arithmetic"))
    assert verdict(equal, "C2").verdict == "inconclusive"
    assert verdict(equal, "C2", "stress").verdict == "reproduced"

    def reversed_entropy(experiment, label, frame):
        frame["entropy/old"] = 3 - frame["entropy/old"]

    high = make_world(tmp_path / "c", tokens=reversed_entropy)
    assert verdict(high, "C5").verdict == "not reproduced"
    chance = make_world(tmp_path / "d", tokens=shuffled("entropy/old", "erc-dapo"))
    assert verdict(chance, "C5").verdict == "inconclusive"


def test_an_improvement_below_the_smallest_effect_is_none(tmp_path):
    """C6: a narrow interval around 0 and below +1 pp fails, though it does not exclude 0."""

    def same_but_little(experiment, label, frame):
        if label in ("dapo", "erc-dapo"):
            rng = np.random.default_rng(len(label + experiment))
            frame[REWARD] = 0.7 + 0.02 * rng.normal(size=len(frame))

    found = verdict(make_world(tmp_path / "r", runs=same_but_little), "C6")
    row = next(r for r in found.deciding if r.arms == ("dapo", "erc-dapo"))
    assert row.interval.low < 0 < row.interval.high < 0.01
    assert found.verdict == "not reproduced"


def test_fewer_than_twenty_seeds_decide_nothing(tmp_path):
    """However clear the numbers; and every row says how many it has."""
    found = assess(make_world(tmp_path / "r", seeds=19))
    for v in found.verdicts[:-1]:
        assert v.verdict == "inconclusive"
        assert "19 of 20 seeds" in v.because
    assert found.verdicts[-1].verdict.count("no difference found") == 2
    assert {row.holds for row in found.rows} == {None}
    assert all("19 of 20 seeds" in row.note for row in found.rows if row.part.holds)


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path):
    """A claim cannot hold on a selection of its experiments, whatever they say; it can fail."""
    results = make_world(tmp_path / "r", only=[n for n in (*PAPER, "stress") if n != "rare_reward"])
    found = assess(results)
    lines = dict(line.split(" ", 1) for line in unmeasured_lines(found))
    assert lines["C7"] == "not measured: run erc-bench run baselines --tier full"
    assert (
        lines["C1"]
        == "not measured: run erc-bench run rare_reward arithmetic staleness --tier full"
    )
    by = {(v.claim.id, v.regime): v for v in found.verdicts}
    assert by["C7", "paper"].verdict == "not measured"
    assert by["C1", "paper"].verdict == "inconclusive"
    assert by["C6", "paper"].verdict == "inconclusive"
    assert "lacks rare_reward, arithmetic" in by["C6", "paper"].because
    assert by["C1", "stress"].verdict == "reproduced"
    fails = make_world(tmp_path / "f", only=PAPER, runs=scaled(HIDDEN, 0.3))
    assert verdict(fails, "C1").verdict == "not reproduced"
    partial = make_world(tmp_path / "p", only=PAPER, runs=scaled(REWARD, 0.5, arms=ERC))
    assert verdict(partial, "C6").verdict == "inconclusive"  # not the mean that was asked for


def test_a_missing_arm_or_column_is_named(tmp_path):
    results = make_world(tmp_path / "r", arms=lambda label: "gppo" not in label)
    assert "no arms gppo and erc-gppo" in " ".join(unmeasured_lines(assess(results)))
    assert verdict(results, "C6").verdict == "inconclusive"

    def without(experiment, label, frame):
        del frame["jitter/grad/norm"]

    old = make_world(tmp_path / "old", only=["stress"], runs=without)
    assert "no column jitter/grad/norm" in " ".join(unmeasured_lines(assess(old)))


def test_pairing_is_by_seed(tmp_path):
    """Seeds carried to another run of the same arm widen the interval."""

    def turned(experiment, label, frame):
        if label.startswith("erc-dapo"):
            frame["seed"] = np.roll(frame["seed"], 7)

    rows = [
        verdict(make_world(tmp_path / name, runs=change), "C6", "stress").deciding[0]
        for name, change in (("paired", None), ("turned", turned))
    ]
    paired, turned = (row.interval.high - row.interval.low for row in rows)
    assert turned > 2 * paired


def diverge(count, recipe, where):
    def change(experiment, label, frame):
        if label.partition(":")[0] == recipe and experiment in where:
            frame.loc[: count - 1, "diverged"] = True
            frame.loc[: count - 1, "reward/final"] = 99.0  # whatever was recorded does not count

    return change


def test_a_diverged_run_earns_nothing(tmp_path):
    """Three of thirty leave the typical improvement of 5 pp, forbid its verdict, and are shown."""
    found = verdict(
        make_world(tmp_path / "r", runs=diverge(3, "erc-dapo", ["stress"])), "C6", "stress"
    )
    row = found.deciding[0]
    assert row.diverged == (0, 3)
    assert row.interval.estimate == pytest.approx(0.05, abs=0.01)
    assert "erc-dapo may collapse in 10 % more of the seeds" in row.note
    assert found.verdict == "inconclusive"


def lost(count, recipes, where):
    def change(experiment, label, frame):
        if label.partition(":")[0] in recipes and experiment in where:
            frame["reward/collapsed"] = np.arange(len(frame)) < count
            frame.loc[: count - 1, "reward/final"] = 0.0

    return change


@pytest.mark.parametrize(
    ("count", "recipes", "seeds", "expected"),
    [
        (0, ERC, 30, "reproduced"),
        (1, ERC, 30, "inconclusive"),
        (0, ERC, 28, "inconclusive"),  # too few to exclude one in ten
        (1, ERC, 60, "reproduced"),
        (8, ("dapo", "gppo"), 20, "reproduced"),
    ],
)
def test_a_better_score_holds_only_if_collapse_allows_it(tmp_path, count, recipes, seeds, expected):
    world = make_world(
        tmp_path / "r", only=["stress"], seeds=seeds, runs=lost(count, recipes, ["stress"])
    )
    assert verdict(world, "C6", "stress").verdict == expected


def test_a_worse_score_fails_only_if_collapse_of_the_base_allows_it(tmp_path):
    """Worse by 15 pp in the typical run, while the base collapses in three of thirty."""

    def both(experiment, label, frame):
        scaled(REWARD, 0.8, arms=ERC)(experiment, label, frame)
        lost(3, ("dapo",), ["stress"])(experiment, label, frame)

    found = verdict(make_world(tmp_path / "r", only=["stress"], runs=both), "C6", "stress")
    assert found.verdict == "inconclusive"
    assert any("dapo may collapse" in row.note for row in found.deciding)


def test_records_that_do_not_say_who_collapsed_are_judged_by_their_mean(tmp_path):
    """5 pp cannot be shown by a bounded mean, 50 pp can."""

    def unknown(gain):
        def change(experiment, label, frame):
            del frame["reward/collapsed"]
            if label.startswith("erc-"):
                frame[REWARD] = np.minimum(frame[REWARD] + gain, 1.0)
            frame[REWARD] -= 0.2 * (gain > 0) + 0.2 * (gain > 0)

        return change

    for gain, expected in ((0.0, "inconclusive"), (0.5, "reproduced")):
        world = make_world(tmp_path / str(gain), only=["stress"], runs=unknown(gain))
        found = verdict(world, "C6", "stress")
        assert found.verdict == expected
        widths = [row.interval.high - row.interval.low for row in found.deciding]
        assert min(widths) > 0.1


COLLAPSE = """
version = 1
[rules]
level = 0.95
collapse = 0.1
seeds = 20
false_discovery_rate = 0.05
tokens = 5
[[claim]]
id = "X"
title = "collapse"
statement = "gppo collapses, and erc-gppo less often"
paper = ""
figures = []
[[claim.part]]
name = "share that collapses"
statistic = "mean"
columns = ["reward/collapsed"]
unit = "%"
decides = "every"
arms = [["gppo"]]
holds = { above = 0.1 }
experiments = { stress = ["stress"] }
[[claim.part]]
name = "change of collapse"
statistic = "mean-difference"
columns = ["reward/collapsed"]
unit = "pp"
decides = "every"
arms = [["gppo", "erc-gppo"]]
holds = { below = 0.0 }
experiments = { stress = ["stress"] }
[[claim.part]]
name = "steadiness"
statistic = "ratio"
columns = ["jitter/grad/norm"]
unit = "times"
decides = "no"
arms = [["gppo", "erc-gppo"]]
holds = { below = 1.0 }
experiments = { stress = ["stress"] }
"""


def test_collapse_is_decided_by_exact_tests_and_one_seed_may_decide(tmp_path):
    """8 of 20 against none: 0.4 [0.19, 0.64] as Clopper and Pearson, p = 2 / 2^8 as McNemar."""
    (tmp_path / "rules.toml").write_text(COLLAPSE)
    rules = load(tmp_path / "rules.toml")

    def rows(count):
        changes = lost(count, ("gppo",), ["stress"])
        world = make_world(tmp_path / str(count), only=["stress"], seeds=20, runs=changes)
        return assess(world, rules).rows

    share, change, steady = rows(8)
    exact = stats.binomtest(8, 20).proportion_ci()
    assert (share.interval.low, share.interval.high) == pytest.approx((exact.low, exact.high))
    assert change.p == pytest.approx(2 / 2**8)
    assert [row.verdict for row in (share, change, steady)] == ["reproduced", "reproduced", "yes"]
    assert not any("one seed decides" in row.note for row in (change, steady))
    _, change, _ = rows(6)  # p = 2 / 2^6 = 0.031, and 0.063 without one of the six
    assert (change.verdict, change.note) == ("reproduced", "one seed decides")


def test_an_arm_that_diverges_more_often_is_not_steadier(tmp_path):
    """C3 looks at updates before divergence: the row says so and cannot hold."""
    results = make_world(tmp_path / "r", runs=diverge(1, "erc-gppo", ["stress"]))
    found = verdict(results, "C3", "stress")
    assert found.verdict == "inconclusive"
    assert any("erc-gppo diverged in 1 runs, its base in 0" in r.note for r in found.deciding)
    base = make_world(tmp_path / "b", runs=diverge(1, "gppo", ["stress"]))
    assert verdict(base, "C3", "stress").verdict == "reproduced"


def test_runs_without_violations_have_no_value_and_are_counted(tmp_path):
    def none_left(experiment, label, frame):
        if experiment == "stress" and label == "dapo":
            frame.loc[:14, ["mean/drift/violation_fraction", HIDDEN]] = 0.0
        if experiment == "staleness":
            frame[["mean/drift/violation_fraction", HIDDEN]] = 0.0

    results = make_world(tmp_path / "r", runs=none_left)
    found = verdict(results, "C1", "stress")
    row = found.deciding[0]
    assert (row.interval.n, row.without) == (15, 15)
    assert "15 of 20 seeds; 15 of 30 without a value" in row.note
    assert found.verdict == "inconclusive"
    sweep = verdict(results, "C1", "sweep")
    assert (sweep.verdict, {r.verdict for r in sweep.deciding}) == ("inconclusive", {"no value"})
    assert "no run has a value" in sweep.because


def test_the_phase_diagram_says_where(tmp_path):
    """One cell made worse, one equal: counted, and located by updates per rollout and step size."""

    def cells(experiment, label, frame):
        if experiment == "phase_diagram" and label.startswith("erc-dapo"):
            if "learning_rate=0.002,epochs=4" in label:
                frame["reward/final"] -= 0.2
            if "learning_rate=0.001,epochs=1" in label:
                frame["reward/final"] -= 0.05

    found = verdict(make_world(tmp_path / "r", runs=cells), "D3", "sweep")
    assert found.verdict == "erc-dapo: helps and hurts; erc-directional-dapo: helps"
    assert "worse in 1 of 4 cells" in found.because
    assert "worse at 32 updates, learning_rate=0.002" in found.because
    assert len(found.deciding) == 8  # the band of 0.2 is not of this claim
    assert all("band=0.2" not in label for row in found.deciding for label in row.arms)


def test_points_of_a_grid_are_paired_with_each_other(tmp_path):
    """epochs=1 with epochs=1; an arm without a band stands beside every band."""
    found = verdict(make_world(tmp_path / "r", only=["staleness"]), "C6", "sweep")
    assert [row.arms for row in found.deciding] == [
        ("dapo:epochs=1", "erc-dapo:epochs=1"),
        ("dapo:epochs=4", "erc-dapo:epochs=4"),
    ]
    assert [row.point for row in found.deciding] == ["8 updates", "32 updates"]


def test_the_noise_floor_is_related_to_the_drop_rate(tmp_path):
    """5 % out of band against 20 % dropped: a quarter."""
    found = assess(make_world(tmp_path / "r", only=["precision", "forking_tokens"]))
    rows = [r for r in found.rows if r.part.statistic == "value-to-reference"]
    jitters = ("0", "0.01", "0.03")
    assert [r.point for r in rows] == [f"rollout_jitter={j}" for j in jitters]
    for row in rows:
        assert row.interval.estimate == pytest.approx(0.25, rel=0.1)
        assert row.verdict == ""


def test_json_and_markdown_hold_every_row(tmp_path):
    """Strict JSON, one entry for each verdict and row; the same numbers in Markdown."""
    found = assess(make_world(tmp_path / "r"))
    data = json.loads(json.dumps(as_data(found), allow_nan=False))
    assert len(data["claims"]) == len(found.verdicts)
    assert len(data["rows"]) == len(found.rows)
    for claim in load().claims:
        assert {c["title"] for c in data["claims"] if c["claim"] == claim.id} == {claim.title}
    text = claims_markdown(found)
    assert text.count("\n| C") + text.count("\n| D") == len(found.verdicts) + len(found.rows)
    assert "0.02 % clipped, 20.29 % dropped" in text


STEADIES = """
version = 1
[rules]
level = 0.95
collapse = 0.1
seeds = 20
false_discovery_rate = 0.05
tokens = 5
[[claim]]
id = "S"
title = "a mask keeps its base from collapsing"
statement = "erc-gppo collapses less often where gppo does"
paper = ""
figures = []
words = ["holds", "does not hold"]
[[claim.part]]
name = "change of collapse"
statistic = "mean-difference"
columns = ["reward/collapsed"]
unit = "pp"
decides = "cells"
arms = [["gppo", "erc-gppo"]]
holds = { below = 0.0 }
steadies = true
experiments = { breaking = ["forking_tokens", "stress"] }
"""


@pytest.mark.parametrize(
    ("where", "word", "told"),
    [
        ((), "nothing to steady here", "the base is not shown to collapse"),
        (
            ("stress",),
            "erc-gppo: helps",
            "1 cell (better at stress); nothing to steady in 1 row",
        ),
        (("stress", "forking_tokens"), "erc-gppo: helps", "better in 2, worse in 0 of 2 cells"),
    ],
)
def test_where_the_base_is_stable_there_is_nothing_to_steady(tmp_path, where, word, told):
    """Nine of thirty bases collapse, or one: which shows nothing of more than a tenth."""
    (tmp_path / "rules.toml").write_text(STEADIES)

    def change(experiment, label, frame):
        lost(9 if experiment in where else 1, ("gppo",), ("stress", "forking_tokens"))(
            experiment, label, frame
        )

    world = make_world(tmp_path / "r", only=["stress", "forking_tokens"], runs=change)
    (found,) = assess(world, load(tmp_path / "rules.toml")).verdicts
    assert found.verdict == word
    assert told in found.because
    rows = {row.experiment: row for row in found.deciding}
    assert {e for e, row in rows.items() if row.verdict == "nothing to steady here"} == {
        "stress",
        "forking_tokens",
    } - {*where}
    assert all(math.isfinite(row.interval.low) for row in rows.values())

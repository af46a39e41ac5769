import math

import pandas as pd
import pytest
from analysis.synthetic import make_results

from erc_bench.analysis import out_of_band_to_bound, summary
from erc_bench.presentation.reporting.findings import counts, findings, headlines
from erc_bench.presentation.reporting.html import visible
from erc_bench.presentation.reporting.sections import sort_keys


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "r"
    made = make_results(path, seeds=3, tokens=20, diverged=(("gppo", 2),))
    for part in (path / "metrics").iterdir():  # the experiments differ
        metrics = pd.read_parquet(part)
        other = metrics["experiment"] == "forking_tokens"
        metrics.loc[other, "drift/out_of_band_fraction"] *= 0.5
        metrics.to_parquet(part)
    return made


def test_the_lead_gives_the_range_of_the_contrasts(results):
    found = findings(results, summary(results))
    experiments = list(dict.fromkeys(summary(results)["experiment"]))
    ratios = {e: out_of_band_to_bound(results, e).ratio.estimate for e in experiments}
    low, high = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
    assert found.lead.startswith(f"{ratios[low]:,.3g} to {ratios[high]:,.3g} times as many tokens")
    assert f"least in {low}, most in {high}" in found.lead
    assert f"over {len(experiments)} experiments" in found.lead


def test_no_finding_is_lost_between_the_lead_and_the_fold(results):
    found = findings(results, summary(results))
    assert sorted([*found.shown, *found.folded]) == sorted(headlines(results, summary(results)))
    assert all("against" in sentence for sentence in found.shown)


def test_one_experiment_leads_with_its_own_sentence(tmp_path):
    made = make_results(
        tmp_path / "r", experiments=("e",), arms=("dapo", "erc-dapo"), seeds=2, tokens=10
    )
    found = findings(made, summary(made))
    assert not found.lead
    assert found.shown == headlines(made, summary(made))


def test_points_of_a_grid_are_folded(tmp_path):
    arms = ("dapo:epochs=2", "erc-dapo:epochs=2")
    made = make_results(tmp_path / "r", experiments=("e", "f"), arms=arms, seeds=2, tokens=10)
    found = findings(made, summary(made))
    assert not found.lead
    assert not found.shown
    assert found.folded


def test_counts_are_the_records(results):
    found = {word: number for number, word in counts(results, summary(results))}
    assert found["runs"] == str(len(results.read("runs")))
    assert found["diverged, counted as failures"] == "2"
    assert found["seeds"] == "3"


def test_keys_keep_all_digits_and_leave_out_what_is_missing():
    assert sort_keys([0.1 + 0.2, math.nan, math.inf, -1e-12]) == "0.30000000000000004,,,-1e-12"


@pytest.mark.parametrize("name", ["\u202e", "\u2066", "\u200f", "\x07", "\ud800", "\u00ad"])
def test_invisible_characters_are_shown(name):
    assert visible(f"a{name}b") == f"a⟨U+{ord(name):04X}⟩b"
    assert visible("Größe ρ ± 1\n") == "Größe ρ ± 1\n"

import pytest
from planted_faults import FAULTS, as_trl, as_verl, built

from erc_bench.conformance import PROPERTIES, adapt, check
from erc_bench.conformance.checking import check_property
from erc_bench.objectives import RECIPES, EntropyRatio, PPOClip, make
from erc_bench.objectives.aggregates import TokenMean

SIGNATURES = {"plain": lambda core: core, "verl": as_verl, "TRL": as_trl}


def per_token(logp, old_logp, advantages, mask):
    """The loss of each token; the suite aggregates."""
    from planted_faults import dual, ppo, ratio  # noqa: PLC0415

    clean = [x.masked_fill(~mask, 0.0) for x in (logp, old_logp.detach(), advantages.detach())]
    return dual(ppo(ratio(*clean[:2]), clean[2], clean[0]), clean[2])


def on_token_batch(batch):
    """Of our TokenBatch; returns the loss with metrics."""
    return TokenMean()(PPOClip(0.2, 0.28)(batch), batch.mask), {"metric": 0.0}


class Module:
    """A callable object made without arguments."""

    def __init__(self, low=0.2):
        self.low = low

    def __call__(self, mask, advantage, logp, old_logp):
        return per_token(logp, old_logp, advantage, mask)


ORIGINALS = {
    **{name: wrap(built()) for name, wrap in SIGNATURES.items()},
    "per token": per_token,
    "TokenBatch": on_token_batch,
    "Objective": make("erc-dapo", band_high=0.1),
    "builder": lambda: make("dapo").gated(EntropyRatio(0.1, 0.2)),
    "class": Module,
}


def failed(report):
    return {r.property.name: r.message for r in report.results if r.status == "failed"}


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_unmutated_losses_pass(name):
    """In every supported signature, at both levels."""
    report = check(adapt(ORIGINALS[name], name=name))
    assert failed(report) == {}
    assert report.count("waived") == 0
    if name in SIGNATURES:
        assert report.count("skipped") == 0


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_property_that_names_it(fault, signature):
    """Each with a message that holds a number or the field."""
    if (fault, signature) == ("advantage changed in place", "TRL"):
        pytest.skip("one advantage per response is expanded: torch itself refuses to write to it")
    wanted, pieces = FAULTS[fault]
    loss = adapt(SIGNATURES[signature](built(**pieces)))
    result = check_property(loss, wanted)
    assert result.status == "failed", result.message
    assert len(result.message) > 20
    assert "raised" not in result.message


def test_every_property_has_a_planted_fault():
    """No check that cannot fail."""
    assert {wanted for wanted, _ in FAULTS.values()} == set(PROPERTIES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_or_says_why_not(name):
    """With the exemptions it declares, and only where it needs them."""
    report = check(adapt(RECIPES[name].build, name=name))
    assert failed(report) == {}
    for result in report.results:
        assert (result.status == "waived") == bool(result.reason)


def test_few_recipes_need_exemptions():
    """A new one is looked at by a person."""
    exempt = {name: set(adapt(r.build, name=name).exemptions) for name, r in RECIPES.items()}
    assert {name for name, reasons in exempt.items() if reasons} <= {
        "clip-cov",
        "kl-cov",
        "high-entropy-only",
        "placebo-erc-dapo",
        "m2po",
        "drpo",
    }

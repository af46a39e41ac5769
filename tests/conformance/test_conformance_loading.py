import pytest
import torch
from planted_faults import as_verl, built

from erc_bench.conformance import PROPERTIES, adapt, check, load_loss, probes
from erc_bench.conformance.loading import load, pairs, value
from erc_bench.core.errors import InputError
from erc_bench.objectives import make

MODULE = """
import torch
from dataclasses import dataclass

def mine(logp, old_logp, advantages, mask, clip=0.2):
    r = (logp - old_logp.detach()).clamp(-20, 20).exp()
    a = advantages.detach()
    return -torch.minimum(r * a, r.clamp(1 - clip, 1 + clip) * a)

def unknown(x, y): return x
def needs(logp, advantage, mask, temperature): return -(logp * advantage) * temperature
def wrong_shape(logp, advantage, mask): return logp.sum(0)
def crashes(logp, advantage, mask): raise KeyError("boom")
number = 3
class Holder:
    inner = staticmethod(mine)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    return tmp_path


@pytest.mark.parametrize(
    "spec", ["my_losses:mine", "my_losses.py:mine", "./my_losses.py:Holder.inner"]
)
def test_a_function_is_found_in_a_module_or_a_file(folder, spec):
    """From the current folder; dotted attributes too."""
    assert load_loss(spec).kind == "by name"


REFUSED = [
    ("dappo", {}, ["'dappo' is unknown", "did you mean"]),
    ("my_losses.mine", {}, ["names no function", "module:function"]),
    ("my_losses:", {}, ["not module:function"]),
    ("my_losses:nothing", {}, ["my_losses has no 'nothing'", "mine"]),
    ("nowhere:mine", {}, ["importing nowhere failed", "ModuleNotFoundError"]),
    ("nowhere.py:mine", {}, ["nowhere.py is not a file"]),
    ("broken:mine", {}, ["importing broken failed", "nothing_of_that_name"]),
    ("leaves:mine", {}, ["importing leaves failed", "SystemExit: 3"]),
    ("my_losses:number", {}, ["is of type int", "TRL-like"]),
    ("my_losses:unknown", {}, ["'x' of (x, y) is not known", "verl's"]),
    ("my_losses:needs", {}, ["'temperature'", "--set temperature=VALUE"]),
    ("my_losses:wrong_shape", {}, ["returned shape (5,)", "(6, 5)"]),
    ("my_losses:crashes", {}, ["failed: KeyError", "boom", "my_losses.py:13"]),
    ("my_losses:mine", {"nothing": 1}, ["'nothing' is no parameter", "clip"]),
    ("dapo", {"nothing": 1}, ["'nothing' is no parameter", "clip_low"]),
    ("dapo", {"clip_low": -1.0}, ["PPOClip.low: -1"]),
]


@pytest.mark.parametrize(("spec", "options", "told"), REFUSED)
def test_what_cannot_be_checked_is_refused_in_one_line(folder, spec, options, told):
    """Says what is wrong, and what is supported where that helps."""
    with pytest.raises(InputError) as refused:
        load_loss(spec, options=options)
    for text in told:
        assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_options_reach_functions_builders_and_verl_configurations(folder):
    """``--set`` changes what is measured."""
    wide = check(load_loss("my_losses:mine", options={"clip": 0.5}))
    assert "A > 0 clipped from r = 1.5" in message(wide, "clip_restoring_side")
    recipe = check(load_loss("dapo", options={"clip_high": 1.0}))
    assert "A > 0 clipped from r = 2" in message(recipe, "clip_restoring_side")

    def of_verl(old_log_prob, log_prob, advantages, response_mask, config=None):
        r = (log_prob - old_log_prob).clamp(-20, 20).exp()
        low, high = config.clip_ratio_low, config.get("clip_ratio_high", 0.2)
        return -torch.minimum(r * advantages, r.clamp(1 - low, 1 + high) * advantages)

    found = check(adapt(of_verl, options={"clip_ratio_high": 1.0}))
    assert "A > 0 clipped from r = 2" in message(found, "clip_restoring_side")


def message(report, name):
    return next(r.message for r in report.results if r.property.name == name)


def test_an_unknown_verl_setting_says_how_to_give_it():
    """One line with the option."""

    def loss(old_log_prob, log_prob, advantages, response_mask, config=None):
        return -(log_prob * advantages * config.tau)

    with pytest.raises(
        InputError, match=r"config\.tau is unknown here; give it with --set config\.tau=VALUE"
    ):
        adapt(loss)
    assert adapt(loss, options={"tau": 1.0})


def test_verl_gets_integer_masks_and_counts_only_for_micro_batches():
    """As verl 0.9 does."""
    seen = []

    def loss(
        old_log_prob,
        log_prob,
        advantages,
        response_mask,
        loss_agg_mode="token-mean",
        config=None,
        rollout_is_weights=None,
    ):
        seen.append((response_mask.dtype, config.global_batch_info["batch_num_tokens"]))
        assert rollout_is_weights.shape == log_prob.shape
        return (-(log_prob * advantages) * response_mask).sum()

    adapted = adapt(loss)
    fields = probes.tokens()
    seen.clear()
    adapted(probes.rows(fields, torch.arange(2)), fields)
    adapted(fields)
    assert [(dtype, None if n is None else int(n)) for dtype, n in seen] == [
        (torch.int64, 18),
        (torch.int64, None),
    ]


def test_the_adapted_objective_is_the_objective():
    """Same loss, same gradient, bit for bit, as calling it on a TokenBatch."""
    from erc_bench.core.batch import TokenBatch  # noqa: PLC0415

    fields = probes.tokens()
    found = adapt(make("erc-dapo")).evaluate(fields)
    logp = fields["logp"].clone().requires_grad_()
    loss, _ = make("erc-dapo")(TokenBatch(**{**fields, "logp": logp}))
    (gradient,) = torch.autograd.grad(loss, logp)
    assert torch.equal(found.loss, loss)
    assert torch.equal(found.gradient["logp"], gradient)
    assert bool((gradient != 0).any())


@pytest.mark.parametrize("name", ["token-mean", "sequence-mean", "sequence-sum"])
def test_losses_per_token_are_reduced_by_the_stated_aggregate(name):
    """And the report names that aggregate back, found from the gradient."""

    def loss(logp, advantage, mask):
        return -(logp * advantage.detach())

    told = {
        "token-mean": "token-mean",
        "sequence-mean": "sequence-mean of token-means",
        "sequence-sum": "sequence-mean of token-sums",
    }
    assert told[name] in message(check(adapt(loss, aggregate=name)), "on_policy_gradient")


def test_waivers_need_a_known_name_and_a_reason():
    """They apply to failures, and say so where they were not needed."""
    loss = adapt(as_verl(built(reduce=lambda x, mask, count: x.mean())), name="mean of slots")
    before = {r.property.name: r.status for r in check(loss).results}
    waivers = {n: "known" for n, status in before.items() if status == "failed"}
    report = check(loss, waive={**waivers, "dual_clip": "not here"})
    after = {r.property.name: r for r in report.results}
    assert report.passed
    assert all(after[n].status == "waived" for n in waivers)
    assert all(after[n].reason == "known" for n in waivers)
    assert after["dual_clip"].status == "passed"
    assert "its waiver is not needed" in after["dual_clip"].message
    with pytest.raises(
        InputError, match=r"property: 'nothing' is unknown \(known: scalar_finite_loss"
    ):
        check(loss, waive={"nothing": "x"})
    with pytest.raises(InputError, match="dual_clip has no reason"):
        check(loss, waive={"dual_clip": " "})


def test_pairs_and_values_of_the_command_line():
    """Literals where they are some, text otherwise; malformed ones are named."""
    assert pairs("set", ["a=1", "b = x=y"]) == {"a": "1", "b": "x=y"}
    assert [value(t) for t in ("1e-3", "None", "(1, 2)", "x y")] == [1e-3, None, (1, 2), "x y"]
    for bad in (["a"], ["=1"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(InputError, match="set: 'a"[:5]):
            pairs("set", bad)


def test_the_global_random_state_is_left_alone():
    """A loss that draws numbers changes nobody's stream."""
    before = torch.random.get_rng_state()
    check(adapt(lambda logp, advantage, mask: -(logp * advantage) * torch.rand(())))
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_property_states_a_rule_and_a_reason():
    """They make the documentation."""
    for entry in PROPERTIES.values():
        assert entry.rule.endswith(".")
        assert entry.why.endswith((".", ".)"))
        assert entry.catches
        assert load("dapo")


def test_the_band_can_be_stated_where_no_parameter_says_it():
    """A symmetric band is expected otherwise; an asymmetric one cannot be judged."""
    from planted_faults import rho  # noqa: PLC0415

    def of_band(low, high, upside_down=False):
        core = built(rho=(lambda new, old: rho(old, new)) if upside_down else rho)

        def loss(logp, old_logp, advantage, mask, entropy, old_entropy, ref_logp, rollout_logp):
            entropies = entropy, old_entropy
            given = logp, old_logp, advantage, mask, *entropies, ref_logp, rollout_logp
            return core(*given, None, low, high)

        return loss

    def outcome(loss, **options):
        found = check(adapt(loss, **options)).results
        return next((r.status, r.message) for r in found if r.property.name == "gate_direction")

    assert outcome(of_band(0.1, 0.1))[0] == "passed"
    assert "upside down" in outcome(of_band(0.1, 0.1, upside_down=True))[1]
    assert outcome(of_band(0.1, 0.2))[0] == "skipped"
    assert outcome(of_band(0.1, 0.2), band=(0.1, 0.2))[0] == "passed"
    assert "low and high are swapped" in outcome(of_band(0.1, 0.2), band=(0.2, 0.1))[1]
    assert "old and new are swapped" in outcome(of_band(0.1, 0.2, True), band=(0.1, 0.2))[1]


def test_a_loss_whose_parameters_all_have_defaults_is_a_loss():
    """Not a builder: it takes tokens."""

    def loss(logp=None, advantage=None, mask=None):
        return -(logp * advantage.detach())

    assert adapt(loss).kind == "by name"


def test_the_measured_clip_is_the_loss_s_own():
    """Edges to four digits: DAPO's clip and the dual clip's c."""
    report = check(load_loss("dual-clip", options={"clip_high": 0.28, "c": 3.5}))
    assert (
        message(report, "clip_restoring_side")
        == "kept; A > 0 clipped from r = 1.28, A < 0 up to r = 0.8"
    )
    assert message(report, "dual_clip") == "A < 0 bounded from r = 3.5, A > 0 not"

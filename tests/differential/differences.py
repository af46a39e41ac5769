"""Where implementations of one objective differ, measured: writes ``docs/differences.md``.

PYTHONPATH=tests python -m differential.differences docs/differences.md
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from differential import trl_losses, verl_losses
from differential.batches import Fields, ours, random_fields
from erc_bench.core import advantages
from erc_bench.core.batch import TokenBatch
from erc_bench.core.storage import atomic_write
from erc_bench.objectives import (
    EntropyBonus,
    Objective,
    PPOClip,
    SequenceMeanTokenMean,
    TokenMean,
    make,
)

Result = tuple[Tensor, dict[str, Tensor]]
SEED, ROWS, LENGTH, DRIFT, HORIZON = 5, 12, 16, 0.12, 20
TIGHT = verl_losses.clip(0.2, 0.2)


class Lab:
    """The fixed batch, and everyone's loss and gradient of it."""

    def __init__(self, folder: Path) -> None:
        self.trainer = trl_losses.make_trainer(folder)
        self.core = verl_losses.core()

    def given(self, *, empty_rows: int = 0) -> Fields:
        """The batch, with leaves of its own."""
        return random_fields(
            SEED,
            rows=ROWS,
            length=LENGTH,
            drift=DRIFT,
            per_response=True,
            limit=3.0,
            empty_rows=empty_rows,
        )

    def ours(
        self, objective: Objective | str, given: Fields | None = None, **parameters: Any
    ) -> Result:
        """By this project."""
        if isinstance(objective, str):
            objective = make(objective, **parameters)
        return ours(objective, given or self.given())

    def verl(
        self, loss: str, mode: str = "token-mean", given: Fields | None = None, **config: Any
    ) -> Result:
        """By verl, unless ``config`` says otherwise with its actor's defaults."""
        return verl_losses.theirs(given or self.given(), loss, mode, config)

    def trl(self, loss_type: str, given: Fields | None = None, **settings: Any) -> Result:
        """By TRL; settings of its arguments are written ``args_<name>``."""
        named = {name.replace("args_", "args."): value for name, value in settings.items()}
        return trl_losses.on_fields(self.trainer, given or self.given(), loss_type, named)


def gradient_gap(found: Result, expected: Result) -> float:
    """``|g - g'| / |g'|`` of the gradients with respect to log-probabilities and entropies."""
    a, b = (torch.cat([*result[1].values()]) for result in (found, expected))
    return ((a - b).norm() / b.norm()).item()


def loss_gap(found: Result, expected: Result) -> float:
    """``|L - L'| / |L'|``."""
    return (abs(found[0] - expected[0]) / abs(expected[0])).item()


def percent(x: float) -> str:
    """Three digits; what rounding alone makes is nothing."""
    return "0" if x < 1e-7 else f"{100 * x:.3g} %"


def gaps(found: Result, expected: Result) -> str:
    """Both, in words."""
    return f"gradient {percent(gradient_gap(found, expected))}, loss {percent(loss_gap(found, expected))}"


@dataclass(frozen=True)
class Difference:
    """One row of the table."""

    what: str
    here: str
    verl: str
    trl: str
    others: str
    measure: Callable[[Lab], str]


def empty_rows(lab: Lab) -> str:
    given = lab.given(empty_rows=1)
    found, mine = lab.trl("grpo", given), lab.ours("grpo", given)
    assert abs(gradient_gap(found, mine) - 1 / ROWS) < 1e-9
    verl = lab.verl("vanilla", "seq-mean-token-mean", given, **TIGHT)
    return f"one of {ROWS} rows empty: TRL {gaps(found, mine)}; verl {gaps(verl, mine)}"


def empty_rows_gmpo(lab: Lab) -> str:
    given = lab.given(empty_rows=1)
    found = lab.verl("geo_mean", "", given, **verl_losses.clip(0.4, 0.4))
    return f"one of {ROWS} rows empty: verl {gaps(found, lab.ours('gmpo', given))}"


def micro_batches(lab: Lab) -> str:
    def mean_of_parts(by: Callable[..., Result]) -> Result:
        parts = [
            {k: v[rows].detach() for k, v in lab.given().items()}
            for rows in (slice(0, 4), slice(4, ROWS))
        ]
        for part in parts:
            for leaf in ("logp", "entropy"):
                part[leaf].requires_grad_()
        results = [by(part) for part in parts]
        weights = [len(part["logp"]) / ROWS for part in parts]
        loss = sum(w * r[0] for w, r in zip(weights, results, strict=True))
        grads = {
            leaf: torch.cat([w * r[1][leaf] for w, r in zip(weights, results, strict=True)])
            for leaf in ("logp", "entropy")
        }
        return torch.as_tensor(loss), grads

    whole = lab.ours("dapo")
    release = mean_of_parts(
        lambda part: lab.verl("vanilla", "token-mean", part, **verl_losses.clip(0.2, 0.28))
    )
    parts = "parts of 4 and 8 responses, each its own token-mean, weighted by responses"
    return f"{parts}: {gaps(release, whole)}"


def window(lab: Lab) -> str:
    given = lab.given()
    tokens = given["mask"].sum()
    settings = {"epsilon_high": 0.28, "args_steps_per_generation": 2}
    found = lab.trl("dapo", given, num_items_in_batch=tokens * 3, **settings)
    mine = lab.ours("dapo")
    assert abs(gradient_gap(found, mine) - 1 / 3) < 1e-9
    return f"first of two steps, holding a third of the tokens: {gaps(found, mine)}"


def constant_length(lab: Lab) -> str:
    mine = lab.ours("dr-grpo", horizon=HORIZON)
    found = lab.verl("vanilla", "seq-mean-token-sum-norm", **TIGHT)
    assert abs(gradient_gap(found, mine) - (HORIZON / LENGTH - 1)) < 1e-9
    trl = lab.trl("dr_grpo", max_completion_length=HORIZON)
    lengths = f"longest response {HORIZON}, batch padded to {LENGTH}"
    return f"{lengths}: verl {gaps(found, mine)}; TRL {gaps(trl, mine)}"


def dual_clip(lab: Lab) -> str:
    base, given = lab.ours("ppo-clip"), lab.given()
    verl = lab.verl("vanilla", **TIGHT | {"clip_ratio_c": 3.0})
    batch = TokenBatch(**given)
    objective = make("dual-clip")
    binds = (objective.bound(batch) & ~make("ppo-clip").bound(batch)).sum().item()
    assert gradient_gap(verl, lab.ours("dual-clip")) < 1e-12
    bound = f"{binds} of {int(batch.mask.sum())} tokens bound"
    return f"verl's default beside `ppo-clip`, {bound}: {gaps(verl, base)}"


def one_token(log_ratio: float, advantage: float) -> Fields:
    """A response of a single token."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return {
        "logp": (-one).requires_grad_(),
        "old_logp": -one - log_ratio,
        "advantage": advantage * one,
        "mask": one.bool(),
        "entropy": one.clone().requires_grad_(),
        "old_entropy": one,
        "ref_logp": -one,
    }


def slope(result: Result) -> str:
    return f"{result[1]['logp'].item() + 0.0:.3g}"


def log_ratio_limit(lab: Lab) -> str:
    given = one_token(25.0, -1.0)
    c = verl_losses.clip(0.2, 0.2)
    parts = {
        "here": lab.ours("ppo-clip", given),
        "verl vanilla": lab.verl("vanilla", "token-mean", given, **c),
        "verl kl_cov": lab.verl("kl_cov", "token-mean", given, ppo_kl_coef=0.0),
        "TRL": lab.trl("bnpo", given),
    }
    return "dL/dlog π at log r = 25, A = -1: " + ", ".join(
        f"{k} {slope(v)}" for k, v in parts.items()
    )


def response_ratio_limit(lab: Lab) -> str:
    given = one_token(12.0, -1.0)
    parts = {
        "here": lab.ours("gspo", given),
        "verl": lab.verl("gspo", "seq-mean-token-mean", given, **verl_losses.clip(3e-4, 4e-4)),
        "TRL": lab.trl("grpo", given, importance_sampling_level="sequence", epsilon_high=4e-4),
    }
    return "dL/dlog π at log s = 12, A = -1: " + ", ".join(
        f"{k} {slope(v)}" for k, v in parts.items()
    )


def gspo_aggregation(lab: Lab) -> str:
    mine, bounds = lab.ours("gspo", clip_low=0.2, clip_high=0.2), TIGHT
    token = lab.verl("gspo", "token-mean", **bounds)
    sequence = lab.verl("gspo", "seq-mean-token-mean", **bounds)
    trl = lab.trl("grpo", importance_sampling_level="sequence")
    stock = lab.trl("dapo", importance_sampling_level="sequence")
    return (
        f"clip 0.2: verl by default {gaps(token, mine)}, with seq-mean-token-mean "
        f"{gaps(sequence, mine)}; TRL with grpo {gaps(trl, mine)}, with its default dapo {gaps(stock, mine)}"
    )


def cispo_bounds(lab: Lab) -> str:
    mine = lab.ours("cispo")
    verl, trl = lab.verl("cispo"), lab.trl("cispo")
    recommended = lab.trl("cispo", epsilon_high=5.0)
    at_one = one_token(0.0, 1.0)
    weight = -lab.trl("cispo", at_one)[1]["logp"].item()
    return (
        f"defaults beside `cispo`: verl {gaps(verl, mine)}; TRL {gaps(trl, mine)} (weight {weight:g} at "
        f"r = 1), at the recommended epsilon_high = 5 {gaps(recommended, mine)}"
    )


def reference_kl(lab: Lab) -> str:
    mine = lab.ours("grpo", beta=0.04)
    plain = lab.trl("grpo", beta=0.04)
    stock = lab.trl("grpo", beta=0.04, args_use_bias_correction_kl=True)
    far = one_token(0.0, 0.0)
    far["ref_logp"] = far["logp"].detach() + 3.0
    config = verl_losses.clip(0.2, 0.2) | {"kl": 1.0}
    slopes = ", ".join(
        f"{k} {slope(v)}"
        for k, v in {
            "here": lab.ours("grpo", far, beta=1.0),
            "verl": lab.verl("vanilla", "token-mean", far, **config),
            "TRL": lab.trl("grpo", far, beta=1.0),
        }.items()
    )
    return (
        f"beta 0.04, TRL's default {gaps(stock, mine)}, without the weight {gaps(plain, mine)}; "
        f"dKL/dlog π where log(ref/π) = 3: {slopes}"
    )


def clip_cov_value(lab: Lab) -> str:
    bounds = {"cov_low": 0.2, "cov_high": 5.0}
    config = verl_losses.clip(1.0, 1.0) | verl_losses.COV
    found = lab.verl("clip_cov", **config)
    mine = lab.ours("clip-cov", fraction=1.0, **bounds)
    assert gradient_gap(found, mine) < 1e-12
    return f"every candidate dropped: {gaps(found, mine)}"


def kl_cov_defaults(lab: Lab) -> str:
    found = lab.verl("kl_cov", kl_cov_ratio=2e-4, ppo_kl_coef=0.1)
    return f"defaults, one token penalised in both: {gaps(found, lab.ours('kl-cov'))}"


def dppo_value(lab: Lab) -> str:
    mine = lab.ours("dppo-tv")
    anchored = {"bypass": True}
    found = lab.verl("dppo_tv", **verl_losses.clip(0.15, 0.15), **anchored)
    stock = lab.verl("dppo_tv", **verl_losses.clip(0.15, 0.15, 3.0), **anchored)
    assert gradient_gap(found, mine) < 1e-12
    return f"without truncation {gaps(found, mine)}; at verl's default c = 3 {gaps(stock, mine)}"


def dppo_anchor(lab: Lab) -> str:
    mine = lab.ours("dppo-tv")
    found = lab.verl("dppo_tv", **verl_losses.clip(0.15, 0.15))
    return f"the engine's log-probabilities off by 0.5 nats (one sigma): {gaps(found, mine)}"


def rejected_denominator(lab: Lab) -> str:
    mine = lab.ours("seq-mis")
    whole, kept = (
        lab.verl(
            "vanilla",
            **verl_losses.corrected("sequence", 2.0, ("seq_sum_k1", "0.5_2.0"), counted=counted),
        )
        for counted in (True, False)
    )
    assert gradient_gap(whole, mine) < 1e-12
    _, metrics = make("seq-mis")(TokenBatch(**lab.given()))
    rejected = percent(metrics["gate/dropped_fraction"].item())
    return f"{rejected} of the tokens rejected by `seq-mis`: {gaps(kept, mine)}"


def high_entropy_value(lab: Lab) -> str:
    mine = lab.ours("high-entropy-only")
    found = lab.trl("dapo", epsilon_high=0.28, top_entropy_quantile=0.2)
    return gaps(found, mine)


def group_deviation(lab: Lab) -> str:
    rewards = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    mine = advantages.group_zscore(rewards)
    trl = advantages.group_zscore(rewards, eps=1e-4)
    population = (rewards - rewards.mean()) / rewards.std(correction=0)

    def gap(x: Tensor) -> str:
        return percent(((x - mine).norm() / mine.norm()).item())

    return f"one success in a group of 8: TRL {gap(trl)}, a deviation that divides by G {gap(population)}"


def one_response_groups(lab: Lab) -> str:
    reward, mask = torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    verl, _ = lab.core.compute_grpo_outcome_advantage(reward.clone(), mask, torch.zeros(1).numpy())
    return f"A of a lone response of reward 1: verl {verl.item():.6g}"


def whitening(lab: Lab) -> str:
    given = lab.given()
    x, mask = given["ref_logp"], given["mask"]
    verl = lab.core.verl_F.masked_whiten(x, mask.double())
    mine = advantages.whiten(x, mask)
    gap = ((verl - mine)[mask].norm() / mine[mask].norm()).item()
    n = int(mask.sum())
    assert abs(gap - (1 - ((n - 1) / n) ** 0.5)) < 1e-6
    return f"{n} tokens: {percent(gap)}"


def clip_fraction(lab: Lab) -> str:
    batch = TokenBatch(**lab.given())
    _, metrics = make("ppo-clip")(batch)
    bound, outside = (metrics[f"clip/ratio_{k}_fraction"].item() for k in ("bound", "outside"))
    return f"binding {percent(bound)}, outside {percent(outside)} of the tokens"


def sapo_aggregation(lab: Lab) -> str:
    found = lab.verl("sapo", "token-mean")
    other = replace(make("sapo"), aggregate=TokenMean())
    recipe = gaps(found, lab.ours("sapo"))
    real = gaps(found, lab.ours(other))
    return f"verl told token-mean: beside `sapo` {recipe}, beside a real token-mean {real}"


def gmpo_advantages(lab: Lab) -> str:
    given = lab.given()
    given["advantage"] = given["advantage"] + 0.5 * given["ref_logp"]
    found = lab.verl("geo_mean", "", given, **verl_losses.clip(0.4, 0.4))
    return f"advantages that differ by token: {gaps(found, lab.ours('gmpo', given))}"


def gmpo_defaults(lab: Lab) -> str:
    return f"defaults: {gaps(lab.verl('geo_mean', ''), lab.ours('gmpo'))}"


def entropy_bonus(lab: Lab) -> str:
    mine = Objective(PPOClip(), aggregate=SequenceMeanTokenMean()).regularized(EntropyBonus(0.01))
    verl = lab.verl("vanilla", "seq-mean-token-mean", **TIGHT, entropy_coeff=0.01)

    def by_entropy(result: Result) -> Result:
        return result[0], {"entropy": result[1]["entropy"]}

    parts = {"verl": verl, "TRL": lab.trl("grpo", entropy_coef=0.01)}
    expected = by_entropy(lab.ours(mine))
    gap = {k: percent(gradient_gap(by_entropy(v), expected)) for k, v in parts.items()}
    return f"grpo with a bonus of 0.01, the bonus's gradient: verl {gap['verl']}, TRL {gap['TRL']}"


def adaptive_kl(lab: Lab) -> str:
    controller = lab.core.AdaptiveKLController(1.0, 0.01, 10_000)
    controller.update(0.02, 1024)
    piece = make("ppo-kl-adaptive").regularizers[0]
    mine = piece.adapted({"drift/kl_exact": torch.tensor(0.02)}).coefficient
    return f"KL at twice its target, a batch of 1024: here x {float(mine):g}, verl x {controller.value:.4g}"


ROWS_OF_TABLE = (
    Difference(
        "Responses without a token, mean over responses",
        "not counted",
        "not counted",
        "counted",
        "ERC's release counts them",
        empty_rows,
    ),
    Difference(
        "The same, GMPO",
        "not counted",
        "counted (`torch.mean` over rows)",
        "-",
        "",
        empty_rows_gmpo,
    ),
    Difference(
        "Token-mean over micro-batches",
        "whole batch, by `denominators`",
        "whole batch, by `global_batch_info`",
        "`dapo`: see the next row; `bnpo`: each micro-batch by itself",
        "ERC's release: each micro-batch by itself, weighted by its responses",
        micro_batches,
    ),
    Difference(
        "Token-mean over optimizer steps",
        "tokens of this step",
        "tokens of this step",
        "`dapo`, `cispo`: tokens of the whole generation batch / number of steps",
        "",
        window,
    ),
    Difference(
        "Constant length of Dr. GRPO",
        "`horizon`, times the responses that have a token",
        "padded width of the batch, unless `loss_scale_factor` is set",
        "`max_completion_length`, times all responses",
        "paper: the longest response allowed",
        constant_length,
    ),
    Difference(
        "Dual clip",
        "`dual-clip` alone, c = 3",
        "always on in `vanilla`, c = 3",
        "off unless `delta` is set",
        "paper 3; ERC's release 10; SB3 has none",
        dual_clip,
    ),
    Difference(
        "Limit of log r",
        "20, everywhere",
        "20; none in `clip_cov`, `kl_cov`, `geo_mean`",
        "none",
        "SB3 none",
        log_ratio_limit,
    ),
    Difference(
        "Limit of log s, GSPO",
        "20 for each token's log r",
        "10 for log s, from above only",
        "none",
        "",
        response_ratio_limit,
    ),
    Difference(
        "Aggregation of GSPO",
        "mean over tokens, then responses",
        "0.9.1: the actor's `loss_agg_mode`, token-mean by default; 0.7.0 to 0.9.0: always as here",
        "the loss type's: token-mean by default (`dapo`)",
        "paper: mean over responses",
        gspo_aggregation,
    ),
    Difference(
        "Bounds of CISPO's weight",
        "[0, 5]",
        "[1 - `clip_ratio_low`, 1 + `clip_ratio_high`]: [0.8, 1.2] by default",
        "[0, `epsilon_high`], which is 0.2 by default",
        "paper: no lower bound, the upper one is tuned; ScaleRL 5",
        cispo_bounds,
    ),
    Difference(
        "k3 penalty against a reference",
        "log-ratio limited to 20",
        "log-ratio limited to 20, value to 10 (no gradient beyond)",
        "no limit; times r by default (`use_bias_correction_kl`)",
        "paper: k3",
        reference_kl,
    ),
    Difference(
        "Value of the tokens Clip-Cov drops", "kept", "0", "-", "paper: no gradient", clip_cov_value
    ),
    Difference(
        "Defaults of KL-Cov",
        "coefficient 1, share 2e-3",
        "coefficient 0.1, share 2e-4",
        "-",
        "paper: 1, and 2e-3 (7B) or 2e-4 (32B)",
        kl_cov_defaults,
    ),
    Difference(
        "Form of DPPO-TV",
        "r A, no truncation",
        "sg(min(r, c)) A log π, c = `clip_ratio_c`",
        "-",
        "paper: r A",
        dppo_value,
    ),
    Difference(
        "Anchor of DPPO's ratio and divergence",
        "the rollout: `rollout_logp`, else `old_logp`",
        "`old_log_prob`, which is the rollout's in `bypass_mode`",
        "-",
        "paper, prime-rl: the rollout",
        dppo_anchor,
    ),
    Difference(
        "Responses that rollout correction rejects",
        "stay in the denominator, as every gated token",
        "leave mask and denominator; weights of 0 (IcePop) stay",
        "weights of 0 stay",
        "arXiv:2512.23075: stay",
        rejected_denominator,
    ),
    Difference(
        "Value of low-entropy tokens, high-entropy-only",
        "kept, as every gate",
        "-",
        "0",
        "paper: 0",
        high_entropy_value,
    ),
    Difference(
        "Deviation of a group's rewards",
        "divides by G - 1, + 1e-6",
        "divides by G - 1, + 1e-6",
        "divides by G - 1, + 1e-4",
        "paper: the deviation, no constant",
        group_deviation,
    ),
    Difference(
        "Groups of one response",
        "refused",
        "A = R / (1 + 1e-6)",
        "refused (`num_generations` >= 2)",
        "",
        one_response_groups,
    ),
    Difference(
        "Whitened advantages",
        "divides by n",
        "divides by n - 1",
        "-",
        "SB3 divides by n - 1",
        whitening,
    ),
    Difference(
        "Clip fraction, the metric",
        "both, named apart",
        "where the clip binds",
        "where the clip binds",
        "SB3: where r is outside",
        clip_fraction,
    ),
    Difference(
        "Aggregation of SAPO",
        "the objective's: mean over tokens, then responses",
        "always mean over tokens, then responses",
        "mean over tokens, then all responses",
        "paper: mean over tokens, then responses",
        sapo_aggregation,
    ),
    Difference(
        "Advantage of GMPO where tokens differ",
        "each token's own",
        "the response's mean",
        "-",
        "paper: one for the response",
        gmpo_advantages,
    ),
    Difference("Clip of GMPO, log r", "0.4", "0.2 by default", "-", "paper 0.4", gmpo_defaults),
    Difference(
        "Aggregation of the entropy bonus",
        "as the loss",
        "as the loss",
        "mean over tokens, whatever the loss",
        "SB3: mean over tokens",
        entropy_bonus,
    ),
    Difference(
        "Adaptive KL coefficient",
        "halved or doubled (PPO, section 4)",
        "proportional (arXiv:1909.08593)",
        "-",
        "",
        adaptive_kl,
    ),
)


INTRODUCTION = f"""\
# Where implementations differ

One name, several losses. Who does what, and what it changes; every number is measured by
`tests/differential/differences.py`, which writes this page, and a test measures it anew. verl is
{{verl}}, TRL {{trl}}, Stable-Baselines3 (SB3) {{sb3}}. Where nothing is listed the losses agree,
in value and gradient (`tests/differential`).

The batch: `random_fields({SEED})` of `tests/differential/batches.py`, {ROWS} responses of up to
{LENGTH} tokens, {{tokens}} in all, one advantage for a response, log-ratios of spread {DRIFT} with a
tail: {{outside}} of the tokens have a ratio outside [0.8, 1.2]. It is far off-policy, so that every
clip binds somewhere. A gap of gradients is `|g - g'| / |g'|` with respect to log-probabilities and
entropies, with `g'` from this project; of losses, `|L - L'| / |L'|`. All in float64; 0 is less than
1e-5 %.

| What | Here | verl | TRL | Paper, others | Measured |
|---|---|---|---|---|---|
"""


def page(folder: Path) -> str:
    """The whole of ``docs/differences.md``."""
    lab = Lab(folder)
    batch = TokenBatch(**lab.given())
    tokens = int(batch.mask.sum())
    _, metrics = make("ppo-clip")(batch)
    outside = percent(metrics["clip/ratio_outside_fraction"].item())
    versions = {"verl": "verl", "trl": "trl", "sb3": "stable-baselines3"}
    numbers = {name: version(package) for name, package in versions.items()}
    lines = INTRODUCTION.format(tokens=tokens, outside=outside, **numbers).splitlines()
    for row in ROWS_OF_TABLE:
        cells = (row.what, row.here, row.verl, row.trl, row.others or "-", row.measure(lab))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        text = page(Path(temporary))
    atomic_write(Path(sys.argv[1]), lambda file: file.write(text.encode()))

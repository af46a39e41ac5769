import numpy as np
import pytest
import torch
from trainer_runs import TINY, StopToken, arm, assert_same_result, forks, parameters, trainer

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import make
from erc_bench.training import TrainConfig, Trainer, loop
from erc_bench.training.evaluation import evaluate
from erc_bench.training.measure import Log, sample_tokens
from erc_envs.token_forks import TokenForks

ALL = [("ppo-clip", {}), ("dapo", {}), ("erc-dapo", {}), ("reinforce", {})]


def population(**settings):
    return trainer([arm(name, **kw) for name, kw in ALL], StopToken(), **settings)


class Stop(BaseException):
    """Stands for a kill between two rollouts."""


@pytest.fixture
def always_checkpoint(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.usefixtures("always_checkpoint")
def test_a_resumed_run_equals_an_uninterrupted_one_exactly(tmp_path, at):
    """Interrupted after any rollout, a fresh trainer goes on from the checkpoint to the same records."""
    path = tmp_path / "deep" / "state.safetensors"

    def interrupt(done):
        if done == at:
            raise Stop

    with pytest.raises(Stop):
        population().run(on_rollout=interrupt, checkpoint_path=path)
    assert path.exists() == (at > 0)
    seen = []
    resumed = population().run(on_rollout=seen.append, checkpoint_path=path)
    assert seen == list(range(at, 4))
    whole = population().run()
    assert whole.metrics.keys() == resumed.metrics.keys()
    assert_same_result(whole, resumed)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.usefixtures("always_checkpoint")
def test_a_frozen_run_stays_frozen_after_a_resume(tmp_path):
    """The checkpoint knows who diverged."""
    path = tmp_path / "state"
    rate = torch.tensor([5e-3, 1e300], dtype=torch.float64)

    def wild():
        return trainer([arm("grpo", learning_rate=rate)])

    def interrupt(done):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        wild().run(on_rollout=interrupt, checkpoint_path=path)
    resumed, whole = wild().run(checkpoint_path=path), wild().run()
    assert whole.runs["diverged"].tolist() == [False, True]
    assert_same_result(whole, resumed)


@pytest.mark.usefixtures("always_checkpoint")
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped header", "folder"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    """InputError in one line that names the file; never a traceback of the format's library."""
    path = tmp_path / "state"
    population(rollouts=1).run(checkpoint_path=path)
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "empty": b"",
                "text": b"hello",
                "flipped header": b"\xff" + content[1:],
            }[damage]
        )
    with pytest.raises(InputError, match=r"^resume: .*state") as caught:
        population(rollouts=1).run(checkpoint_path=path)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("always_checkpoint")
@pytest.mark.parametrize(
    "other",
    [
        lambda: population(hidden=8),
        lambda: trainer([arm("ppo-clip", [0])], StopToken()),
        lambda: trainer([arm(n) for n in ("dapo", "dapo", "dapo", "dapo")], StopToken()),
        lambda: population(policy="tabular"),
        lambda: population(dtype="float32"),
        lambda: population(seed=8),
        lambda: population(learning_rate=1e-3),
        lambda: trainer(
            [arm(n) for n in ("ppo-clip", "dapo", "erc-gppo", "reinforce")], StopToken()
        ),
    ],
    ids=["hidden", "seeds", "arms", "policy", "dtype", "seed", "rate", "objective"],
)
def test_a_checkpoint_of_another_population_is_refused(tmp_path, other):
    """Nothing of it is taken over."""
    path = tmp_path / "state"
    population(rollouts=1).run(checkpoint_path=path)
    t = other()
    before = parameters(t, 0)
    with pytest.raises(InputError, match="belongs to another run"):
        t.run(checkpoint_path=path)
    assert all(torch.equal(x, y) for x, y in zip(before, parameters(t, 0), strict=True))


def test_no_checkpoint_is_written_before_its_time(tmp_path):
    """A short run needs none."""
    population(rollouts=1).run(checkpoint_path=tmp_path / "state")
    assert not any(tmp_path.iterdir())


def test_the_tables_have_one_row_per_update_and_run():
    """Shapes, counters and keys of what a population leaves behind."""
    result = population(epochs=2).run()
    updates, runs = 3 * 2 * 2, 8
    for name, rows in result.metrics.items():
        assert rows.shape == (updates, runs), name
    for name, rows in result.tokens.items():  # at every fourth update, four times two tokens
        assert rows.shape[:3] == (updates // 4, runs, 4 * 2), name
    assert result.tokens["update"][:, 0, 0].tolist() == [0, 7, 10]
    assert result.tokens["staleness"][:, 0, 0].tolist() == [0, 3, 2]
    for name, rows in result.runs.items():
        assert rows.shape == (runs,), name
    assert result.metrics["rollout"][:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert result.metrics["staleness"][:, 0].tolist() == [0, 1, 2, 3] * 3
    assert (np.diff(result.metrics["tokens"], axis=0) >= 0).all()
    assert (result.metrics["tokens"][-1] == result.runs["tokens"]).all()
    no_clip = result.metrics["clip/ratio_bound_fraction"][:, 6:]
    assert np.isnan(no_clip).all()
    assert result.tokens["probs/new"].shape[-1] == 4
    np.testing.assert_allclose(result.tokens["probs/new"].sum(-1), 1)


def test_no_sampled_tokens_no_table():
    """``token_samples=0`` records none."""
    assert population(token_samples=0).run().tokens == {}


def test_a_tensor_of_learning_rates_equals_separate_runs():
    """An arm with ``learning_rate (R,)`` is R runs with floats."""
    rates = [1e-3, 2e-2]
    together = trainer(
        [arm("ppo-clip", [0, 0], learning_rate=torch.tensor(rates, dtype=torch.float64))]
    ).run()
    for run, rate in enumerate(rates):
        alone = trainer([arm("ppo-clip", [0])], learning_rate=rate).run()
        assert_same_result(together, alone, [run], [0], rtol=1e-9, atol=1e-12)


def test_a_tensor_of_temperatures_equals_separate_runs():
    """An arm with ``temperature (R,)`` is R runs with floats, in rollouts and updates alike."""
    heats = [0.5, 2.0]
    together = trainer(
        [arm("dapo", [0, 0], temperature=torch.tensor(heats, dtype=torch.float64))]
    ).run()
    for run, heat in enumerate(heats):
        alone = trainer([arm("dapo", [0])], temperature=heat).run()
        assert_same_result(together, alone, [run], [0], rtol=1e-9, atol=1e-12)


def test_a_tensor_of_bands_equals_separate_runs():
    """An objective with a band ``(R,)`` is R objectives with floats."""
    bands = [0.001, 0.05, 0.9]
    band = torch.tensor(bands, dtype=torch.float64)
    objective = make("erc-dapo", band_low=band, band_high=band)
    settings = {"learning_rate": 2e-2, "minibatches": 4}
    together = trainer([arm("erc-dapo", [0, 0, 0], objective=objective)], **settings).run()
    shares = together.metrics["gate/dropped_fraction"].mean(0)
    assert shares[0] > shares[1] > shares[2]
    for run, width in enumerate(bands):
        overrides = {"band_low": width, "band_high": width}
        alone = trainer([arm("erc-dapo", [0], overrides=overrides)], **settings).run()
        assert_same_result(together, alone, [run], [0], rtol=1e-9, atol=1e-12)


def test_the_warm_start_reaches_the_prior():
    """On the full TokenForks grammar: entropy per token within 10 %, return within 0.02 of the prior's."""
    dynamics = TokenForks()
    config = TrainConfig(rollouts=1, hidden=128, evaluation_episodes=2048)
    t = Trainer(config, dynamics, dynamics.observation_space, [arm("grpo", [0])], seed=0)
    reached = evaluate(t.setup, t.engine, t.state, "initial")
    rng = np.random.default_rng(0)
    state = dynamics.initial_state(rng.integers(32, size=20_000))
    entropies = []
    for _ in range(dynamics.horizon):
        p = dynamics.prior(state)
        entropies.append(-(p * np.log(p)).sum(-1))
        u = rng.random((len(p), 1))
        action = (p.cumsum(-1) <= u * p.sum(-1, keepdims=True)).sum(-1).clip(max=31)
        state, _, _ = dynamics.step(state, action, u[:, 0])
    assert reached["entropy/initial"].item() == pytest.approx(np.mean(entropies), rel=0.1)
    assert reached["reward/initial"].item() == pytest.approx(dynamics.prior_return, abs=0.02)


def test_training_raises_the_return():
    """The whole loop learns the tiny grammar, in every arm and for every seed."""
    names = ("ppo-clip", "grpo", "dapo", "gppo", "reinforce")
    t = trainer([arm(n) for n in names], rollouts=40, prompts=8, evaluation_episodes=128)
    result = t.run()
    assert (result.runs["reward/final"] - result.runs["reward/initial"] > 0.2).all()


def test_minibatches_split_a_rollout_by_prompt_and_use_each_part_once_per_epoch():
    """With a learning rate that moves nothing, the losses of an epoch's parts repeat in the next."""
    t = trainer([arm("grpo")], learning_rate=1e-300, minibatches=4, epochs=2, rollouts=1)
    norms = t.run().metrics["grad/norm"]
    np.testing.assert_allclose(norms[:4], norms[4:], rtol=1e-9)
    assert len(np.unique(norms[:4, 0].round(12))) > 1


def _batch(mask):
    runs, b, horizon = mask.shape
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(runs, b, horizon, 5, generator=g, dtype=torch.float64)
    old = torch.randn(runs, b, horizon, 5, generator=g, dtype=torch.float64)
    index = torch.arange(b * horizon).view(1, b, horizon).expand(runs, -1, -1)
    return TokenBatch.from_logits(
        logits=logits, old_logits=old, action=index % 5, mask=mask, advantage=index.double()
    )


def test_sampled_tokens_are_unmasked_ones_drawn_uniformly():
    """u in [0, 1) maps to each unmasked token with equal probability, to masked ones never."""
    mask = torch.tensor([[[1, 1, 0], [1, 0, 0]], [[0, 0, 0], [1, 1, 1]]], dtype=torch.bool)
    u = (torch.arange(12) / 12).expand(2, 12)
    t = trainer([arm("grpo")])
    columns = sample_tokens(_batch(mask), t.state.objectives, t.setup.slices, u)
    assert columns["advantage"][0].tolist() == [0] * 4 + [1] * 4 + [3] * 4
    assert columns["advantage"][1].tolist() == [3] * 4 + [4] * 4 + [5] * 4
    assert columns["position"][0].tolist() == [0] * 4 + [1] * 4 + [0] * 4
    top = torch.full((2, 1), float(np.nextafter(np.float32(1), np.float32(0))))
    last = sample_tokens(_batch(mask), t.state.objectives, t.setup.slices, top)
    assert last["advantage"][:, 0].tolist() == [3, 5]


def test_the_log_refuses_rows_of_other_columns():
    """A metric that comes and goes is a bug."""
    log = Log()
    value = torch.zeros(2)
    log.append("metrics", {"a": value})
    value = value + 1
    assert log.stacked("metrics")["a"].tolist() == [[0, 0]]
    with pytest.raises(KeyError, match="'b'"):
        log.append("metrics", {"a": value, "b": value})
    again = Log.restored(log.tensors())
    again.append("metrics", {"a": value})
    assert again.stacked("metrics")["a"].tolist() == [[0, 0], [1, 1]]


def test_a_population_of_many_actions_records_no_whole_distributions():
    """Above 64 actions the tokens table has the sampled action only."""
    result = trainer([arm("grpo")], forks(vocab_size=65), rollouts=1).run()
    assert "probs/old" not in result.tokens
    assert "prob/old" in result.tokens


def test_tiny_settings_are_settings():
    """The tests' own configuration names real fields."""
    assert TINY.keys() <= set(TrainConfig.names())

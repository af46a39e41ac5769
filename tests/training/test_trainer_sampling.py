import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_runs import StopToken, arm, forks, trainer

from erc_bench.training.rollout import Rollout
from erc_bench.training.sampling import fill_with_informative_groups

G = 3


def synthetic(returns: torch.Tensor, tag: int) -> Rollout:
    """A rollout (R, P, G) with these returns; every token carries its group's number of birth."""
    runs, prompts, _ = returns.shape
    born = (tag * 100 + torch.arange(prompts)).repeat_interleave(G).expand(runs, -1)
    reward = torch.stack([returns.flatten(1) * 0.25, returns.flatten(1) * 0.75], dim=-1)
    token = born[..., None].expand(-1, -1, 2)
    return Rollout(
        action=token.clone(),
        mask=torch.ones(runs, prompts * G, 2, dtype=torch.bool),
        reward=reward,
        old_logp=token.double(),
        old_entropy=token.double(),
        acted_logp=token.double(),
        seen={"obs": token[..., None].expand(-1, -1, -1, 3).clone()},
    )


@st.composite
def cases(draw):
    runs, prompts, rounds = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
    )
    bits = st.lists(st.booleans(), min_size=runs * prompts, max_size=runs * prompts)
    informative = [torch.tensor(draw(bits)).view(runs, prompts) for _ in range(rounds)]
    dynamic = torch.tensor(draw(st.lists(st.booleans(), min_size=runs, max_size=runs)))
    return informative, dynamic, rounds


@settings(max_examples=150, deadline=None)
@given(cases())
def test_informative_groups_in_the_order_they_were_generated(case):
    """P groups: the first informative ones of at most ``rounds`` rollouts, then uninformative fill."""
    informative, dynamic, rounds = case
    runs, prompts = informative[0].shape
    asked: list[tuple[int, list[int]]] = []

    def made(round_, chosen):
        pattern = torch.zeros(len(chosen), prompts, G, dtype=torch.float64)
        pattern[..., 0] = informative[round_][chosen]
        return synthetic(pattern, round_)

    def generate(round_, chosen):
        asked.append((round_, chosen.tolist()))
        return made(round_, chosen)

    everyone = torch.arange(runs)
    first = made(0, everyone)
    untouched = made(0, everyone)
    result = fill_with_informative_groups(first, dynamic, G, rounds, generate)

    assert [round_ for round_, _ in asked] == list(range(1, len(asked) + 1))
    assert len(asked) <= rounds - 1
    for run in range(runs):
        rounds_made = 1 + sum(run in chosen for _, chosen in asked)
        if not dynamic[run]:
            assert rounds_made == 1
            for name, value in result.tensors.items():
                assert torch.equal(value[run], untouched.tensors[name][run])
            continue
        have = [int(informative[k][run].sum()) for k in range(rounds)]
        needed = next((k + 1 for k in range(rounds) if sum(have[: k + 1]) >= prompts), rounds)
        assert rounds_made == needed
        if needed == 1:  # nothing to choose from: the first round as it came
            assert torch.equal(result.action[run], untouched.action[run])
            continue
        births = [
            100 * k + p for k in range(needed) for p in range(prompts) if informative[k][run, p]
        ]
        groups = result.action[run, :, 0].view(prompts, G)
        assert (groups == groups[:, :1]).all(), "a group was torn apart"
        kept = groups[:, 0].tolist()
        assert kept[: len(births)] == births[:prompts]
        assert len(set(kept)) == prompts
        for name in ("seen.obs", "action", "old_logp"):
            tokens = result.tensors[name][run].reshape(prompts * G, -1)
            assert (tokens == groups.reshape(-1, 1)).all(), name


def test_without_dynamic_arms_nothing_is_generated():
    """The very same rollout comes back."""
    rollout = synthetic(torch.zeros(2, 2, G), 0)
    never = torch.zeros(2, dtype=torch.bool)
    assert fill_with_informative_groups(rollout, never, G, 4, lambda *_: 1 / 0) is rollout


def test_tokens_of_extra_rounds_are_counted_and_only_for_who_asked():
    """``tokens`` grows by a whole rollout per extra round, and the reward metric is the unfiltered one."""
    settings_ = {"rollouts": 1, "generation_rounds": 3}
    arms = [arm("grpo"), arm("dapo"), arm("erc-dapo")]
    t = trainer(arms, forks(), **settings_)
    per_round = 4 * 4 * 4
    result = t.run()
    tokens = result.runs["tokens"]
    assert tokens[:2].tolist() == [per_round] * 2
    assert set(tokens[2:].tolist()) <= {per_round, 2 * per_round, 3 * per_round}
    assert tokens[2:].max() > per_round
    assert tokens[2:4].tolist() == tokens[4:].tolist()
    reward = result.metrics["reward/mean"][0]
    assert reward[:2].tolist() == reward[2:4].tolist() == reward[4:].tolist()


def test_a_single_round_is_no_dynamic_sampling():
    """With ``generation_rounds=1`` an arm that samples dynamically equals one that does not."""
    arms = [arm("dapo"), arm("dapo", label="plain", dynamic_sampling=False)]
    result = trainer(arms, StopToken(), generation_rounds=1).run()
    for name, rows in result.metrics.items():
        assert (rows[:, :2] == rows[:, 2:]).all(), name

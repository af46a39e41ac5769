"""The transformer over token contexts: causal, the same in one pass, step by step and row by row."""

import pytest
import torch
from gymnasium import spaces

from erc_bench.training.policies import build_policy
from erc_bench.training.policies.transformer import CausalTransformer, _group_size
from erc_bench.training.population import Population

R, B, T, PROMPT, SYMBOLS, V = 3, 5, 4, 3, 7, 6
SPACE = spaces.MultiDiscrete([SYMBOLS] * (PROMPT + T))


class Bound:
    """A population together with its parameters."""

    def __init__(self, seeds, dtype):
        self.population = Population(lambda: CausalTransformer(SPACE, V, hidden=16), dtype)
        self.params = self.population.start(seeds)

    def forward(self, x):
        return self.population.forward(self.params, x)

    def decoder(self):
        return self.population.decoder(self.params)


def population(dtype=torch.float64, runs=R):
    return Bound(list(range(runs)), dtype)


def contexts(runs=R, seed=0):
    """Successive contexts (R, B, T, F) of random responses."""
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(1, SYMBOLS, (runs, B, PROMPT + T), generator=g)
    column = torch.arange(PROMPT + T)
    written = column < PROMPT + torch.arange(T).unsqueeze(-1)
    return torch.where(written, text.unsqueeze(2), 0)


def by_torch(params, run, text):
    """The same network from torch's own layers, for one run and one text, float64."""
    p = {name: value[run] for name, value in params.items()}
    x = p["token"][text] + p["position"][: len(text)]
    norm = torch.nn.functional.rms_norm
    for layer in range(2):
        name = f"blocks.{layer}."
        mixed = norm(x, [16], p[name + "norm"][0], 1e-6) @ p[name + "attend"].T
        q, k, v = (part.view(len(text), 4, 4).transpose(0, 1) for part in mixed.chunk(3, -1))
        seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + seen.transpose(0, 1).reshape(len(text), 16) @ p[name + "out"].T
        wide = (norm(x, [16], p[name + "norm"][1], 1e-6) @ p[name + "up"].T).relu()
        x = x + wide @ p[name + "down"].T
    return norm(x, [16], p["norm"], 1e-6) @ p["head"].T


def test_it_is_the_network_that_its_equation_says():
    """Against torch's rms_norm and scaled_dot_product_attention, run by run and text by text."""
    policy, x = population(), contexts()
    logits = policy.forward(x)
    for run in range(R):
        for row in range(B):
            text = x[run, row, -1, : PROMPT + T - 1]
            expected = by_torch(policy.params, run, text)[PROMPT - 1 :]
            torch.testing.assert_close(logits[run, row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_one_pass_equals_step_by_step_and_context_by_context(dtype, atol):
    """The update's view of a response, the rollout's with kept keys and values, and the naive one."""
    policy, x = population(dtype), contexts()
    whole = policy.forward(x)
    one_by_one = torch.stack([policy.forward(x[:, :, t]) for t in range(T)], dim=2)
    step = policy.decoder()
    kept = torch.stack([step(x[:, :, t]) for t in range(T)], dim=2)
    torch.testing.assert_close(whole, one_by_one, rtol=0, atol=atol)
    torch.testing.assert_close(kept, one_by_one, rtol=0, atol=atol)
    assert whole.std() > 1e-3


def test_gradients_of_both_views_are_equal():
    """One pass per response and one per context have the same gradient, every parameter's not zero."""
    policy, x = population(), contexts()
    for p in policy.params.values():
        p.requires_grad_()
    weight = torch.randn(R, B, T, V, dtype=torch.float64)
    params = list(policy.params.values())
    once = torch.autograd.grad((policy.forward(x) * weight).sum(), params)
    many = torch.stack([policy.forward(x[:, :, t]) for t in range(T)], dim=2)
    naive = torch.autograd.grad((many * weight).sum(), params)
    for a, b in zip(once, naive, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert a.abs().max() > 0


def grouped(group):
    """Contexts of B = 6 responses, so many side by side to one prompt; two end early."""
    g = torch.Generator().manual_seed(1)
    text = torch.randint(1, SYMBOLS, (R, 6, PROMPT + T), generator=g)
    text[..., :PROMPT] = text[:, ::group, :PROMPT].repeat_interleave(group, dim=1)
    text[:, 1, PROMPT + 1 :] = 0
    text[0, 4, PROMPT + 2 :] = 0
    written = torch.arange(PROMPT + T) < PROMPT + torch.arange(T).unsqueeze(-1)
    x = torch.where(written, text.unsqueeze(2), 0)
    running = (x > 0).sum(-1) == PROMPT + torch.arange(T)
    return x, running


@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_a_prompt_read_once_for_its_group_changes_nothing(group):
    """Values, both views, and gradients, against every context by itself; finite after an end."""
    policy, (x, running) = population(), grouped(group)
    prompts = x[:, :, 0, :PROMPT]
    assert _group_size(prompts) == group
    assert running.sum() < running.numel()
    for p in policy.params.values():
        p.requires_grad_()
    params = list(policy.params.values())
    once = policy.forward(x)
    naive = torch.stack([policy.forward(x[:, :, t]) for t in range(T)], dim=2)
    step = policy.decoder()
    kept = torch.stack([step(x[:, :, t]) for t in range(T)], dim=2)
    assert once.isfinite().all()
    for logits in (once, kept):
        torch.testing.assert_close(logits[running], naive[running], rtol=0, atol=1e-12)
    weight = torch.randn(running.sum(), V, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((logits[running] * weight).sum(), params) for logits in (once, naive)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_group_is_one_in_every_run():
    """Rows are put together only where that is right for all runs; neighbours by chance are not."""
    prompts = torch.tensor([[1, 1, 2, 2, 3, 3], [1, 1, 1, 1, 2, 2]]).unsqueeze(-1)
    assert _group_size(prompts) == 2
    assert _group_size(prompts[1:]) == 2
    assert _group_size(torch.tensor([[1, 1, 2, 3, 3, 3]]).unsqueeze(-1)) == 1
    assert _group_size(torch.ones(2, 5, 3)) == 5


@pytest.mark.parametrize("kind", ["other lengths", "not a response", "no prompt", "more axes"])
def test_contexts_that_are_no_responses_are_read_one_by_one(kind):
    """What cannot be done in one pass is done right: equal to torch's layers on each context."""
    policy, x = population(), contexts()
    if kind == "other lengths":
        x[:, 0, :, PROMPT - 1 :] = 0
    elif kind == "not a response":
        x = x.roll(1, dims=1)
        x[:, :, 0] = contexts(seed=5)[:, :, 0]
    elif kind == "no prompt":
        x[..., :] = torch.where(torch.arange(PROMPT + T) < torch.arange(T).unsqueeze(-1), x, 0)
    else:
        x = x.unsqueeze(1)
    rows = x.reshape(R, -1, PROMPT + T)
    logits = policy.forward(x)
    assert logits.shape == (*x.shape[:-1], V)
    for run in range(R):
        for text, got in zip(rows[run], logits.view(R, -1, V)[run], strict=True):
            read = text[: max(int((text > 0).sum()), 1)]
            expected = by_torch(policy.params, run, read)[-1]
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_prompts_of_other_lengths_are_decoded_without_a_cache():
    """The decoder falls back on the whole contexts, at every step."""
    policy, x = population(), contexts()
    x[:, 0] = torch.cat([x[:, 0, :, 1:], torch.zeros_like(x[:, 0, :, :1])], dim=-1)
    step = policy.decoder()
    for t in range(T):
        wanted = policy.forward(x[:, :, t])
        torch.testing.assert_close(step(x[:, :, t]), wanted, rtol=0, atol=1e-12)


def test_a_context_with_a_hole_is_refused():
    """An observation that is no context gives no logits that look like some."""
    policy, x = population(), contexts()
    x[0, 0, :, 1] = 0
    with pytest.raises(ValueError, match=r"^policy: transformer needs .* written from the left"):
        policy.forward(x)
    with pytest.raises(ValueError, match="written from the left"):
        policy.decoder()(x[:, :, 0])


def test_later_tokens_change_nothing_earlier():
    """Causality: another last token leaves every earlier logit exactly as it was."""
    policy, x = population(), contexts()
    other = x.clone()
    other[..., -1, PROMPT + T - 2] = other[..., -1, PROMPT + T - 2] % (SYMBOLS - 1) + 1
    a, b = policy.forward(x), policy.forward(other)
    assert torch.equal(a[:, :, :-1], b[:, :, :-1])
    assert (a[:, :, -1] - b[:, :, -1]).abs().max() > 1e-6


def test_a_run_alone_is_the_run_in_a_population():
    """To rounding, in both views: torch multiplies one matrix otherwise than a batch of them."""

    def same(a, b):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)

    together, x = population(torch.float32), contexts()
    for run in range(R):
        alone = Bound([run], torch.float32)
        here = x[run : run + 1]
        same(alone.forward(here)[0], together.forward(x)[run])
        step, both = alone.decoder(), together.decoder()
        for t in range(T):
            same(step(here[:, :, t])[0], both(x[:, :, t])[run])


def test_it_is_an_ordinary_module():
    """``forward`` on any leading shape, with its own parameters."""
    module = build_policy("transformer", SPACE, V, hidden=16)
    x = contexts()[0]
    params = {name: p.unsqueeze(0) for name, p in module.named_parameters()}
    logits = module(x)
    assert logits.shape == (B, T, V)
    torch.testing.assert_close(logits, module.forward_runs(params, x.unsqueeze(0))[0])
    assert module(x[0, 0]).shape == (V,)


@pytest.mark.parametrize(
    ("space", "hidden", "message"),
    [
        (spaces.Box(-1, 1, (4,)), 16, "token contexts"),
        (spaces.MultiDiscrete([3, 4]), 16, "token contexts"),
        (SPACE, 18, "hidden: 18"),
    ],
)
def test_what_it_cannot_read_is_refused(space, hidden, message):
    """One line that names what is needed."""
    with pytest.raises(ValueError, match=message):
        CausalTransformer(space, V, hidden=hidden)

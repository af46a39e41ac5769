"""TokenBatch: what it checks, cleans and slices."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch

R, B, T, V = 2, 3, 4, 5
TRAINED = {"logp", "entropy", "log_probs"}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def arguments(shape=(R, B, T), **changed):
    whole = dict.fromkeys(("log_probs", "old_log_probs", "ref_log_probs"), (*shape, V))
    shapes = {f.name: whole.get(f.name, shape) for f in fields(TokenBatch)} | {"reward": shape[:-1]}
    given = {name: torch.rand(s) - 2 for name, s in shapes.items()}
    given["mask"] = torch.ones(shape, dtype=torch.bool)
    given["action"] = torch.zeros(shape, dtype=torch.long)
    return given | changed


@pytest.mark.parametrize("name", [f.name for f in fields(TokenBatch) if f.name != "logp"])
def test_a_wrong_shape_is_one_line(name):
    """Field, its shape, and the shape expected."""
    wrong = arguments()[name][0]
    with pytest.raises(
        ValueError, match=r"^TokenBatch\.\w+: shape .*, expected .* like logp$"
    ) as e:
        TokenBatch(**arguments(**{name: wrong}))
    assert f"TokenBatch.{name}: shape {tuple(wrong.shape)}" in str(e.value)
    assert "\n" not in str(e.value)


def test_the_message_of_a_wrong_shape():
    """Word for word."""
    with pytest.raises(ValueError, match="TokenBatch") as e:
        TokenBatch(**arguments(old_logp=torch.zeros(B, T)))
    assert str(e.value) == "TokenBatch.old_logp: shape (3, 4), expected (2, 3, 4) like logp"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logp": torch.zeros(T)}, r"TokenBatch\.logp: shape \(4,\), expected \(\*run, B, T\)"),
        ({"logp": 1.0}, r"TokenBatch\.logp: float, expected \(\*run, B, T\)"),
        ({"advantage": [1.0]}, r"TokenBatch\.advantage: list, expected \(2, 3, 4\) like logp"),
        ({"advantage": None}, r"TokenBatch\.advantage: NoneType, expected"),
        ({"log_probs": torch.zeros(R, B, T, V + 1)}, r"TokenBatch\.old_log_probs: shape"),
        (
            {"action": torch.zeros(R, B, T)},
            r"TokenBatch\.action: torch\.float32, expected integers",
        ),
        (
            {"entropy": torch.zeros(R, B, T).int()},
            r"entropy: torch\.int32, expected floating point",
        ),
        ({"mask": torch.full((R, B, T), 0.5)}, r"mask: torch\.float32, expected bool, or 0 and 1"),
    ],
)
def test_other_bad_inputs_are_one_line(changed, message):
    """Wrong type, dtype or vocabulary."""
    with pytest.raises(ValueError, match=message):
        TokenBatch(**arguments(**changed))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks_become_bool(dtype):
    """Masks of 0 and 1 are accepted in any dtype."""
    mask = torch.tensor([[1, 0]]).to(dtype)
    batch = TokenBatch(*torch.zeros(3, 1, 2), mask)
    assert batch.mask.dtype is torch.bool
    assert batch.mask.tolist() == [[True, False]]


def test_only_the_trained_policy_carries_gradients():
    """Everything else is detached on entry."""
    given = arguments()
    for value in given.values():
        if value.is_floating_point():
            value.requires_grad_()
    batch = TokenBatch(**given)
    carrying = {f.name for f in fields(batch) if getattr(batch, f.name).requires_grad}
    assert carrying == TRAINED


def test_masked_garbage_is_cleaned_on_entry():
    """Per-token fields read 0 where masked; the ratio there is 1; the caller's tensors stay."""
    mask = torch.tensor([[True, False]])
    logp = torch.tensor([[-1.0, torch.nan]])
    batch = TokenBatch(logp, torch.tensor([[-1.0, torch.inf]]), logp, mask, entropy=logp)
    for value in (batch.logp, batch.old_logp, batch.advantage, batch.entropy, batch.log_ratio):
        assert value[0, 1] == 0
    assert batch.ratio.tolist() == [[1, 1]]
    assert torch.isnan(logp[0, 1])


def test_the_ratio_is_clamped():
    """|log r| <= 20."""
    batch = TokenBatch(torch.zeros(1, 1), torch.full((1, 1), -100.0), *torch.ones(2, 1, 1))
    assert batch.log_ratio.item() == 20


def test_from_logits_fills_in_the_distributions():
    """Log-probabilities at the actions and entropies are those of the softmax."""
    logits, old = torch.randn(2, B, T, V).double()
    action = torch.randint(V, (B, T))
    batch = TokenBatch.from_logits(logits, old, action, torch.ones(B, T), torch.ones(B, T))
    for given, logp, entropy in (
        (logits, batch.logp, batch.entropy),
        (old, batch.old_logp, batch.old_entropy),
    ):
        policy = torch.distributions.Categorical(logits=given)
        torch.testing.assert_close(logp, policy.log_prob(action))
        torch.testing.assert_close(entropy, policy.entropy())


def test_from_logits_lets_no_padding_through():
    """NaN logits and out-of-range actions under the mask give finite values and gradients."""
    logits = torch.randn(B, T, V)
    logits[:, -1] = torch.nan
    logits.requires_grad_()
    action = torch.zeros(B, T, dtype=torch.long)
    action[:, -1] = -100
    mask = torch.ones(B, T)
    mask[:, -1] = 0
    batch = TokenBatch.from_logits(logits, logits, action, torch.ones(B, T), mask)
    total = batch.ratio.sum() + batch.entropy.sum() + batch.log_probs[:, :-1].sum()
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, -1] == 0).all()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("old_logits", torch.zeros(B, T, V - 1)),
        ("old_logits", torch.zeros(1, T, V)),
        ("action", torch.zeros(T, dtype=torch.long)),
        ("action", torch.zeros(1, T, dtype=torch.long)),
        ("mask", torch.ones(T)),
        ("mask", torch.ones(2 * B, T)),
        ("mask", [[1] * T] * B),
        ("advantage", torch.ones(T)),
        ("ref_logp", torch.ones(T)),
    ],
)
def test_from_logits_broadcasts_nothing(name, wrong):
    """One row's actions or mask are not silently every row's: the message names the field."""
    given = {
        "logits": torch.zeros(B, T, V),
        "old_logits": torch.zeros(B, T, V),
        "action": torch.zeros(B, T, dtype=torch.long),
        "advantage": torch.ones(B, T),
        "mask": torch.ones(B, T),
    }
    TokenBatch.from_logits(**given)
    with pytest.raises(ValueError, match=rf"^TokenBatch\.{name}: .*, expected \(3, 4") as e:
        TokenBatch.from_logits(**given | {name: wrong})
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_actions_may_be_any_integers(dtype):
    """Their dtype changes no value; actions that are not integers are refused."""
    logits, old = torch.randn(2, B, T, V)
    action = torch.randint(V, (B, T))
    rest = (torch.ones(B, T), torch.ones(B, T))
    expected = TokenBatch.from_logits(logits, old, action, *rest)
    found = TokenBatch.from_logits(logits, old, action.to(dtype), *rest)
    assert torch.equal(found.logp, expected.logp)
    for name, value in drift.measure(expected).items():
        assert torch.equal(drift.measure(found)[name], value), name
    with pytest.raises(ValueError, match=r"action: torch\.float32, expected integers"):
        TokenBatch.from_logits(logits, old, action.float(), *rest)


@pytest.mark.parametrize("wrong", [torch.tensor(1.0), [1.0], 1.0])
@pytest.mark.parametrize("name", ["log_probs", "old_log_probs", "ref_log_probs"])
def test_whole_distributions_that_are_none_are_named(name, wrong):
    """Scalars and lists, too, are refused by field."""
    only = dict.fromkeys(("log_probs", "old_log_probs", "ref_log_probs")) | {name: wrong}
    with pytest.raises(ValueError, match=rf"^TokenBatch\.{name}: .*, expected \(2, 3, 4, 'V'\)"):
        TokenBatch(**arguments(**only))


def test_runs_and_rows_are_sliced_in_every_field():
    """batch[runs] indexes the leading axis, rows(part) the axis of responses, of every field."""
    batch = TokenBatch(**arguments())
    for f in fields(TokenBatch):
        whole = getattr(batch, f.name)
        torch.testing.assert_close(getattr(batch[1], f.name), whole[1])
        torch.testing.assert_close(getattr(batch[:1], f.name), whole[:1])
        torch.testing.assert_close(getattr(batch.rows(slice(1, 3)), f.name), whole[:, 1:3])
    assert batch[1].run_shape == ()
    assert TokenBatch(*torch.zeros(3, 1, 2), torch.ones(1, 2))._map(lambda x: x).entropy is None


def test_a_batch_without_runs_cannot_be_indexed():
    """Slicing responses as if they were runs is an error."""
    with pytest.raises(IndexError, match="no run axis"):
        TokenBatch(**arguments((B, T)))[0]


def test_a_missing_field_names_who_needs_it():
    """The message names field and consumer."""
    batch = TokenBatch(*torch.zeros(3, 1, 2), torch.ones(1, 2))
    with pytest.raises(
        ValueError, match=r"TokenBatch\.entropy: not given, but EntropyRatio needs it"
    ):
        batch.require("entropy", by="EntropyRatio")
    assert batch.require("logp", by="anyone") is batch.logp

"""Losses of jax arrays, differentiated by jax."""

from __future__ import annotations

import pytest

jax = pytest.importorskip("jax")

from planted_faults import built  # noqa: E402

from erc_bench.conformance import adapt, check, probes  # noqa: E402


def clipped(logp, old_logp, advantages, mask, *, reduce):
    xp = jax.numpy
    logp, old_logp, a = (xp.where(mask, x, 0.0) for x in (logp, old_logp, advantages))
    old_logp, a = map(jax.lax.stop_gradient, (old_logp, a))
    r = xp.exp(xp.clip(logp - old_logp, -10, 10))
    return reduce(-xp.minimum(r * a, xp.clip(r, 0.8, 1.28) * a), mask)


@jax.jit
def right(logp, old_logp, advantages, mask):
    return clipped(
        logp,
        old_logp,
        advantages,
        mask,
        reduce=lambda x, m: x.sum() / jax.numpy.maximum(m.sum(), 1),
    )


def wrong(logp, old_logp, advantages, mask):
    return clipped(logp, old_logp, advantages, mask, reduce=lambda x, _: x.mean())


def failures(loss):
    found = adapt(loss)
    assert found.kind == "by name, jax"
    return {r.property.name for r in check(found).results if r.status == "failed"}


def test_a_right_loss_passes_and_a_wrong_one_does_not():
    """Jitted or not; the device is jax's own business."""
    assert failures(right) == set()
    assert failures(wrong) == {"padding_columns", "padding_rows"}


def test_torch_losses_are_still_called_with_tensors():
    """Where jax happens to be imported."""
    assert adapt(built()).kind == "by name"


def test_the_gradient_is_that_of_the_same_loss_in_torch():
    """To the last digits of float64."""

    def in_torch(logp, old_logp, advantages, mask):
        r, a = (logp - old_logp).exp(), advantages
        return -(r * a).minimum(r.clamp(0.8, 1.28) * a)

    fields = probes.tokens()
    one, two = (adapt(loss).evaluate(fields) for loss in (right, in_torch))
    assert float((one.loss - two.loss).abs()) < 1e-12
    assert float((one.gradient["logp"] - two.gradient["logp"]).abs().max()) < 1e-12

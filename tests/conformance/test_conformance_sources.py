"""What parameters can be given, and how arguments with parts are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from erc_bench.conformance import adapt, check, probes
from erc_bench.conformance.nesting import Box
from erc_bench.conformance.sources import FORMS, SOURCES, Source, View
from erc_bench.core.errors import InputError


def clipped(logp, old_logp, advantages, low=0.2, high=0.28):
    r = (logp - old_logp).clamp(-10, 10).exp()
    return -torch.minimum(r * advantages, r.clamp(1 - low, 1 + high) * advantages)


def mean(x, mask):
    return (x * mask).sum() / mask.sum().clamp(min=1)


def failures(loss, **how):
    results = check(adapt(loss, **how)).results
    bad = [r for r in results if r.status == "failed" and r.property.level == "objective"]
    return {r.property.name: r.message for r in bad}


# Losses of logits and labels.


def of_logits(logits, labels, old_logp, advantages, mask, temperature=1.0, shift=0):
    logits = torch.roll(logits, shift, dims=1) / temperature
    logp = logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
    return mean(clipped(logp, old_logp, advantages), mask)


def test_a_loss_of_logits_is_right_only_with_the_right_temperature_and_position():
    """The logits carry logp exactly: a temperature or a shift makes the ratio another than 1."""
    assert failures(of_logits) == {}
    for options in ({"temperature": 0.7}, {"shift": 1}):
        assert "on_policy_gradient" in failures(of_logits, options=options)


def test_logits_hold_the_log_probability_of_the_action_and_its_gradient():
    """So that every probe of sampled ratios works on them; they are not normalised."""
    fields = probes.tokens()
    logp = fields["logp"].clone().requires_grad_()
    logits = View({**fields, "logp": logp}, None, masked=True).take(Source("logits"))
    found = logits.log_softmax(-1).gather(-1, fields["action"][..., None]).squeeze(-1)
    assert torch.allclose(found, logp)
    (gradient,) = torch.autograd.grad(found.sum(), logp)
    assert torch.allclose(gradient, torch.ones_like(gradient))
    assert float(logits.detach().logsumexp(-1).abs().min()) > 0.1


def test_logits_of_prompt_and_response_have_one_position_in_front():
    """A form that may be put on any tensor."""

    def loss(logits, input_ids, old_logp, advantages, mask):
        logp = logits[:, 1:].log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
        return mean(clipped(logp, old_logp, advantages), mask)

    binds = {"logits": "logits:shifted", "input_ids": "labels:shifted"}
    assert failures(loss, binds=binds) == {}


# Packed responses, and lists of them.


def packed(new, old, adv, lengths):
    """Of one-dimensional tensors and the lengths of responses, without a mask."""
    losses = clipped(new, old, adv)
    means = [part.mean() for part in losses.split(lengths.tolist()) if len(part)]
    return torch.stack(means).mean() if means else 0.0 * new.sum()


PACKED = {"new": "logp:packed", "old": "old_logp:packed", "adv": "advantage:packed"}


def test_packed_responses_and_their_lengths():
    """Only the tokens that count are there where the loss takes no mask."""
    assert failures(packed, binds=PACKED) == {}

    def wrong(new, old, adv, lengths):
        return packed(new, old, adv.roll(1), lengths)

    assert failures(wrong, binds=PACKED)


def test_a_packed_result_per_token_is_aggregated():
    """And a list of results per response, too."""

    def per_token(new, old, adv):
        return clipped(new, old, adv)

    def of_lists(new, old, adv):
        return [clipped(*one) for one in zip(new, old, adv, strict=True)]

    lists = {name: source.replace("packed", "list") for name, source in PACKED.items()}
    for aggregate in ("token-mean", "sequence-mean"):
        assert failures(per_token, binds=PACKED, aggregate=aggregate) == {}
        assert failures(of_lists, binds=lists, aggregate=aggregate) == {}


def test_a_loss_without_a_mask_must_not_be_one_number():
    """Padding would count."""

    def loss(logp, advantages):
        return -(logp * advantages).mean()

    with pytest.raises(InputError, match="no parameter takes mask, and the loss is one number"):
        adapt(loss)


def test_masked_slots_inside_a_packed_response_come_with_the_mask():
    """The second token of long responses is a tool's."""
    view = View(probes.tokens(), None, masked=True)
    bare = View(probes.tokens(), None, masked=False)
    assert view.take(Source("lengths")).tolist() == [5, 3, 4, 1, 5, 2]
    assert bare.take(Source("lengths")).tolist() == [4, 3, 4, 1, 4, 2]
    assert view.take(Source("cu_seqlens")).tolist() == [0, 5, 8, 12, 13, 18, 20]
    assert len(bare.take(Source("logp", ("packed",)))) == 18


@pytest.mark.parametrize("form", [f for f in FORMS if f != "each"])
@pytest.mark.parametrize("name", ["logp", "mask"])
def test_every_form_can_be_taken(form, name):
    """Tensors of the shape that its text says."""
    value = View(probes.tokens(), None, masked=True).take(Source(name, (form,)))
    shapes = {"rows": (6,), "packed": (20,), "shifted": (6, 6), "last": (6, 5, 1)}
    if form in ("list", "datum"):
        tensors = [v.to_torch() if form == "datum" else v for v in value]
        assert [len(t) for t in tensors] == [5, 3, 4, 1, 5, 2]
    elif form == "call":
        assert value(1, a=2).shape == (6, 5)
    else:
        assert value.shape == shapes.get(form, (6, 5))


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_can_be_taken(name):
    """Each is a tensor, or nothing; several make a tuple."""
    view = View(probes.tokens(), None, masked=True)
    kind = type(None) if name == "none" else torch.Tensor
    assert isinstance(view.take(Source(name)), kind)
    assert isinstance(view.take(Source.parse(f"logp,{name}"))[1], kind)


# Arguments with parts.


@dataclass
class Clip:
    low: float = 0.2
    high: float = 0.28


@dataclass
class Settings:
    clip: Clip = field(default_factory=Clip)
    scale: float = 1.0


class Model(BaseModel):
    clip: Clip = Clip()
    scale: float = 1.0


class Typed(TypedDict):
    scale: float


def of_settings(logp, old_logp, advantages, mask, config: Settings):
    assert type(config) is Settings
    return mean(clipped(logp, old_logp, advantages, config.clip.low, config.clip.high), mask)


def of_model(logp, old_logp, advantages, mask, config: Model | None):
    assert type(config) is Model
    return mean(clipped(logp, old_logp, advantages, config.clip.low, config.clip.high), mask)


def of_typed_dict(logp, old_logp, advantages, mask, config: Typed):
    return config["scale"] * mean(clipped(logp, old_logp, advantages), mask)


@pytest.mark.parametrize("loss", [of_settings, of_model])
def test_a_configuration_has_the_annotated_type(loss):
    """Made without arguments where that is possible; a part that it does not have is refused."""
    assert failures(loss) == {}
    assert adapt(loss).clip is None
    found = {
        r.property.name: r for r in check(adapt(loss, options={"config.clip.high": 0.5})).results
    }
    assert "clipped from r = 1.5" in found["clip_restoring_side"].message
    if loss is of_settings:
        with pytest.raises(InputError, match=r"set: config: Settings: .*unexpected keyword"):
            adapt(loss, options={"config.nothing": 1.0})


def test_a_typed_dict_is_read_by_key():
    """And misses what it is not given."""
    assert failures(of_typed_dict, options={"config.scale": 2.0}) == {}
    with pytest.raises(InputError, match=r"KeyError: .*config\.scale"):
        adapt(of_typed_dict, options={"config.other": 2.0})


class Made:
    """Constructor and call both take arguments."""

    def __init__(self, config: Settings, bonus=0.0):
        self.config, self.bonus = config, bonus

    def __call__(self, logp, old_logp, advantages, mask, entropy, scale=1.0):
        low, high = self.config.clip.low, self.config.clip.high
        losses = clipped(logp, old_logp, advantages, low, high) - self.bonus * entropy
        return scale * mean(losses, mask)


def test_options_of_a_class_go_where_they_belong():
    """To the constructor where it has such a parameter, to the call where not."""
    options = {"config.clip.low": 0.1, "bonus": 0.01, "scale": 3.0}
    found = {r.property.name: r.message for r in check(adapt(Made, options=options)).results}
    assert "up to r = 0.9" in found["clip_restoring_side"]
    assert "coefficient 0.01" in found["entropy_gradient"]
    assert found["on_policy_gradient"].startswith("token-mean, times 3")
    with pytest.raises(InputError, match="'bonsu' is no parameter of the loss"):
        adapt(Made, options={"bonsu": 0.01})


def test_a_box_tells_what_nothing_has_read():
    """By attribute, key, ``get``, ``in`` and ``**``."""
    box = Box("config", {"a": 1, "b": 2, "c": 3, "d": 4, "e": Box("config.e", {"f": 5})})
    assert (box.a, box["b"], box.get("c"), "d" in box, box.get("g", 7)) == (1, 2, 3, True, 7)
    assert list(box.unread()) == ["config.e.f"]
    assert dict(**box.e) == {"f": 5}
    assert list(box.unread()) == []
    with pytest.raises(AttributeError, match=r"--set config\.h=VALUE"):
        _ = box.h


def test_paths_that_contradict_each_other_are_refused():
    """A value has no parts."""
    for options in ({"config": 1, "config.a": 2}, {"config.a.b": 1, "config.a": 2}):
        with pytest.raises(InputError, match="given"):
            adapt(of_typed_dict, options=options)


def test_a_count_that_is_given_and_not_read():
    """An own parameter is expected to be used; a configuration's count only where the loss reads it."""

    def ignores(logp, old_logp, advantages, mask, num_tokens=None):
        return mean(clipped(logp, old_logp, advantages), mask)

    def of_verl(old_log_prob, log_prob, advantages, response_mask, config=None):
        return mean(clipped(log_prob, old_log_prob, advantages, config.clip_ratio), response_mask)

    assert "which make no difference" in failures(ignores)["micro_batches"]
    assert "micro_batches" not in failures(of_verl)


def of_anything(log_probs, old_log_probs, advantages, config, loss_mask, scale=1.0, **kwargs):
    config.get("low", 0.2)
    return mean(clipped(log_probs, old_log_probs, advantages), loss_mask)


WORDS = st.sampled_from(["config", "low", "scale", "old_log_probs", "logp", "*", "", "x", "packed"])
PATHS = st.lists(WORDS, min_size=1, max_size=3).map(".".join)
FIELDS = st.sampled_from([*SOURCES, "nothing", "", "logp,entropy"])
TEXTS = st.tuples(FIELDS, st.lists(st.sampled_from([*FORMS, "nothing"]), max_size=2))
VALUES = st.none() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    options=st.dictionaries(PATHS, VALUES, max_size=3),
    binds=st.dictionaries(PATHS, TEXTS.map(lambda t: ":".join([t[0], *t[1]])), max_size=2),
    like=st.sampled_from([None, "skyrl", "verl", "prime-rl", "roll"]),
)
def test_whatever_is_set_and_bound_ends_in_a_loss_or_in_one_line(options, binds, like):
    """Of a message that names what is wrong; nothing else is raised."""
    text = "a loss"
    try:
        adapt(of_anything, options=options, binds=binds, like=like)
    except InputError as refused:
        text = str(refused)
    assert 0 < len(text) < 3000
    assert "\n" not in text

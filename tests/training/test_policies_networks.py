import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional

from erc_bench.training.policies import MLP, POLICIES, Tabular, build_policy
from erc_bench.training.policies.networks import MAX_TABLE, OneHotHidden

SPACE = spaces.MultiDiscrete([3, 4, 2])
BOX = spaces.Box(-1.0, 1.0, (5,))


def codes(*shape):
    return torch.as_tensor(np.random.default_rng(0).integers(SPACE.nvec, size=(*shape, 3)))


def one_hot(x):
    return torch.cat([functional.one_hot(x[..., i], n) for i, n in enumerate(SPACE.nvec)], dim=-1)


def test_one_hot_hidden_is_a_rectified_linear_layer_on_one_hot_codes():
    """Values and the gradient of the table equal those of ``relu(nn.Linear)`` in float64."""
    layer = OneHotHidden([3, 4, 2], 7).double()
    linear = nn.Linear(9, 7, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(layer.table.T)
    x = codes(6, 5)
    weight = torch.randn(6, 5, 7, dtype=torch.float64)
    ours, theirs = layer(x), linear(one_hot(x).double()).relu()
    torch.testing.assert_close(ours, theirs)
    assert (ours == 0).any()
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(layer.table.grad, linear.weight.grad.T)


@pytest.mark.parametrize("shape", [(4,), (4, 2)])
@pytest.mark.parametrize(("kind", "space"), [(MLP, SPACE), (MLP, BOX), (Tabular, SPACE)])
def test_forward_runs_is_each_module_alone(kind, space, shape):
    """R copies evaluated together: values and every parameter's gradient are those of each module."""
    modules = [kind(space, 5).double() for _ in range(3)]
    for module in modules:
        for p in module.parameters():
            nn.init.normal_(p)  # a Tabular starts at zero, an MLP's output layer close to it
    params, _ = torch.func.stack_module_state(modules)
    x = codes(3, *shape) if space is SPACE else torch.rand(3, *shape, 5, dtype=torch.float64)
    out = modules[0].forward_runs(params, x)
    weight = torch.randn(out.shape, dtype=torch.float64)
    gradients = torch.autograd.grad((out * weight).sum(), list(params.values()))
    for r, module in enumerate(modules):
        mine = module(x[r])
        torch.testing.assert_close(out[r], mine)
        alone = torch.autograd.grad((mine * weight[r]).sum(), list(module.parameters()))
        for together, single in zip(gradients, alone, strict=True):
            assert single.abs().sum() > 0
            torch.testing.assert_close(together[r], single)


def test_one_hot_hidden_starts_with_unit_variance():
    """Rows have variance 1/F: the sum over F features has variance one, half of it rectified away."""
    torch.manual_seed(0)
    x = torch.randint(20, (2000, 4))
    y = OneHotHidden([20] * 4, 512)(x)
    assert y.square().mean().item() == pytest.approx(0.5, rel=0.05)


def test_tabular_has_one_row_per_joint_value():
    """``ravel_multi_index`` names the row; the gradient touches visited rows only; starts uniform."""
    policy = Tabular(SPACE, 5).double()
    assert policy.table.weight.shape == (24, 5)
    assert (policy.table.weight == 0).all()
    with torch.no_grad():
        policy.table.weight.normal_()
    x = codes(6, 2)
    flat = np.ravel_multi_index(tuple(np.moveaxis(x.numpy(), -1, 0)), SPACE.nvec)
    out = policy(x)
    torch.testing.assert_close(out, policy.table.weight[torch.as_tensor(flat)])
    out.sum().backward()
    touched = policy.table.weight.grad.abs().sum(-1) > 0
    assert set(touched.nonzero().squeeze(-1).tolist()) == set(flat.ravel().tolist())


@pytest.mark.parametrize("space", [SPACE, BOX], ids=["MultiDiscrete", "Box"])
def test_mlp_reads_both_kinds_of_space(space):
    """It equals relu between two linear layers, for any leading axes, and starts close to uniform."""
    torch.manual_seed(0)
    policy = MLP(space, 6, hidden=16).double()
    x = codes(4, 3) if space is SPACE else torch.rand(4, 3, 5, dtype=torch.float64)
    if space is SPACE:
        first = (one_hot(x).double() @ policy.first.table).relu()
    else:
        first = policy.first(x)
        assert (first >= 0).all()
    out = policy(x)
    assert out.shape == (4, 3, 6)
    torch.testing.assert_close(out, policy.last(first))
    assert (out.softmax(-1) - 1 / 6).abs().max() < 0.02
    assert all(p.requires_grad for p in policy.parameters())


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_policy_is_built_by_name(name):
    """The registry's classes take a space and a number of outputs."""
    space = spaces.MultiDiscrete([5, 5, 5])
    policy = build_policy(name, space, 6)
    assert isinstance(policy, POLICIES[name])
    assert policy(torch.ones(2, 3, dtype=torch.int64)).shape == (2, 6)


@pytest.mark.parametrize(
    ("name", "space", "told"),
    [
        ("rnn", SPACE, "'rnn' is unknown (known: tabular, mlp, transformer)"),
        ("transformer", SPACE, "token contexts"),
        ("tabular", BOX, "use mlp"),
        ("tabular", spaces.MultiDiscrete([MAX_TABLE, 2]), "too large; use mlp"),
        ("tabular", spaces.MultiDiscrete([2**31 - 1] * 8), "too large; use mlp"),
        ("mlp", spaces.Box(0, 1, (2, 2)), "one-dimensional Box"),
        ("mlp", spaces.Discrete(3), "MultiDiscrete or one-dimensional Box"),
        ("mlp", spaces.Text(3), "MultiDiscrete or one-dimensional Box"),
    ],
)
def test_a_space_or_name_that_does_not_fit_is_named(name, space, told):
    """ValueError, ``policy:`` first, then what would do."""
    with pytest.raises(ValueError, match=r"^policy: ") as caught:
        build_policy(name, space, 6)
    assert told in str(caught.value)

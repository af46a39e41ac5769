import numpy as np
import pytest
import torch

from erc_bench.conformance import load_loss, probes
from erc_bench.conformance.origins import computes_from
from erc_bench.objectives import RECIPES

#: On the batch's device, which they name.
MAKE_TENSORS = {"sapo", "clip-cov", "kl-cov", "m2po", "placebo-erc-dapo"}
READ_VALUES = {"troll"}  # it projects the tokens outside its region, however many they are
WEIGHTS = torch.ones(6, 5, dtype=torch.float64)

#: Losses of ``logp`` and ``mask`` that use, or may use, what does not live on the batch's device.
ELSEWHERE = {
    "new tensor": lambda x, mask: (x * torch.ones(x.shape)).sum(),
    "tensor kept since it was built": lambda x, mask: (x * WEIGHTS).sum(),
    "number as a tensor": lambda x, mask: x.sum() * torch.tensor(2.0),
    "places up to a length": lambda x, mask: x[:, torch.arange(mask.sum(1).max())].sum(),
    "filled with a value": lambda x, mask: x.sum() * torch.full((), x.detach().max()),
    "moved": lambda x, mask: x.cpu().sum(),
    "moved by name": lambda x, mask: x.to("cpu").sum(),
    "moved to a device": lambda x, mask: x.to(torch.device("cpu"), torch.float32).sum(),
    "moved by type": lambda x, mask: x.type(torch.FloatTensor).sum(),
    "array": lambda x, mask: (x * torch.from_numpy(np.ones((6, 5)))).sum(),
    "through an array": lambda x, mask: torch.from_numpy(x.numpy()).sum(),
    "written into": lambda x, mask: x.clone().mul_(WEIGHTS).sum(),
    "value read": lambda x, mask: x.sum() / mask.sum().item(),
    "value asked for": lambda x, mask: x.sum() if mask.any() else 0 * x.sum(),
    "no tensor": lambda x, mask: 0.0,
    "fails": lambda x, mask: x.no_such_method(),
}
HERE = {
    "shapes and types": lambda x, mask: (x.float() * mask.to(x.dtype)).sum() / x.size(0) / len(x),
    "like the batch": lambda x, mask: (x * torch.ones_like(x) * x.new_ones(6, 1)).sum(),
    "several results": lambda x, mask: torch.stack([*x.max(1), *x.unbind(1)[0:0]]).sum(),
    "chosen": lambda x, mask: torch.where(mask, x, 0.0)[mask][1:].logsumexp(-1),
    "written": lambda x, mask: x.clone().masked_fill_(~mask, 0.0).T.sum(),
}


def fits(loss):
    fields = probes.tokens()
    used = fields["logp"], fields["mask"]
    return computes_from(used, lambda: loss(*used))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_loss_that_may_use_another_device_is_told(name):
    assert not fits(ELSEWHERE[name])


@pytest.mark.parametrize("name", HERE)
def test_a_loss_of_nothing_but_the_batch_is_told(name):
    assert fits(HERE[name])


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in READ_VALUES])
def test_what_computes_from_the_batch_alone_runs_on_torchs_device_without_values(recipe):
    """The meta device is the oracle: it refuses a mix of devices, and a value that is read."""
    loss, fields = load_loss(recipe), probes.tokens()
    from_batch = computes_from(fields.values(), lambda: loss.call(fields, None)[0])
    assert from_batch == (recipe not in MAKE_TENSORS)
    found = loss.call({name: value.to("meta") for name, value in fields.items()}, None)
    assert found[0].device.type == "meta"

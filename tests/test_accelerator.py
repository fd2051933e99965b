"""The tests' accelerator refuses, allows and counts the same operations as a CUDA device."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.accelerator import Accelerator, on_device

DEVICES = "same device"


@pytest.fixture
def accelerator():
    with Accelerator() as accelerator:
        yield accelerator


def there(*shape):
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape).to("cuda")


REFUSED = {
    "clamp_ by 0-dimensional tensors": (lambda x: x.clamp_(torch.tensor(0.0), torch.tensor(1.0)), DEVICES),
    "lerp by one": (lambda x: x.lerp(x, torch.tensor(0.5)), DEVICES),
    "a sum": (lambda x: x + torch.ones(3, 4), DEVICES),
    "a sum into the CPU": (lambda x: torch.tensor(1.0).add_(x.sum()), DEVICES),
    "where": (lambda x: torch.where(x > 0, torch.ones(3, 4), x), DEVICES),
    "cat": (lambda x: torch.cat([x, torch.ones(1, 4)]), DEVICES),
    "a matrix product": (lambda x: F.linear(x, torch.ones(2, 4)), DEVICES),
    "index_add_ to the CPU": (lambda x: torch.zeros(4).index_add_(0, torch.zeros(3).long(), x[:, 0]), DEVICES),
    "gather": (lambda x: x.gather(0, torch.zeros(1, 4).long()), DEVICES),
    "embedding": (lambda x: F.embedding(torch.tensor([0]), x), DEVICES),
    "index of the CPU": (lambda x: torch.ones(3)[torch.zeros(1, device="cuda").long()], DEVICES),
    "index_put of the CPU": (lambda x: x.index_put_((torch.tensor([0]),), torch.ones(4)), DEVICES),
    "a generator of the CPU": (lambda x: torch.randn(3, device="cuda", generator=torch.Generator()), "generator"),
    "numpy": (lambda x: x.detach().numpy(), "Tensor.cpu"),
    "an array": (np.array, "Tensor.cpu"),
    "a loss": (lambda x: F.mse_loss(x, torch.ones(3, 4)), DEVICES),
    "a layer": (lambda x: nn.Linear(4, 2)(2 * x), DEVICES),
}
ALLOWED = {
    "a 0-dimensional factor": lambda x: x * torch.tensor(2.0),
    "a bound of one side": lambda x: torch.maximum(x, torch.tensor(2.0)),
    "masked_fill": lambda x: x.masked_fill(x > 1, torch.tensor(2.0)),
    "where": lambda x: torch.where(x > 1, torch.tensor(2.0), x),
    "an index of the CPU": lambda x: x[torch.tensor([0, 2])],
    "a list": lambda x: x[[0, 2]],
    "a range": lambda x: x[range(1, 3)],
    "numpy's places": lambda x: x[np.array([2, 0]), 1],
    "a copy": lambda x: x.copy_(torch.ones(3, 4)),
    "numbers": lambda x: x.clamp(0.0, 1.0).add_(1).pow(2),
    "made there": lambda x: torch.full((2,), 0.5, device="cuda"),
    "made alike": lambda x: x.new_tensor([1.0]) + torch.zeros_like(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operations_that_cuda_refuses_are_refused(accelerator, name):
    function, message = REFUSED[name]
    with pytest.raises((RuntimeError, TypeError), match=message):
        function(there(3, 4))


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_operations_compute_the_same_as_on_the_cpu(name):
    function = ALLOWED[name]
    with Accelerator():
        found = function(there(3, 4))
        assert on_device(found) and found.device.type == "cuda" and found.is_cuda
        found = found.cpu()
    if name != "made there":
        torch.testing.assert_close(found, function(torch.arange(1.0, 13).reshape(3, 4)))


WAITS = {
    "item": (1, lambda x: x.sum().item()),
    "float": (1, lambda x: float(x.sum())),
    "bool": (1, lambda x: bool((x > 0).all())),
    "tolist": (1, lambda x: x.tolist()),
    "to the CPU": (1, lambda x: x.cpu()),
    "to the device": (1, lambda x: torch.ones(3).to("cuda")),
    "numbers to the device": (1, lambda x: torch.tensor([1.0], device="cuda")),
    "nonzero": (1, lambda x: x.nonzero()),
    "where": (1, lambda x: torch.where(x > 2)),
    "a mask": (1, lambda x: x[x > 2]),
    "equal": (1, lambda x: torch.equal(x, x)),
    "an inverse": (1, lambda x: x[:, :3].inverse()),
    "synchronize": (1, lambda x: torch.cuda.synchronize()),
    "an index on the device": (0, lambda x: x[x.sum(1).argsort()]),
    "a mask that is filled": (0, lambda x: x.masked_fill_(x > 2, 0.0)),
    "pinned and not waited for": (0, lambda x: torch.ones(3).pin_memory().to("cuda", non_blocking=True)),
    "arithmetic": (0, lambda x: torch.linalg.inv_ex((x @ x.T)[:2, :2] + 1).inverse.sum()),
}


@pytest.mark.parametrize("name", WAITS)
def test_host_waits_are_counted(accelerator, name):
    count, function = WAITS[name]
    x = there(3, 4)
    accelerator.waits.clear()
    function(x)
    assert sum(accelerator.waits.values()) == count, accelerator.waits


def test_networks_train_as_on_the_cpu(accelerator):
    """Parameters, views, in-place steps, attention, and a checkpoint in the backward pass."""

    def train(device):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4)).to(device)
        x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
        adam = torch.optim.Adam(network.parameters(), lr=0.1)
        for _ in range(3):
            adam.zero_grad()
            hidden = checkpoint(lambda value: network(value) * torch.ones(4, device=device), x, use_reentrant=False)
            hidden = F.scaled_dot_product_attention(hidden[:, None], hidden[:, None], hidden[:, None])
            part = hidden.clone()
            part[0] *= 2
            part.square().mean().backward()
            adam.step()
        assert {state["exp_avg"].device.type for state in adam.state.values()} == {torch.device(device).type}
        assert x.grad is not None
        return [*(value.detach().cpu() for value in network.parameters()), x.grad.cpu()]

    for found, expected in zip(train("cuda"), train("cpu"), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

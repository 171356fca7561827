"""Top eigenvalues of operators whose spectrum is known."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from train.eigen import top_eigenpair
from train.landscape import flat, quadratic
from train.sharpness import top_of


def symmetric(spectrum, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.as_tensor(spectrum, dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64, generator=generator))
    return q @ torch.diag(spectrum) @ q.T, q


def start(n, seed=1):
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "spectrum",
    [
        [-20.0, *torch.linspace(-1, 3, 97).tolist(), 9.5, 10.0],  # the largest, not the largest in size
        torch.logspace(-6, 3, 60).tolist(),
        [-3.0, -2.0, -1.0],  # a maximum of the loss
        [7.0],
        [2.0, 2.0, 2.0],
    ],
)
def test_a_known_spectrum(spectrum):
    matrix, q = symmetric(spectrum)
    top = top_eigenpair(lambda v: matrix @ v, start(len(spectrum)), 1e-7, 1000)
    assert top.value == pytest.approx(max(spectrum), rel=1e-6)
    assert top.residual <= 1e-7
    if len(set(spectrum)) == len(spectrum):
        assert abs(top.vector @ q[:, spectrum.index(max(spectrum))]) == pytest.approx(1, abs=1e-6)


def test_the_residual_bounds_the_error():
    matrix, _ = symmetric([*torch.linspace(0, 1, 300).tolist()])
    for tolerance in (1e-1, 1e-2, 1e-3):
        top = top_eigenpair(lambda v: matrix @ v, start(300), tolerance, 1000)
        distance = (torch.linspace(0, 1, 300) - top.value).abs().min()
        assert distance <= top.residual * top.value <= tolerance * top.value


def test_a_warm_start_is_cheaper():
    matrix, _ = symmetric([*torch.linspace(0, 1, 300).tolist(), 5.0])
    cold = top_eigenpair(lambda v: matrix @ v, start(301), 1e-4, 1000)
    warm = top_eigenpair(lambda v: matrix @ v, cold.vector, 1e-4, 1000)
    assert (warm.products, cold.products > 4) == (1, True)


def test_it_gives_up_and_says_so():
    matrix, _ = symmetric(torch.linspace(0.99, 1, 300).tolist())
    top = top_eigenpair(lambda v: matrix @ v, start(300), 1e-9, 7)
    assert (top.products, top.residual > 1e-9) == (7, True)


def test_what_is_not_finite_ends_the_search():
    top = top_eigenpair(lambda v: v * float("nan"), start(5), 1e-3, 100)
    assert top.residual != top.residual


def test_a_flat_loss_has_sharpness_0():
    assert top_eigenpair(torch.zeros_like, start(5), 1e-3, 100).value == 0


@pytest.fixture
def network():
    """A small network in fp64, its weights and its loss."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 3)).double()
    inputs, targets = torch.randn(20, 5, dtype=torch.float64), torch.randint(3, (20,))
    weights = {name: parameter.detach() for name, parameter in net.named_parameters()}
    return weights, lambda w: nn.functional.cross_entropy(functional_call(net, w, (inputs,)), targets)


def dense_hessian(weights, loss):
    sizes = [tensor.numel() for tensor in weights.values()]

    def of_flat(vector):
        parts = zip(weights.items(), vector.split(sizes), strict=True)
        return loss({name: part.view_as(tensor) for (name, tensor), part in parts})

    return torch.as_tensor(torch.autograd.functional.hessian(of_flat, flat(weights)))


def test_a_network_against_its_dense_hessian(network):
    weights, loss = network
    around, dense = quadratic(loss, weights), dense_hessian(weights, loss)
    torch.testing.assert_close(around.hessian(start(len(dense))), dense @ start(len(dense)))
    top = top_of(around, start(len(dense)), None, 1e-6)
    assert top.value == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-5)


def test_a_preconditioned_network_against_its_dense_matrix(network):
    weights, loss = network
    around, dense = quadratic(loss, weights), dense_hessian(weights, loss)
    p = torch.logspace(-3, 1, len(dense), dtype=torch.float64)[torch.randperm(len(dense))]
    top = top_of(around, start(len(dense)), p.rsqrt(), 1e-6)
    assert top.value == pytest.approx(torch.linalg.eigvals(dense / p[:, None]).real.max().item(), rel=1e-5)

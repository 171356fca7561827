"""The largest eigenvalue of a symmetric operator that is known only by its products with vectors."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
VANISHED = 1e-5  # a direction that keeps less of itself beside the others is none


@dataclass(frozen=True)
class Top:
    """The top eigenpair as far as it was found."""

    value: float
    vector: Tensor  # (n,), of norm 1
    residual: float  # |A x - value x| / |value|; an eigenvalue lies within that part of `value`
    products: int  # with the operator


@torch.no_grad()
def top_eigenpair(product: Product, start: Tensor, tolerance: float, most: int) -> Top:
    """LOBPCG with one vector (Knyazev 2001, without a preconditioner), until the residual is at most `tolerance`.

    `product` maps (n,) to (n,) and is symmetric; `start` (n,) must not be orthogonal to what is sought. Each round
    takes one product with the operator, and the best vector of the span of the present one, its residual and the last
    move.
    It gives up after `most` products, or where a product is not finite: the residual, then nan, tells.
    """
    x = start / start.norm()
    ax, products = product(x), 1
    move: tuple[Tensor, Tensor] | None = None  # the last one, and its product
    while True:
        value = _dot(x, ax)
        rest = ax - value * x
        residual = rest.norm().item()
        relative = residual / abs(value) if value else residual
        if not relative > tolerance or products >= most:  # also if it is nan
            return Top(value, x, relative, products)
        rest = rest / residual
        rest = rest - _dot(x, rest) * x
        rest = rest / rest.norm()
        basis, images, products = [x, rest], [ax, product(rest)], products + 1
        if move is not None:
            last, image = move
            for _ in range(2):  # once leaves as much as rounding has put in
                for v, av in zip(basis, images, strict=True):
                    part = _dot(v, last)
                    last, image = last - part * v, image - part * av
            if (size := last.norm().item()) > VANISHED:
                basis, images = [*basis, last / size], [*images, image / size]
        gram = torch.tensor([[_dot(v, aw) for aw in images] for v in basis], dtype=torch.float64)
        if not gram.isfinite().all():
            return Top(value, x, float("nan"), products)
        weights = torch.linalg.eigh((gram + gram.T) / 2).eigenvectors[:, -1].tolist()
        step, image = (_combined(weights[1:], vectors[1:]) for vectors in (basis, images))
        x, ax = weights[0] * x + step, weights[0] * ax + image
        size = step.norm()
        move = (step / size, image / size) if size > 0 else None
        x, ax = x / (norm := x.norm()), ax / norm


def _combined(weights: list[float], vectors: list[Tensor]) -> Tensor:
    total = weights[0] * vectors[0]
    for weight, vector in zip(weights[1:], vectors[1:], strict=True):
        total = total + weight * vector
    return total


def _dot(a: Tensor, b: Tensor) -> float:
    """In fp64: sums of millions of products decide when to stop."""
    return torch.dot(a.double(), b.double()).item()

"""Muon: momentum that is made orthogonal, so that a layer's weights change alike in all directions.

Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024. torch.optim.Muon takes matrices alone, and
computes in bfloat16, for which a processor that only imitates it needs longer than for the rest of an update.
"""

from collections.abc import Iterable
from typing import Any

import torch

_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315  # the authors': five steps bring most singular values to between 0.7 and 1.2
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """For weights [outputs, ...] of two or more dimensions. Each update also multiplies a weight by
    1 - learning rate × `weight_decay`."""

    def __init__(self, weights: Iterable[torch.Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure, which nobody has here
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, self.state[weight], group["lr"], group["weight_decay"])

    def _step(self, weight: torch.Tensor, state: dict[str, Any], rate: float, decay: float) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(weight.grad, 1 - _MOMENTUM)
        direction = orthogonal(weight.grad.lerp(momentum, _MOMENTUM).flatten(1))  # type: ignore[union-attr]
        rows, columns = direction.shape
        weight.mul_(1 - rate * decay)
        weight.sub_(direction.reshape(weight.shape), alpha=rate * max(1, rows / columns) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """float32 [m, n] → about the nearest matrix that has no direction longer than another (Newton and Schulz)."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    matrix = matrix / (matrix.norm() + 1e-7)
    gram = matrix @ matrix.T
    identity = product = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    # Each step makes X of (A + B X Xᵀ + C (X Xᵀ)²) X. Those factors are small; X, which is not, is multiplied once.
    for _ in range(_STEPS):
        factor = _A * identity + _B * gram + _C * gram @ gram
        product, gram = factor @ product, factor @ gram @ factor
    return product @ matrix

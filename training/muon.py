"""Muon: momentum whose every step turns and stretches a layer's weights alike in all directions.

Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024. torch.optim.Muon takes matrices alone, and
computes in bfloat16, for which a processor that only imitates it needs longer than for the rest of an update.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315  # the authors': five steps bring all singular values to between 0.7 and 1.2
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions or more, the first that of outputs; `weight_decay` times the learning rate is the
    part of a weight that goes with an update."""

    def __init__(self, weights: Iterable[torch.Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
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
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    found: torch.Tensor = x if wide is matrix else x.T
    return found

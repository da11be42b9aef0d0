"""The controller's mathematics as pure functions (Zoph & Le 2017, 3.2)."""

from __future__ import annotations

from torch import Tensor


def reinforce_loss(log_prob_k: Tensor, adv_k: Tensor) -> Tensor:
    """Return the loss whose gradient is -(1/m) sum_k grad log P(a_k) (R_k - b).

    log_prob_k: `[m]`, log-probability of each whole architecture. adv_k: `[m]`, R_k - b, taken as
    constant.
    """
    assert log_prob_k.shape == adv_k.shape, (log_prob_k.shape, adv_k.shape)
    return -(log_prob_k * adv_k.detach()).mean()


def ema(b: float, rewards: list[float], decay: float) -> float:
    """Return the moving average `b` after `rewards`: b <- decay b + (1 - decay) R, one by one."""
    for reward in rewards:
        b = decay * b + (1 - decay) * reward
    return b

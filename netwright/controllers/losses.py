"""The policies' mathematics as pure functions (Zoph & Le 2017, 3.2; Schulman et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def reinforce_loss(log_prob_k: Tensor, adv_k: Tensor) -> Tensor:
    """Return the loss whose gradient is -(1/m) sum_k grad log P(a_k) (R_k - b).

    log_prob_k: `[m]`, log-probability of each whole architecture. adv_k: `[m]`, R_k - b, taken as
    constant.
    """
    assert log_prob_k.shape == adv_k.shape, (log_prob_k.shape, adv_k.shape)
    return -(log_prob_k * adv_k.detach()).mean()


def clipped_loss(log_prob_k: Tensor, then_k: Tensor, adv_k: Tensor, clip: float) -> Tensor:
    """Return -(1/m) sum_k min(r_k A_k, clamp(r_k, 1 - clip, 1 + clip) A_k) (Schulman et al. 2017).

    r_k: the ratio exp(log_prob_k - then_k). log_prob_k, then_k: `[m]`, log-probability of each
    whole architecture now, and when it was proposed. adv_k: `[m]`, R_k - b. then_k and adv_k are
    taken as constant.
    """
    assert log_prob_k.shape == then_k.shape == adv_k.shape, (log_prob_k.shape, then_k.shape)
    ratio_k = (log_prob_k - then_k.detach()).exp()
    clamped_k = ratio_k.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio_k * adv_k.detach(), clamped_k * adv_k.detach()).mean()


def ema(b: float, rewards: list[float], decay: float) -> float:
    """Return the moving average `b` after `rewards`: b <- decay b + (1 - decay) R, one by one."""
    for reward in rewards:
        b = decay * b + (1 - decay) * reward
    return b

"""The learning rate as a function of the step and of nothing else, so that a restarted run has the same one."""

from math import cos, pi


def learning_rate_share(step: int, *, warmup_steps: int, decay_steps: int, final_share: float) -> float:
    """Learning rate of a step as a share of the highest one: a linear warm-up, then half a cosine down.

    Args:
        step: Number of the step, from 0. Steps beyond ``decay_steps`` stay at the lowest rate.
        warmup_steps: Step ``warmup_steps - 1`` is the first at the highest rate.
        decay_steps: Steps until the lowest rate, the warm-up included.
        final_share: The lowest rate as a share of the highest.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, decay_steps - 1 - warmup_steps))
    return final_share + (1 - final_share) * 0.5 * (1 + cos(pi * progress))

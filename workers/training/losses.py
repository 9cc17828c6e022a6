"""Losses that several trainings share."""

from torch import Tensor


def gradient_l1(made: Tensor, wanted: Tensor) -> Tensor:
    """The L1 distance between the differences of neighbouring pixels: it punishes blur.

    Mathieu et al. 2015 (arXiv:1511.05440), their gradient difference loss with alpha 1.
    """
    difference = made - wanted
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return across + down

"""What discriminator and generator make small, by turns; logits (B,) on real and made pictures."""

import torch
from torch import Tensor
from torch.nn import functional


def of_discriminator(loss: str, on_real: Tensor, on_fake: Tensor) -> Tensor:
    """Real pictures are 1, made ones 0; or beyond the margins 1 and -1 ("hinge").

    Goodfellow et al. 2014 (arXiv:1406.2661), equation 1; Lim and Ye 2017 (arXiv:1705.02894).
    """
    if loss == "hinge":
        return functional.relu(1 - on_real).mean() + functional.relu(1 + on_fake).mean()
    real, fake = torch.ones_like(on_real), torch.zeros_like(on_fake)
    return functional.binary_cross_entropy_with_logits(
        on_real, real
    ) + functional.binary_cross_entropy_with_logits(on_fake, fake)


def of_generator(loss: str, on_fake: Tensor) -> Tensor:
    """Against flipped labels: what it makes should be taken for real.

    Not the negative of the discriminator's, whose gradient vanishes while the discriminator is
    sure (Goodfellow et al. 2014, section 3).
    """
    if loss == "hinge":
        return -on_fake.mean()
    return functional.binary_cross_entropy_with_logits(on_fake, torch.ones_like(on_fake))

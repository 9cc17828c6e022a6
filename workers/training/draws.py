"""Where chance comes from in a training: every draw depends on its seed and the step alone."""

import numpy as np
import torch

from jobs.kinds.values import derived_seed


def begin(seed: int, *parts: object) -> np.random.Generator:
    """Seed all that torch draws from here on, and give a generator for what it does not draw.

    ``parts`` say what is drawn for, such as a step's number. What was drawn before does not matter,
    so that a training that goes on from a checkpoint draws the same as one that was never stopped.
    """
    names = [str(part) for part in (seed, *parts)]
    torch.manual_seed(derived_seed("torch", *names))
    return np.random.default_rng(derived_seed("numpy", *names))

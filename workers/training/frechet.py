"""How far generated pictures are from real ones, as wholes: the Fréchet distance of features."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from workers.training.features import Extractor, Features, features_of, spread
from workers.training.trainer import Numbers

LEAST = 64
"""Of how many pictures on either side it says anything."""


def distance(made: Features, real: Features) -> float:
    """The squared Fréchet distance between normal distributions with their means and covariances.

    Dowson and Landau 1982; of the features of pictures: Heusel et al. 2017 (arXiv:1706.08500).
    It is 0 for the same and has no upper bound. Comparable are those of the same extractor and
    count alone: what is not the same is estimated too far, the more the fewer pictures there are
    (Chong and Forsyth 2020, arXiv:1911.07023).

    Raises:
        ValueError: there are fewer than two of either, their widths differ, or not all is finite.
    """
    if made.ndim != 2 or real.ndim != 2 or made.shape[1:] != real.shape[1:]:  # noqa: PLR2004
        raise ValueError(f"features of one extractor are needed: {made.shape}, {real.shape}")
    if min(len(made), len(real)) < 2:  # noqa: PLR2004
        raise ValueError("two pictures on either side are needed at least")
    if not (np.isfinite(made).all() and np.isfinite(real).all()):
        raise ValueError("features are not finite")
    root_a, root_b = _root(made), _root(real)
    # tr((A B)^1/2) of A = a'a and B = b'b is the sum of the singular values of a b': no square
    # root of a matrix is taken, whose error would be the root of the precision.
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    means = ((made.mean(axis=0) - real.mean(axis=0)) ** 2).sum()
    return float(max(means + (root_a**2).sum() + (root_b**2).sum() - 2 * shared, 0))


def numbers(
    extractor: Extractor,
    made: Tensor | Sequence[Image.Image],
    real: Tensor | Sequence[Image.Image],
) -> Numbers:
    """``frechet``, for an evaluation; nothing where either has fewer than `LEAST` pictures.

    Features are measured by how much each differs among the ``real`` pictures, so that those of
    large numbers do not outweigh the others. See `features_of` for what pictures may be.
    """
    if min(len(made), len(real)) < LEAST:
        return {}
    wanted = features_of(extractor, real)
    unit = spread(wanted)
    return {"frechet": distance(features_of(extractor, made) / unit, wanted / unit)}


def _root(features: Features) -> Features:
    """A matrix whose square (its transpose times itself) is the covariance."""
    centred: Features = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    root: Features = np.linalg.qr(centred).R
    return root

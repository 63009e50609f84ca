"""A linear classifier on feature vectors, and the split into samples to train on and to test on.

Knows nothing of images, models and files.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from edged.errors import InvalidArgument

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

C = 0.02  # inverse strength of the L2 penalty: few images, many features


def split(targets: Indices, held_out: float, seed: int) -> tuple[Indices, Indices]:
    """Indices of the held-out and the other images: the same share of each class, at least one.

    Raises InvalidArgument if a class has a single image.
    """
    if not 0 < held_out < 1:
        raise InvalidArgument(f"the share held out must lie between 0 and 1, not be {held_out}")
    random = np.random.default_rng(seed)
    held = []
    for index in range(targets.max() + 1):
        members = random.permutation(np.flatnonzero(targets == index))
        if len(members) < 2:
            raise InvalidArgument(
                "a class has a single image, and one must be held out: add images, or give a "
                "folder of test images"
            )
        held.append(members[: int(np.clip(round(held_out * len(members)), 1, len(members) - 1))])
    chosen = np.sort(np.concatenate(held))
    return chosen, np.setdiff1d(np.arange(len(targets)), chosen)


def fit(values: Floats, targets: Indices, c: float = C) -> tuple[Floats, Floats]:
    """Weights and bias of a logistic regression on standardised features, as one linear map."""
    scaler = StandardScaler().fit(values)
    regression = LogisticRegression(C=c, max_iter=1000)
    with warnings.catch_warnings():
        # A head that is not quite the optimum is as good; its accuracy is measured and shown.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(scaler.transform(values), targets)
    weights = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weights @ scaler.mean_
    if len(weights) == 1:  # there are two classes: the logit z of the second becomes -z/2, +z/2
        weights = np.concatenate([-weights, weights]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return weights.astype(np.float32), bias.astype(np.float32)

"""Random instances of a loading plan: the setting of PartialLoading's figures, and small ones.

All randomness comes from the generator that is passed in. Figures marked [paper] are from section
VII-A of PartialLoading; the paper does not give those marked [guess].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from edged.planner.instance import Count, Fraction, Index, NonNegative, Positive
from edged.planner.loading.problem import FamilyName, LoadingModel, LoadingProblem, LoadTime, User
from edged.planner.loading.resnet import layer_bytes
from edged.planner.loading.tables import Floats
from edged.typeinfo import describe

RADIUS_M = 250.0  # [paper] users are spread evenly over this disc
POWER_W_PER_HZ = 5e-9  # [paper] P
NOISE_W_PER_HZ = 10 ** ((-174 - 30) / 10)  # [paper] N0, -174 dBm/Hz
PATH_LOSS = 4.0  # [paper] alpha
# [guess] mu, beta in ms: loading at 1.2 GB/s is then 88.9 % of a batch of 32, as in Fig. 1.
RUN_MS = {18: (0.11, 1.3), 34: (0.20, 2.3), 50: (0.21, 3.0)}
ROWS_MAX = 32  # [guess] the paper derives b_max from memory sizes that it does not give
SHARING_SPREAD = 0.04  # [guess] standard deviation, over models, of the shared part of the layers


class Setting(msgspec.Struct, frozen=True):
    """What the figures vary. The defaults are those of Fig. 6 and 7."""

    users: Index = 80  # [paper]
    models: Count = 50  # [paper] 50 with bottom-layer sharing, 25 in the general case
    deadline_ms: NonNegative = 700.0  # [paper]
    slot_ms: Positive = 10.0  # [paper]
    bandwidth_hz: Positive = 200e6  # [paper]
    sharing: Fraction = 0.85  # [paper] theta: mean part of the layers shared with the pre-trained
    upload_bits: NonNegative = 128 * 128 * 3 * 8.0  # [paper] the image; [guess] 8-bit RGB
    bytes_per_ms: Positive = 1.2e6  # [guess] the rate of V: 1.2 GB/s


class ModelLibrary(NamedTuple):
    """The models on the server and the sizes of the blocks that they are made of."""

    block_bytes: tuple[int, ...]
    models: tuple[LoadingModel, ...]


class LoadingFamily(NamedTuple):
    """A kind of instance: its usual setting, and how its models share blocks."""

    setting: Setting
    library: Callable[[Setting, np.random.Generator], ModelLibrary]


def generate(family: FamilyName, setting: Setting, rng: np.random.Generator) -> LoadingProblem:
    """An instance of one of FAMILIES; users ask for all models equally often on average [guess]."""
    library = FAMILIES[family].library(setting, rng)
    asked = rng.integers(len(library.models), size=setting.users)
    users = zip(asked.tolist(), _efficiency(setting.users, rng).tolist(), strict=True)
    return LoadingProblem(
        deadline_ms=setting.deadline_ms,
        slot_ms=setting.slot_ms,
        bandwidth_hz=setting.bandwidth_hz,
        load=LoadTime(bytes_per_ms=setting.bytes_per_ms, fixed_ms=0.0),
        block_bytes=library.block_bytes,
        models=library.models,
        users=tuple(User(i, setting.upload_bits, efficiency) for i, efficiency in users),
    )


def _efficiency(users: int, rng: np.random.Generator) -> Floats:
    """The spectral efficiency log2(1 + P |h|^2 d^-alpha / N0), h Rayleigh: (users,) bit/s/Hz."""
    distance_m = RADIUS_M * np.sqrt(1.0 - rng.random(users))  # never 0
    fading = rng.exponential(size=users)
    snr = POWER_W_PER_HZ * fading * distance_m**-PATH_LOSS / NOISE_W_PER_HZ
    return np.log2(1.0 + snr)


def _fine_tuned(setting: Setting, rng: np.random.Generator, nested: bool) -> ModelLibrary:
    """ResNets fine-tuned from one pre-trained model per depth, in turn 18, 34 and 50 layers deep.

    If `nested`, the bottom layers stay those of the pre-trained model, else layers at arbitrary
    positions do. The classifier is always the model's own: the pre-trained one has other classes.
    """
    sizes: list[int] = []
    pretrained: dict[int, int] = {}  # depth -> its first block
    for depth in RUN_MS:
        pretrained[depth] = len(sizes)
        sizes += layer_bytes(depth)
    models: list[LoadingModel] = []
    for i in range(setting.models):
        cluster = i % len(RUN_MS)
        depth = tuple(RUN_MS)[cluster]
        layers = layer_bytes(depth)
        frozen = round(rng.normal(setting.sharing, SHARING_SPREAD) * len(layers))
        frozen = min(max(frozen, 0), len(layers) - 1)
        kept = range(frozen) if nested else rng.permutation(len(layers) - 1)[:frozen].tolist()
        blocks = [pretrained[depth] + layer for layer in range(len(layers))]
        for layer in sorted(set(range(len(layers))) - set(kept)):
            blocks[layer] = len(sizes)
            sizes.append(layers[layer])
        models.append(
            LoadingModel(
                blocks=tuple(blocks),
                mu_ms=RUN_MS[depth][0],
                beta_ms=RUN_MS[depth][1],
                b_max=ROWS_MAX,
                cluster=cluster if nested else None,
                shared=frozen if nested else None,
                name=f"resnet{depth}-{i}",
            )
        )
    return ModelLibrary(tuple(sizes), tuple(models))


def _random_model(
    rng: np.random.Generator, blocks: list[int], cluster: int | None, shared: int | None
) -> LoadingModel:
    """A model with random run times and a small largest batch, so that it needs several batches."""
    return LoadingModel(
        blocks=tuple(blocks),
        mu_ms=float(rng.uniform(0.1, 2.0)),
        beta_ms=float(rng.uniform(1.0, 8.0)),
        b_max=int(rng.integers(2, 6)),
        cluster=cluster,
        shared=shared,
    )


def _block_sizes(rng: np.random.Generator, count: int) -> list[int]:
    return [int(size) for size in rng.integers(1_000_000, 20_000_000, size=count)]


def _small_nested(setting: Setting, rng: np.random.Generator) -> ModelLibrary:
    """One to three clusters with prefixes of 2 to 6 blocks, and 1 to 4 own blocks per model."""
    sizes: list[int] = []
    prefixes: list[list[int]] = []
    for length in rng.integers(2, 7, size=rng.integers(1, 4)):
        prefixes.append(list(range(len(sizes), len(sizes) + int(length))))
        sizes += _block_sizes(rng, int(length))
    models: list[LoadingModel] = []
    for _ in range(setting.models):
        cluster = int(rng.integers(len(prefixes)))
        shared = int(rng.integers(len(prefixes[cluster]) + 1))
        own = _block_sizes(rng, int(rng.integers(1, 5)))
        blocks = prefixes[cluster][:shared] + list(range(len(sizes), len(sizes) + len(own)))
        sizes += own
        models.append(_random_model(rng, blocks, cluster, shared))
    return ModelLibrary(tuple(sizes), tuple(models))


def _small_general(setting: Setting, rng: np.random.Generator) -> ModelLibrary:
    """Nine blocks, each in a model with probability 0.6, and one block of its own per model."""
    sizes = _block_sizes(rng, 9)
    models: list[LoadingModel] = []
    for _ in range(setting.models):
        blocks = [*np.flatnonzero(rng.random(9) < 0.6).tolist(), len(sizes)]
        sizes += _block_sizes(rng, 1)
        models.append(_random_model(rng, blocks, None, None))
    return ModelLibrary(tuple(sizes), tuple(models))


_SMALL = Setting(users=15, models=5, deadline_ms=80.0, bandwidth_hz=50e6, bytes_per_ms=1.9e6)

FAMILIES: dict[FamilyName, LoadingFamily] = {
    "bls": LoadingFamily(Setting(), lambda setting, rng: _fine_tuned(setting, rng, nested=True)),
    "general": LoadingFamily(
        Setting(models=25), lambda setting, rng: _fine_tuned(setting, rng, nested=False)
    ),
    # Not in the paper: small enough for the exact search, varied enough to tell methods apart.
    "small-bls": LoadingFamily(_SMALL, _small_nested),
    "small-general": LoadingFamily(_SMALL, _small_general),
}


describe(Setting)

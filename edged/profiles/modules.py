"""The modules of Jetson boards, as files: each figure says where it comes from, or it is refused.

The files lie in jetson/profiles. A figure that was not measured is no promise: what the daemon
decides by is what it measures itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edged.errors import ConfigError
from edged.typeinfo import describe

SCHEMA = 1  # raised when an older edged could misread a newer file

_Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
_Value: TypeAlias = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0.0)]


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number with its source."""

    value: _Value
    source: Literal["measured", "datasheet", "estimate"]
    ref: _Text  # which measurement, which sheet, or how it was estimated


class ModuleFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a module; None: nothing is. `super_` figures are those of the Super modes.

    Operations on INT8 and FP4 are with structured sparsity, as NVIDIA counts them; a fourth of the
    INT8 figure of the GPU is what dense FP16 can be at most.
    """

    multiprocessors: Figure | None = None
    cuda_cores: Figure | None = None
    dla_cores: Figure | None = None
    memory_bytes: Figure | None = None  # on the module
    visible_bytes: Figure | None = None  # what Linux has of it
    usable_bytes: Figure | None = None  # what a daemon may take of that
    l2_bytes: Figure | None = None
    memory_bytes_per_s: Figure | None = None
    super_memory_bytes_per_s: Figure | None = None
    int8_sparse_ops_per_s: Figure | None = None
    super_int8_sparse_ops_per_s: Figure | None = None
    fp4_sparse_flops_per_s: Figure | None = None
    least_power_w: Figure | None = None  # of the smallest power mode
    most_power_w: Figure | None = None
    super_power_w: Figure | None = None


class ModuleProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One module."""

    schema: int
    name: _Text
    chip: _Text  # tegra234
    parts: tuple[_Text, ...]  # NVIDIA's numbers in the device tree, as p3767-0005
    compute_capability: _Text
    figures: ModuleFigures

    def known(self) -> dict[str, Figure]:
        """The figures that are known, by name."""
        every = {name: getattr(self.figures, name) for name in ModuleFigures.__struct_fields__}
        return {name: figure for name, figure in every.items() if figure is not None}


def decode(data: bytes) -> ModuleProfile:
    """A checked profile from TOML. Raises ConfigError that names the figure."""
    try:
        profile = msgspec.toml.decode(data, type=ModuleProfile)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{error}; a figure is {{ value, source, ref }}, with source measured, datasheet or "
            "estimate"
        ) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if profile.schema > SCHEMA:
        raise ConfigError(f"schema {profile.schema}, this edged reads up to {SCHEMA}: upgrade it")
    return profile


def shipped() -> dict[str, ModuleProfile]:
    """The profiles of the package by name. Raises ConfigError that names the file."""
    found = {}
    for file in (resources.files("edged.profiles") / "jetson").iterdir():
        if file.name.endswith(".toml"):
            try:
                found[file.name.removesuffix(".toml")] = decode(file.read_bytes())
            except ConfigError as error:
                raise ConfigError(f"module profile {file.name}: {error}") from error
    return dict(sorted(found.items()))


def find(parts: Iterable[str]) -> tuple[str, ModuleProfile] | None:
    """The module with one of these numbers, and its name; None if there is no profile of it."""
    wanted = set(parts)
    for name, profile in shipped().items():
        if wanted & set(profile.parts):
            return name, profile
    return None


describe(ModuleProfile)

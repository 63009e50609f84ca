"""What the checks of doctor judge by: the machine, the board, the configuration, the probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edged import config as configuration
from edged.config import Config
from edged.doctor.probe import Probe
from edged.doctor.surroundings import Surroundings
from edged.errors import EdgedError
from edged.profiles import modules
from edged.profiles.modules import ModuleProfile
from edged.telemetry import board as boards
from edged.telemetry.board import Board


@dataclass(frozen=True, slots=True)
class Evidence:
    """Gathered once; checks only judge."""

    surroundings: Surroundings
    board: Board
    module: tuple[str, ModuleProfile] | None  # of a Jetson, and its name
    probe: Probe
    probe_failure: str | None  # how the process of the probe ended, where it did not answer
    config: Config  # the defaults where the file is not there or wrong
    config_path: Path
    config_error: str | None  # what is wrong with the file; None: it is good, or not there
    has_config: bool

    @property
    def gpu_works(self) -> bool:
        return self.probe.cu_init == 0 and bool(self.probe.gpus)


def gather(surroundings: Surroundings, config_path: Path) -> Evidence:
    """Ask the machine everything. Takes seconds where TensorRT is installed."""
    board = boards.read(surroundings.tree)
    answer = surroundings.probe()
    path = surroundings.tree.root / str(config_path).lstrip("/")
    has_config, error, config = path.exists(), None, Config()
    if has_config:
        try:
            config = configuration.read(path)
        except EdgedError as caught:
            error = str(caught)
    return Evidence(
        surroundings,
        board,
        modules.find(board.parts),
        answer if isinstance(answer, Probe) else Probe(),
        None if isinstance(answer, Probe) else answer,
        config,
        config_path,
        error,
        has_config,
    )

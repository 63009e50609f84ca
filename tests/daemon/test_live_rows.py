"""Models whose rows cannot be kept apart, served by the real daemon in mixed company."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edged.client import Client
from edged.store import Store
from export.add import add_models
from export.check import compare
from export.probe import session
from export.source import Source
from tests.daemon.live import Daemon
from tests.export.generated import INPUTS, build, recipe
from tests.export.older import export_unchecked
from tests.export.test_generated import unlike

PLAIN = [0, 1, 2, 4, 11, 13]
COUPLED = [7, 36, 65, 66, 126, 145]
LENGTHS = [8, 9, 18, 28]
OLD = [57, 286]  # coupled, exported before that was looked at
ALL = [*PLAIN, *COUPLED, *LENGTHS, *OLD]
CLIENTS = 3
ROUNDS = 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {f"m{number}": build(recipe(number), folder) for number in ALL}


@pytest.fixture(scope="module")
def daemon(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    store = Store(folder / "store").create()
    old = {f"m{number}": files[f"m{number}"] for number in OLD}
    add_models(store, [Source(n, file) for n, file in files.items() if n not in old])
    with pytest.MonkeyPatch.context() as patch:
        export_unchecked(store, patch, **old)
    made = Daemon(folder, store.path)
    yield made
    made.close()


def expected(file: Path, rows: np.ndarray) -> list[np.ndarray]:  # type: ignore[type-arg]
    runner = session(file.read_bytes())
    (given,) = (value.name for value in runner.get_inputs())
    return [runner.run(None, {given: row[np.newaxis]})[0] for row in rows]


def test_every_answer_is_that_of_the_row_alone(daemon: Daemon, files: dict[str, Path]) -> None:
    """Requests of one row and of several, of many models, from several clients at once."""
    rows = {f"m{n}": unlike(INPUTS[recipe(n).kind], n) for n in ALL}
    right = {name: expected(files[name], rows[name]) for name in files}

    def ask(seed: int) -> list[str]:
        random = np.random.default_rng(seed)
        wrong = []
        with Client(daemon.endpoint) as client:
            for _ in range(ROUNDS):
                sent = []
                for name in map(str, random.permutation(sorted(files))):
                    which = random.choice(7, size=random.choice([1, 1, 1, 3]))
                    sent.append((name, which, client.submit({"x": rows[name][which]}, [name])))
                for name, which, pending in sent:
                    found = {"y": pending.result()[name].tensor}
                    want = {"y": np.concatenate([right[name][i] for i in which])}
                    if not compare(want, found, 0.05).relative < 1e-3:
                        wrong.append(f"{name} {which}")
        return wrong

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert [text for texts in pool.map(ask, range(CLIENTS)) for text in texts] == []


def test_the_metadata_says_which_models_run_one_row_at_a_time(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        said = {number: client.model(f"m{number}").max_rows for number in ALL}
    assert said == {n: None if n in PLAIN else 1 for n in ALL}

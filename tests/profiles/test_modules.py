"""Profiles of Jetson modules: every figure has a source, and a figure without one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edged.cli import main
from edged.errors import ConfigError
from edged.profiles import boards, modules
from tests.jetson import trees

FILES = Path(__file__).resolve().parents[2] / "jetson/profiles"
GOOD = """
schema = 1
name = "Jetson Orin Nano 8GB"
chip = "tegra234"
parts = ["p3767-0003"]
compute_capability = "8.7"
[figures]
cuda_cores = { value = 1024, source = "datasheet", ref = "the data sheet" }
"""


def test_all_files_are_shipped_and_every_figure_says_where_it_comes_from():
    shipped = modules.shipped()
    assert sorted(shipped) == sorted(path.stem for path in FILES.glob("*.toml"))
    assert len(shipped) == 8
    for profile in shipped.values():
        assert profile.known()
        for figure in profile.known().values():
            assert figure.source in ("measured", "datasheet", "estimate")
            assert figure.ref


def test_no_two_modules_have_the_same_number():
    parts = [part for profile in modules.shipped().values() for part in profile.parts]
    assert len(parts) == len(set(parts))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('{ value = 1024, source = "datasheet", ref = "the data sheet" }', "1024", "cuda_cores"),
        (', source = "datasheet"', "", "missing required field `source`"),
        (', ref = "the data sheet"', "", "missing required field `ref`"),
        ('ref = "the data sheet"', 'ref = ""', "ref"),
        ('source = "datasheet"', 'source = "a friend"', "a friend"),
        ("value = 1024", "value = -1", "value"),
        ("value = 1024", 'value = "many"', "value"),
        ("cuda_cores", "cuda_corse", "cuda_corse"),
        ("schema = 1", "schema = 2", "upgrade"),
        ("schema = 1", "schema = ", "value"),
    ],
)
def test_a_figure_without_its_source_is_refused(old, new, says):
    assert modules.decode(GOOD.encode()).figures.cuda_cores.value == 1024
    with pytest.raises(ConfigError, match=says):
        modules.decode(GOOD.replace(old, new).encode())


def test_boards_of_one_model_with_several_modules_have_several_names(tmp_path):
    names = set()
    for part in ("p3701-0004", "p3701-0005"):
        files = trees.files("agx-orin", "6.2")
        files["proc/device-tree/compatible"] = f"nvidia,p3737-0000+{part}\0nvidia,tegra234\0"
        names.add(boards.name(trees.plant(tmp_path / part, files), "aarch64"))
    model = "NVIDIA Jetson AGX Orin Developer Kit"
    assert names == {f"{model} (agx-orin-{size}gb), aarch64" for size in (32, 64)}


def test_profile_shows_a_module_with_its_sources(capsys):
    assert main(["profile", "--show", "orin-nano-8gb"]) == 0
    text = capsys.readouterr().out
    assert "Jetson Orin Nano 8GB: tegra234, compute capability 8.7" in text
    assert "usable bytes" in text
    assert "estimate" in text
    assert main(["profile", "--show", "orin-nano-8gb", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["multiprocessors"]["value"] == 8

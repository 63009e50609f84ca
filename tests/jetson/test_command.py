"""`edged doctor` on the machine that runs the tests, and the process that tries the driver."""

from __future__ import annotations

import json
import sys

import msgspec

from edged.cli import main
from edged.doctor.examine import CHECKS
from edged.doctor.probe import Probe, probe
from edged.doctor.surroundings import Surroundings
from edged.telemetry.files import FileTree


def test_it_works_on_any_machine(tmp_path, capsys):
    config = tmp_path / "edged.toml"
    config.write_text(f'[device]\ncache_dir = "{tmp_path / "cache"}"\n')
    status = main(["doctor", "--config", str(config), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == report["status"]
    assert len(report["checks"]) == len(CHECKS)
    assert report["checks"]["onnxruntime"]["facts"]["packages"]
    assert report["checks"]["cache"]["state"] == "note"  # not there yet, and could be made
    assert main(["doctor", "--config", str(config)]) == status
    assert "backend" in capsys.readouterr().out


def test_the_probe_says_the_same_in_a_process_of_its_own():
    answer = Surroundings().probe()
    assert isinstance(answer, Probe)
    assert answer == probe()


def test_a_probe_that_dies_is_no_answer(monkeypatch):
    dies = [sys.executable, "-c", "import os; os.abort()"]
    monkeypatch.setattr("edged.doctor.surroundings.command", lambda module: dies)
    assert Surroundings().probe() == "has ended by signal 6"
    says_nothing = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr("edged.doctor.surroundings.command", lambda module: says_nothing)
    assert Surroundings().probe() == "has ended with status 3"


def test_what_libraries_print_before_is_left_out(monkeypatch):
    answer = msgspec.json.encode(Probe(tensorrt="10.3.0")).decode()
    noisy = [sys.executable, "-c", f"print('[TRT] warning'); print({answer!r}, end='')"]
    monkeypatch.setattr("edged.doctor.surroundings.command", lambda module: noisy)
    assert Surroundings().probe() == Probe(tensorrt="10.3.0")


def test_both_packages_of_onnxruntime_are_found_in_one_folder(tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        info = tmp_path / f"{name}-1.23.2.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.23.2\n"
        )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    found = Surroundings().packages("onnxruntime", "onnxruntime-gpu")
    assert {(each.name, each.place) for each in found} == {
        ("onnxruntime", str(tmp_path)),
        ("onnxruntime-gpu", str(tmp_path)),
    }


def test_a_directory_is_measured_and_tried(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/block").write_bytes(b"12345")
    (tmp_path / "file").touch()
    asked = Surroundings(FileTree(tmp_path))
    kept = asked.directory("/cache", "blocks")
    assert (kept.exists, kept.bytes, kept.files, kept.refusal) == (True, 5, 1, "")
    assert "blocks cannot be kept" in asked.directory("/file/below", "blocks").refusal


def test_nodes_are_told_with_who_may_open_them(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvmap").touch(0o600)
    (tmp_path / "dev/nvmap").chmod(0o600)
    node = Surroundings(FileTree(tmp_path)).nodes(["dev/nvmap", "dev/nvhost-*"])["/dev/nvmap"]
    assert (node.mode, node.usable) == ("0600", True)

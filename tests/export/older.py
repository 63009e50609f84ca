"""Stores as an exporter without today's checks would have made them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edged.store import Store
from export import forms, probe
from export.add import add_models
from export.extents import classify
from export.source import Source


def export_unchecked(store: Store, monkeypatch: pytest.MonkeyPatch, **files: Path) -> None:
    """Export models as if rows were never coupled and no extent depended on the data."""
    with monkeypatch.context() as patch:
        patch.setattr(forms, "coupling", lambda *_: None)
        patch.setattr(forms, "dependence", lambda *_: None)
        patch.setattr(
            probe, "classify", lambda graph, ranks, **_: classify(graph, ranks, assume_fixed=True)
        )
        add_models(store, [Source(name, file) for name, file in files.items()])
    for name in files:
        age(store, name)


def age(store: Store, name: str) -> None:
    """Remove the fields from a manifest that older manifests do not have."""
    root = json.loads((store.path / "store.json").read_bytes())
    plain = json.loads((store.path / "manifests" / f"{root['models'][name]}.json").read_bytes())
    del plain["checks"], plain["unfit"]
    data = json.dumps(plain).encode()
    root["models"][name] = hashlib.sha256(data).hexdigest()
    (store.path / "manifests" / f"{root['models'][name]}.json").write_bytes(data)
    (store.path / "store.json").write_bytes(json.dumps(root).encode())

"""A store of two tasks on one shared block, with answers that anybody can check."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged.manifest import SCHEMA, Manifest, PathStep, Preprocess, Value
from edged.store import Store

SIDE = 8  # pixels


def write_store(path: Path) -> Path:
    """Task `color` names the strongest of red, green and blue; `weakest` the weakest."""
    Store(path).create()
    put_tasks(path, color=1.0, weakest=-1.0)
    return path


def put_tasks(path: Path, **factors: float) -> dict[str, str]:
    """Add or replace tasks that score each colour by its mean times a factor, all on the same
    backbone. Returns the ids of their heads.
    """
    heads = {}
    with Store(path).update() as change:
        backbone = change.add_block(
            _block(
                [
                    helper.make_node("GlobalAveragePool", ["x0"], ["pooled"]),
                    helper.make_node("Flatten", ["pooled"], ["y0"]),
                ],
                read=(3, SIDE, SIDE),
                written=(3,),
            )
        )
        for name, factor in factors.items():
            heads[name] = change.add_block(
                _block(
                    [helper.make_node("MatMul", ["x0", "w"], ["y0"])],
                    read=(3,),
                    written=(3,),
                    weights={"w": np.float32(factor) * np.eye(3, dtype=np.float32)},
                )
            )
            change.put_model(_manifest(name, backbone, heads[name]))
    return heads


def picture(red: int, green: int, blue: int) -> np.ndarray:
    """Pixels of one colour, (SIDE, SIDE, 3)."""
    return np.full((SIDE, SIDE, 3), (red, green, blue), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of RGB pixels."""
    return bytes(cv2.imencode(".png", pixels[:, :, ::-1])[1])


def _block(
    nodes: list[onnx.NodeProto],
    *,
    read: tuple[int, ...],
    written: tuple[int, ...],
    weights: dict[str, np.ndarray] | None = None,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["rows", *read])],
        [helper.make_tensor_value_info("y0", TensorProto.FLOAT, ["rows", *written])],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _manifest(name: str, backbone: str, head: str) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name=name,
        task=name,
        precision="fp32",
        inputs=("image",),
        outputs=("scores",),
        values=(
            Value("image", "FP32", (3, SIDE, SIDE)),
            Value("means", "FP32", (3,)),
            Value("scores", "FP32", (3,)),
        ),
        steps=(PathStep(backbone, ("image",), ("means",)), PathStep(head, ("means",), ("scores",))),
        whole_bytes=1000,
        preprocess=Preprocess(SIDE, SIDE),
        labels=("red", "green", "blue"),
    )

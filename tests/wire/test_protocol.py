"""The protocol stays as docs/protocol.md says: bytes, names, numbers, limits, tolerance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

from edged import wire
from edged.errors import Code, EdgedError, StoreError, Unavailable

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
HEX = {
    name: bytes.fromhex(text) for name, text in re.findall(r"```hex (\S+)\n(.*?)```", PAGE, re.S)
}

REQUEST = wire.Infer(
    "7",
    (wire.InputTensor("image", "BYTES", (1,)),),
    (
        wire.RequestedOutput("flowers", wire.OutputParameters(classification=1)),
        wire.RequestedOutput("food"),
    ),
    wire.InferParameters(timeout=2_000_000),
)
REPLY = wire.InferReply(
    "7",
    (
        wire.OutputTensor(
            "flowers",
            "flowers-net",
            "logits",
            "FP32",
            (1, 5),
            ((wire.ClassScore(3, 7.5, "rose"),),),
        ),
        wire.OutputTensor("food", "food-net", "logits", "FP32", (1, 2)),
    ),
    wire.InferTimes(120, 900, 2300, 40, 4, credits=64),
)
SCORES = bytes.fromhex("0000803e0000c0bf")


def test_the_bytes_of_the_example() -> None:
    request = wire.encode_request(REQUEST, [b"\xff\xd8 a JPEG file"])
    assert request[:2] == [HEX["infer-request-0"], HEX["infer-request-1"]]
    reply = wire.encode_reply(REPLY, [SCORES])
    assert reply == [HEX[f"infer-reply-{n}"] for n in range(3)]


def test_the_example_decodes_to_what_it_says() -> None:
    frames = [HEX["infer-request-0"], HEX["infer-request-1"], b"\xff\xd8 a JPEG file"]
    request = wire.decode_request(frames, wire.Limits())
    assert request == wire.RequestMessage(REQUEST, (b"\xff\xd8 a JPEG file",))
    reply = wire.decode_reply([HEX[f"infer-reply-{n}"] for n in range(3)])
    assert reply == wire.ReplyMessage(REPLY, (SCORES,))


def test_the_bytes_of_an_announced_upload() -> None:
    announce = wire.Announce("8", "9", "flowers", 2000, link_bytes_s=250_000)
    assert wire.encode_request(announce) == [HEX["announce-request-0"], HEX["announce-request-1"]]
    assert wire.decode_request(wire.encode_request(announce), wire.Limits()).header == announce
    grant = wire.encode_reply(wire.GrantReply("8", 0, 125_000, 67_600))
    assert grant == [HEX["announce-request-0"], HEX["announce-reply-1"]]
    chunk = wire.encode_request(wire.Chunk("9", 0), [SCORES])
    assert chunk == [HEX["chunk-0"], HEX["chunk-1"], SCORES]
    assert wire.decode_request(chunk, wire.Limits()) == wire.RequestMessage(
        wire.Chunk("9", 0), (SCORES,)
    )


def test_every_operation_is_on_the_page() -> None:
    assert dict(re.findall(r"\| `(0x\w\w)` \| (\w+) \|", PAGE)) == {
        f"0x{op.value:02x}": op.name for op in (*wire.Op, *wire.AdminOp)
    }
    assert set(wire.REQUESTS) | {wire.Op.ERROR} == set(wire.Op)
    assert set(wire.REPLIES) == {*wire.Op, *wire.AdminOp}
    assert set(wire.ADMIN_REQUESTS) >= set(wire.AdminOp)


def test_every_field_is_on_the_page() -> None:
    requests = wire.REQUESTS | wire.ADMIN_REQUESTS
    tops = (wire.Limits, *requests.values(), *wire.REPLIES.values())
    structs = set().union(*(_structs(msgspec.inspect.type_info(top)) for top in tops))
    assert wire.BatchStatistics in structs
    missing = {
        f"{struct.__name__}.{name}"
        for struct in structs
        for name in struct.__struct_fields__
        if not re.search(rf"[`.\"]{name}(\?|\[\])?[`\"]", PAGE)
    }
    assert not missing


def _structs(info: Any) -> set[type]:
    """The structs that a type is made of."""
    if isinstance(info, msgspec.inspect.StructType):
        return {info.cls}.union(*(_structs(field.type) for field in info.fields))
    parts = [getattr(info, name, None) for name in ("item_type", "value_type")]
    parts += getattr(info, "types", None) or ()
    return set().union(*(_structs(part) for part in parts if part is not None))


def test_every_limit_and_code_is_on_the_page() -> None:
    table = dict(re.findall(r"\| `(max_\w+)` \| (\d+) \|", PAGE))
    assert table == {
        name: str(value) for name, value in msgspec.structs.asdict(wire.Limits()).items()
    }
    assert set(re.findall(r"\| `([A-Z_]+)` \| ", PAGE)) == {code.value for code in Code}


REPLIES: list[wire.ReplyHeader] = [
    REPLY,
    wire.CancelReply("a", True),
    wire.PingReply("a"),
    wire.GrantReply("a", 10, 125_000, 2_000_000),
    wire.ChunkReply("a", 4096),
    wire.ShareReply("a", "b1", "/run/edged/x", 65_536),
    wire.LiveReply("a", True),
    wire.ReadyReply("a", False, "STARTING", "loading"),
    wire.ServerMetadataReply("a", "edged", "0.1", ("x",), wire.Limits(max_rows=3)),
    wire.ModelReadyReply("a", "m", True),
    wire.ModelMetadataReply(
        "a",
        "m",
        "t",
        "onnx_onnxv1",
        (wire.TensorMetadata("x", "FP32", (-1, 3)),),
        (),
        labels=("l",) * 30_000,
        preprocess={"height": 32, "mean": [0.5, 0.5, 0.5], "resize_to": None},
    ),
    wire.RepositoryIndexReply("a", (wire.ModelIndex("m", "t", "READY", total_bytes=7),)),
    wire.StatisticsReply(
        "a",
        wire.ServerStatistics("READY", uptime_s=1.5),
        (wire.TaskStatistics("t", latency_us={"p50": 1.0}, fail=wire.Failures(1, {"X": 1})),),
        (wire.BatchStatistics(4, 2, 1),),
        {"block_bytes": 2**40},
    ),
    wire.ModelSetReply("a", "m", "pinned"),
    wire.ReloadReply("a", ("m",), (), ("n", "o")),
    wire.ResidencyReply("a", (wire.ModelResidency("m", "12", "GOING", 3, 1, 9, 4),), 4),
    wire.ErrorReply("no", "NOT_FOUND", None, 5),
]


def frames_of(reply: wire.ReplyHeader) -> list[Any]:
    return wire.encode_reply(reply, [SCORES] if reply is REPLY else [])


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_replies_come_back_as_they_were(reply: wire.ReplyHeader) -> None:
    assert wire.decode_reply(frames_of(reply)).header == reply


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_replies_name_every_field_and_may_have_more(reply: wire.ReplyHeader) -> None:
    first, raw, *payload = frames_of(reply)
    header = msgpack.unpackb(raw)
    assert set(header) == set(reply.__struct_fields__)
    newer = msgpack.packb({**header, "of_a_newer_daemon": [1, {"x": 2}]})
    assert wire.decode_reply([first, newer, *payload]).header == reply


def test_all_replies_are_tried() -> None:
    assert {type(reply) for reply in REPLIES} == set(wire.REPLIES.values())


def test_the_reply_of_a_request_has_its_operation() -> None:
    assert wire.reply_type(REQUEST) is wire.InferReply
    assert wire.reply_type(wire.Cancel("a", "7")) is wire.CancelReply


@pytest.mark.parametrize(
    "payload", [[], [SCORES, SCORES], [SCORES[:-1]]], ids=["missing", "too much", "short"]
)
def test_a_reply_whose_frames_do_not_fit_is_no_result(payload: list[bytes]) -> None:
    with pytest.raises(EdgedError, match="payload"):
        wire.decode_reply(wire.encode_reply(REPLY, payload))


def test_errors_carry_code_id_and_time() -> None:
    frames = wire.encode_error(Unavailable("full\nreally", retry_after_s=0.25), "r1")
    assert wire.decode_reply(frames).header == wire.ErrorReply(
        "full?really", "UNAVAILABLE", "r1", 250_000
    )
    frames = wire.encode_error(StoreError("x" * 10_000), None)
    header = wire.decode_reply(frames).header
    assert isinstance(header, wire.ErrorReply)
    assert (header.code, header.id, header.retry_after_us) == ("INTERNAL", None, None)
    assert len(header.error) == 400


def test_an_older_administrator_is_told_what_took_the_place_of_its_operation() -> None:
    withdrawn = re.findall(r"`(0x4\d)` to `(0x4\d)` were", PAGE)
    assert withdrawn == [("0x40", "0x43")]
    for op in range(0x40, 0x44):
        frames = [wire.MAGIC + bytes([op]), msgpack.packb({"id": "a", "name": "flowers"})]
        with pytest.raises(wire.BadRequest, match="replaced by 0x46, MODEL_SET") as refused:
            wire.decode_request(frames, wire.Limits(), wire.ADMIN_REQUESTS)
        assert (refused.value.code, refused.value.id) == (Code.UNSUPPORTED, "a")


def test_administrators_have_no_payloads_to_share() -> None:
    frames = wire.encode_request(wire.Share("a", 65_536))
    with pytest.raises(wire.BadRequest, match="not for the admin endpoint") as refused:
        wire.decode_request(frames, wire.Limits(), wire.ADMIN_REQUESTS)
    assert refused.value.code is Code.UNSUPPORTED


@pytest.mark.parametrize("to", ["gone", "", 1, None])
def test_a_model_can_be_set_to_nothing_else(to: Any) -> None:
    frames = [b"EDG1\x46", msgpack.packb({"id": "a", "name": "m", "to": to})]
    with pytest.raises(wire.BadRequest, match=r"\$\.to") as refused:
        wire.decode_request(frames, wire.Limits(), wire.ADMIN_REQUESTS)
    assert refused.value.code is Code.INVALID_ARG

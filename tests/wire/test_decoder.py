"""Whatever arrives, the decoder gives a request within the limits or a coded error."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
import zmq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edged import wire
from edged.errors import Code, EdgedError

LIMITS = wire.Limits(
    max_message_bytes=5_000,
    max_header_bytes=4_000,
    max_frames=10,
    max_rows=4,
    max_pixels=100,
    max_inputs=2,
    max_outputs=3,
    max_classification=5,
    max_priority=3,
    max_timeout_us=1_000_000,
)

IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1]}
TASK = {"name": "flowers"}


def infer(**fields: Any) -> dict[str, Any]:
    """A header that is right but for `fields`."""
    return {"id": "r1", "inputs": [IMAGE], "outputs": [TASK], **fields}


def tensor(datatype: str, shape: list[Any]) -> list[dict[str, Any]]:
    return [{"name": "x", "datatype": datatype, "shape": shape}]


def decode(header: Any, *payload: Any, first: bytes = b"EDG1\x01") -> wire.RequestMessage:
    raw = header if isinstance(header, bytes) else msgpack.packb(header)
    return wire.decode_request([first, raw, *payload], LIMITS)


# name: (header, payload, code, what the message says)
REFUSED: dict[str, tuple[Any, list[bytes], Code, str]] = {
    "not msgpack": (b"\xc1", [b"j"], Code.INVALID_ARG, "msgpack"),
    "cut off": (msgpack.packb(infer())[:-3], [b"j"], Code.INVALID_ARG, "incomplete"),
    "trailing": (msgpack.packb(infer()) + b"\0", [b"j"], Code.INVALID_ARG, "msgpack"),
    "a list": ([1, 2], [b"j"], Code.INVALID_ARG, "Expected `object`"),
    "number as key": ({1: 2}, [], Code.INVALID_ARG, "msgpack"),
    "extension type": (infer(id=msgpack.ExtType(5, b"x")), [b"j"], Code.INVALID_ARG, "msgpack"),
    "timestamp": (infer(id=msgpack.Timestamp(1)), [b"j"], Code.INVALID_ARG, "msgpack"),
    "binary": (infer(id=b"r1"), [b"j"], Code.INVALID_ARG, "msgpack"),
    "no UTF-8": (b"\x81\xa2id\xa1\xff", [], Code.INVALID_ARG, "msgpack"),
    "a map of 257": ({str(n): 0 for n in range(257)}, [], Code.INVALID_ARG, "257"),
    "an array of 257": (infer(outputs=[TASK] * 257), [b"j"], Code.INVALID_ARG, "257"),
    "misspelt field": (infer(ouputs=[]), [b"j"], Code.INVALID_ARG, "unknown field `ouputs`"),
    "misspelt deeper": (
        infer(outputs=[{"name": "f", "parameters": {"top_k": 1}}]),
        [b"j"],
        Code.INVALID_ARG,
        "$.outputs[0].parameters",
    ),
    "no id": ({"inputs": [IMAGE], "outputs": [TASK]}, [b"j"], Code.INVALID_ARG, "`id`"),
    "empty id": (infer(id=""), [b"j"], Code.INVALID_ARG, "$.id"),
    "long id": (infer(id="x" * 129), [b"j"], Code.INVALID_ARG, "$.id"),
    "id with newline": (infer(id="r1\n"), [b"j"], Code.INVALID_ARG, "$.id"),
    "no inputs": (infer(inputs=[]), [], Code.INVALID_ARG, "$.inputs"),
    "no outputs": (infer(outputs=[]), [b"j"], Code.INVALID_ARG, "$.outputs"),
    "many inputs": (
        infer(inputs=[IMAGE | {"name": str(n)} for n in range(3)]),
        [b"j"] * 3,
        Code.RESOURCE_EXHAUSTED,
        "inputs: 3",
    ),
    "many outputs": (
        infer(outputs=[{"name": str(n)} for n in range(4)]),
        [b"j"],
        Code.RESOURCE_EXHAUSTED,
        "outputs: 4",
    ),
    "input twice": (infer(inputs=[IMAGE] * 2), [b"j"] * 2, Code.INVALID_ARG, "twice"),
    "output twice": (infer(outputs=[TASK] * 2), [b"j"], Code.INVALID_ARG, "twice"),
    "bad task": (
        infer(outputs=[{"name": "../etc"}]),
        [b"j"],
        Code.INVALID_ARG,
        "$.outputs[0].name",
    ),
    "timeout 0": (infer(parameters={"timeout": 0}), [b"j"], Code.INVALID_ARG, "timeout"),
    "timeout NaN": (infer(parameters={"timeout": float("nan")}), [b"j"], Code.INVALID_ARG, "float"),
    "timeout true": (infer(parameters={"timeout": True}), [b"j"], Code.INVALID_ARG, "bool"),
    "timeout huge": (
        infer(parameters={"timeout": 2**64 - 1}),
        [b"j"],
        Code.RESOURCE_EXHAUSTED,
        "parameters.timeout",
    ),
    "priority -1": (infer(parameters={"priority": -1}), [b"j"], Code.INVALID_ARG, "priority"),
    "priority 4": (infer(parameters={"priority": 4}), [b"j"], Code.RESOURCE_EXHAUSTED, "priority"),
    "top 0": (
        infer(outputs=[TASK | {"parameters": {"classification": 0}}]),
        [b"j"],
        Code.INVALID_ARG,
        "classification",
    ),
    "top 6": (
        infer(outputs=[TASK | {"parameters": {"classification": 6}}]),
        [b"j"],
        Code.RESOURCE_EXHAUSTED,
        "limit of 5",
    ),
    "unknown datatype": (infer(inputs=tensor("FP8", [1])), [b"x"], Code.INVALID_ARG, "datatype"),
    "no shape": (infer(inputs=tensor("FP32", [])), [b""], Code.INVALID_ARG, "shape"),
    "rank 9": (infer(inputs=tensor("UINT8", [1] * 9)), [b"x"], Code.INVALID_ARG, "shape"),
    "zero extent": (infer(inputs=tensor("FP32", [1, 0])), [b""], Code.INVALID_ARG, "shape[1]"),
    "negative extent": (infer(inputs=tensor("FP32", [-1])), [b""], Code.INVALID_ARG, "shape[0]"),
    "huge extent": (infer(inputs=tensor("FP32", [2**31])), [b""], Code.INVALID_ARG, "shape[0]"),
    "boolean extent": (infer(inputs=tensor("FP32", [True])), [b""], Code.INVALID_ARG, "bool"),
    "overflow": (
        infer(inputs=tensor("INT64", [1, *[2**31 - 1] * 7])),
        [b""],
        Code.INVALID_ARG,
        "its frame has 0",
    ),
    "five rows": (
        infer(inputs=tensor("UINT8", [5])),
        [b"x" * 5],
        Code.RESOURCE_EXHAUSTED,
        "limit of 4",
    ),
    "many pixels": (
        infer(inputs=tensor("UINT8", [1, 11, 10, 3])),
        [b"x" * 330],
        Code.RESOURCE_EXHAUSTED,
        "110 pixels",
    ),
    "rows differ": (
        infer(inputs=[IMAGE, *tensor("UINT8", [2])]),
        [b"j", b"xx"],
        Code.INVALID_ARG,
        "2 rows",
    ),
    "image of two axes": (
        infer(inputs=[IMAGE | {"shape": [1, 1]}]),
        [b"j"],
        Code.INVALID_ARG,
        "one image a frame",
    ),
    "empty image": (infer(), [b""], Code.INVALID_ARG, "empty"),
    "frame missing": (infer(), [], Code.INVALID_ARG, "0 payload frames"),
    "frame too much": (infer(), [b"j", b"k"], Code.INVALID_ARG, "2 payload frames"),
    "short tensor": (
        infer(inputs=tensor("FP32", [1, 2])),
        [b"x" * 7],
        Code.INVALID_ARG,
        "takes 8 bytes, its frame has 7",
    ),
    "many frames": (infer(), [b"j"] * 9, Code.RESOURCE_EXHAUSTED, "11 frames"),
    "long header": (infer(id="x" * 4_000), [b"j"], Code.RESOURCE_EXHAUSTED, "limit of 4000"),
    "long message": (infer(), [b"j" * 5_000], Code.RESOURCE_EXHAUSTED, "limit of 5000"),
}


UPLOADED = infer(parameters={"upload": [4]})
ANNOUNCE = {"id": "a1", "request": "r1", "task": "flowers", "bytes": 100}


def shared(*frames: list[int], **parameters: Any) -> dict[str, Any]:
    where = {"region": "a1", "frames": list(frames)}
    return infer(parameters={"shared": where, **parameters})


# name: (operation, header, payload, code, what the message says)
REFUSED_UPLOADS: dict[str, tuple[int, Any, list[bytes], Code, str]] = {
    "payload twice": (1, UPLOADED, [b"jpeg"], Code.INVALID_ARG, "comes twice"),
    "sizes too many": (
        1,
        infer(parameters={"upload": [4, 4]}),
        [],
        Code.INVALID_ARG,
        "2 payload frames",
    ),
    "an empty frame": (1, infer(parameters={"upload": [0]}), [], Code.INVALID_ARG, "upload[0]"),
    "sizes too large": (
        1,
        infer(parameters={"upload": [5001]}),
        [],
        Code.RESOURCE_EXHAUSTED,
        "limit of 5000",
    ),
    "a size that does not fit the shape": (
        1,
        infer(inputs=tensor("FP32", [1, 2]), parameters={"upload": [7]}),
        [],
        Code.INVALID_ARG,
        "takes 8 bytes, its frame has 7",
    ),
    "nothing announced": (4, ANNOUNCE | {"bytes": 0}, [], Code.INVALID_ARG, "$.bytes"),
    "no link": (4, ANNOUNCE | {"link_bytes_s": 0}, [], Code.INVALID_ARG, "$.link_bytes_s"),
    "too much announced": (
        4,
        ANNOUNCE | {"bytes": 3000, "sent": 2001},
        [],
        Code.RESOURCE_EXHAUSTED,
        "limit of 5000",
    ),
    "rows announced": (4, ANNOUNCE | {"rows": 5}, [], Code.RESOURCE_EXHAUSTED, "limit of 4"),
    "announced with payload": (4, ANNOUNCE, [b"j"], Code.INVALID_ARG, "send two frames"),
    "a chunk of nothing": (5, {"id": "r1", "offset": 0}, [b""], Code.INVALID_ARG, "not empty"),
    "a chunk without frame": (5, {"id": "r1", "offset": 0}, [], Code.INVALID_ARG, "one payload"),
    "shared and sent": (1, shared([0, 4]), [b"jpeg"], Code.INVALID_ARG, "comes twice"),
    "shared and uploaded": (
        1,
        shared([0, 4], upload=[4]),
        [],
        Code.INVALID_ARG,
        "comes twice",
    ),
    "shared frames too many": (1, shared([0, 4], [4, 4]), [], Code.INVALID_ARG, "2 payload frames"),
    "shared too large": (1, shared([0, 5001]), [], Code.RESOURCE_EXHAUSTED, "limit of 5000"),
    "shared before the beginning": (1, shared([-1, 4]), [], Code.INVALID_ARG, "shared.frames"),
    "shared nothing": (1, shared([0, 0]), [], Code.INVALID_ARG, "shared.frames"),
    "shared nowhere": (
        1,
        infer(parameters={"shared": {"frames": [[0, 4]]}}),
        [],
        Code.INVALID_ARG,
        "region",
    ),
    "too much to share": (
        6,
        {"id": "r1", "bytes": 2**40},
        [],
        Code.RESOURCE_EXHAUSTED,
        "above the daemon's limit",
    ),
    "nothing to share": (6, {"id": "r1", "bytes": 0}, [], Code.INVALID_ARG, "$.bytes"),
    "before the beginning": (5, {"id": "r1", "offset": -1}, [b"j"], Code.INVALID_ARG, "$.offset"),
}


@pytest.mark.parametrize(
    ("op", "header", "payload", "code", "says"), REFUSED_UPLOADS.values(), ids=REFUSED_UPLOADS
)
def test_bad_uploads_get_a_code_and_say_what_is_wrong(
    op: int, header: Any, payload: list[bytes], code: Code, says: str
) -> None:
    with pytest.raises(wire.BadRequest) as caught:
        decode(header, *payload, first=b"EDG1" + bytes([op]))
    assert caught.value.code is code
    assert says in str(caught.value)
    assert caught.value.id == header["id"]


@pytest.mark.parametrize("header", [UPLOADED, shared([4096, 4])], ids=["uploaded", "shared"])
def test_a_payload_that_is_elsewhere_has_no_frames(header: Any) -> None:
    assert decode(header).payload == ()


@pytest.mark.parametrize(("header", "payload", "code", "says"), REFUSED.values(), ids=REFUSED)
def test_bad_requests_get_a_code_and_say_what_is_wrong(
    header: Any, payload: list[bytes], code: Code, says: str
) -> None:
    with pytest.raises(wire.BadRequest) as caught:
        decode(header, *payload)
    assert caught.value.code is code
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"", Code.INVALID_ARG),
        (b"EDG1", Code.INVALID_ARG),
        (b"EDG1\x01\x00", Code.INVALID_ARG),
        (b"GET /", Code.INVALID_ARG),
        (b"EDG2\x01", Code.UNSUPPORTED),
        (b"EDG\n\x01", Code.UNSUPPORTED),
        (b"EDG1\x00", Code.UNSUPPORTED),
        (b"EDG1\x7f", Code.UNSUPPORTED),  # an error is no request
    ],
)
def test_first_frames_that_begin_no_request(first: bytes, code: Code) -> None:
    with pytest.raises(wire.BadRequest) as caught:
        decode(infer(), b"j", first=first)
    assert caught.value.code is code
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("frames", [[], [b"EDG1\x01"]])
def test_too_few_frames(frames: list[bytes]) -> None:
    with pytest.raises(wire.BadRequest, match="frames"):
        wire.decode_request(frames, LIMITS)


@pytest.mark.parametrize(
    ("header", "first"),
    [
        (infer(ouputs=[]), b"EDG1\x01"),
        (infer(inputs=tensor("UINT8", [5])), b"EDG1\x01"),
        (infer(), b"EDG1\x30"),
    ],
)
def test_an_error_finds_its_request_when_the_id_can_be_read(header: Any, first: bytes) -> None:
    with pytest.raises(wire.BadRequest) as caught:
        decode(header, b"j", first=first)
    assert caught.value.id == "r1"
    reply = wire.decode_reply(wire.encode_error(caught.value, caught.value.id)).header
    assert isinstance(reply, wire.ErrorReply)
    assert (reply.id, reply.code) == ("r1", caught.value.code.value)


@pytest.mark.parametrize("id", ["", "x" * 129, "a b", "a\x1b[31m", 7, None, ["r1"]])
def test_an_id_that_cannot_be_one_is_not_repeated(id: Any) -> None:
    with pytest.raises(wire.BadRequest) as caught:
        decode(infer(id=id), b"j")
    assert caught.value.id is None


def test_payload_frames_are_handed_on_as_they_came() -> None:
    frame = zmq.Frame(b"jpeg")
    request = decode(infer(), frame)
    assert request.payload[0] is frame
    view = memoryview(bytearray(24)).cast("d", (3, 1))  # its len() is 3, it has 24 bytes
    assert decode(infer(inputs=tensor("FP64", [3, 1])), view).payload == (view,)


def test_headers_may_be_zeromq_frames() -> None:
    frames = [zmq.Frame(frame) for frame in wire.encode_request(wire.Ping("p1"))]
    assert wire.decode_request(frames, LIMITS).header == wire.Ping("p1")


def test_payload_frames_are_checked_by_the_input_that_they_belong_to() -> None:
    inputs = (wire.InputTensor("b", "BYTES", (2,)), wire.InputTensor("c", "INT64", (2,)))
    header = wire.Infer("r1", inputs, (wire.RequestedOutput("t"),))
    payload = (b"b0", b"b1", bytes(16))
    assert wire.decode_request(wire.encode_request(header, payload), LIMITS).payload == payload
    too_short = (*payload[:2], bytes(15))
    with pytest.raises(wire.BadRequest, match=r"input 'c': INT64 .* takes 16 bytes, .* has 15"):
        wire.decode_request(wire.encode_request(header, too_short), LIMITS)


BOMBS = {
    "array of 4 billion": b"\xdd\xff\xff\xff\xff",
    "map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "text of 4 GB": b"\xdb\xff\xff\xff\xff",
    "binary of 4 GB": b"\xc6\xff\xff\xff\xff",
    "nested arrays of 65535": b"\xdc\xff\xff" * 600,
    "nested arrays of 256": b"\xdc\x01\x00" * 600,
    "nested maps of 256": b"\xde\x01\x00\xa1k" * 390,
    "nested singles": b"\x91" * 1_900,
    "behind an id": b"\x82\xa2id\xa2r1\xa6inputs" + b"\xdd\x00\x00\x01\x00" * 380,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_cost_no_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(wire.BadRequest):
            decode(bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * 2**20


# --- any frames at all --------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(max_size=10) | st.integers(-5, 5), children, max_size=4)
    ),
    max_leaves=15,
)
FIELDS = sorted(
    {
        name
        for struct in (
            *wire.REQUESTS.values(),
            wire.InputTensor,
            wire.RequestedOutput,
            wire.OutputParameters,
            wire.InferParameters,
        )
        for name in struct.__struct_fields__
    }
)
near_headers = st.recursive(
    st.sampled_from(["r1", "BYTES", "FP32", "UINT8", "flowers", 1, 2, 3, True, None, 0.5]) | plain,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), children, max_size=5)
    ),
    max_leaves=25,
)
first_frames = st.binary(max_size=6) | st.sampled_from(
    [b"EDG1" + bytes([op]) for op in (*wire.Op, 0x40, 0xFF)]
)
good = st.builds(
    wire.Infer,
    id=st.from_regex(r"[!-~]{1,128}", fullmatch=True),
    inputs=st.one_of(
        st.tuples(
            st.builds(
                wire.InputTensor,
                name=st.text(min_size=1, max_size=256),
                datatype=st.just("UINT8"),
                shape=st.lists(st.integers(1, 3), min_size=1, max_size=6).map(tuple),
            )
        ),
        st.tuples(st.just(wire.InputTensor("image", "BYTES", (2,)))),
    ),
    outputs=st.lists(
        st.builds(
            wire.RequestedOutput,
            name=st.from_regex(r"[a-z][a-z0-9._-]{0,9}", fullmatch=True),
            parameters=st.builds(
                wire.OutputParameters,
                classification=st.none() | st.integers(1, 5),
                softmax=st.booleans(),
                model=st.none() | st.just("m"),
            ),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda output: output.name,
    ).map(tuple),
    parameters=st.builds(
        wire.InferParameters,
        timeout=st.none() | st.integers(1, 1_000_000),
        priority=st.integers(0, 3),
        stream=st.none() | st.just("cam-1"),
    ),
)


def payload_for(header: wire.Infer) -> list[bytes]:
    (tensor,) = header.inputs
    if tensor.datatype == "BYTES":
        return [b"jpeg"] * tensor.shape[0]
    size = 1
    for extent in tensor.shape:
        size *= extent
    return [bytes(size)]


def decoded(frames: list[bytes]) -> wire.RequestMessage | wire.BadRequest:
    try:
        return wire.decode_request(frames, LIMITS)
    except wire.BadRequest as error:
        return error


def is_request_or_coded_error(frames: list[bytes]) -> None:
    request = decoded(frames)
    if isinstance(request, wire.BadRequest):
        assert request.code in Code
        assert request.id is None or 1 <= len(request.id) <= 128
        assert 0 < len(str(request)) < 700
        assert str(request).isprintable()
        return
    wire.check_request(request.header, request.payload, LIMITS)
    again = wire.encode_request(request.header, request.payload)
    assert wire.decode_request(again, LIMITS) == request


def is_reply_or_error(frames: list[bytes]) -> None:
    try:
        wire.decode_reply(frames)
    except EdgedError as error:
        text = str(error)
    else:
        return
    assert text.isprintable()


@given(st.lists(st.binary(max_size=60), max_size=12))
@example([b"EDG1\x01", b"\x80"])
def test_any_bytes(frames: list[bytes]) -> None:
    is_request_or_coded_error(frames)


@given(first_frames, plain | near_headers, st.lists(st.binary(max_size=20), max_size=4))
@settings(max_examples=1000)
def test_any_header(first: bytes, header: Any, payload: list[bytes]) -> None:
    is_request_or_coded_error([first, msgpack.packb(header), *payload])


@given(good, st.data())
@settings(max_examples=500)
def test_any_damage_to_a_good_request(header: wire.Infer, data: st.DataObject) -> None:
    frames = [bytes(frame) for frame in wire.encode_request(header, payload_for(header))]
    n = data.draw(st.integers(0, len(frames) - 1))
    at = data.draw(st.integers(0, len(frames[n])))
    damage = data.draw(st.sampled_from(["flip", "cut", "insert", "drop", "repeat"]))
    if damage == "drop":
        del frames[n]
    elif damage == "repeat":
        frames.insert(n, frames[n])
    else:
        tail = {"flip": frames[n][at + 1 :], "cut": b"", "insert": frames[n][at:]}[damage]
        between = b"" if damage == "cut" else bytes([data.draw(st.integers(0, 255))])
        frames[n] = frames[n][:at] + between + tail
    is_request_or_coded_error(frames)


@given(good)
@settings(max_examples=300)
def test_good_requests_come_back_as_they_were(header: wire.Infer) -> None:
    payload = payload_for(header)
    wire.check_request(header, payload, LIMITS)
    request = wire.decode_request(wire.encode_request(header, payload), LIMITS)
    assert request == wire.RequestMessage(header, tuple(payload))


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_as_a_reply(frames: list[bytes]) -> None:
    is_reply_or_error(frames)


@given(first_frames, plain | near_headers, st.lists(st.binary(max_size=20), max_size=4))
def test_any_header_as_a_reply(first: bytes, header: Any, payload: list[bytes]) -> None:
    is_reply_or_error([first, msgpack.packb(header), *payload])

"""The client's end of shared memory: which requests lie where, and what is sent instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import wire
from edged.client import Client
from edged.client.call import Call, Retry
from edged.client.requests import submit_infer
from edged.client.session import Session
from edged.errors import InvalidArgument, ResourceExhausted, Unavailable
from edged.sharedmem.writer import GRAIN_BYTES, LEAST_BYTES, Grains, Piece, Region

SIZE = 16 * GRAIN_BYTES
RETRY = Retry(attempts=3, resend_after_s=5.0, backoff_s=0.5)


@given(
    st.integers(1, 40), st.lists(st.one_of(st.integers(1, 12), st.integers(-40, -1)), max_size=80)
)
def test_no_grain_is_in_two_pieces(count: int, moves: list[int]) -> None:
    """Positive: take so many; negative: give one back."""
    grains, taken = Grains(count), []
    for move in moves:
        if move > 0:
            found = grains.take(move)
            if found is not None:
                assert len(found) == move
                taken.append(found)
            assert found is not None or taken or move > count  # all is there when nothing is out
        elif taken:
            grains.give_back(taken.pop(move % len(taken)))
        used = [grain for piece in taken for grain in piece]
        assert len(used) == len(set(used))
        assert set(used) <= set(range(count))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Region]:
    """A region of 16 grains in the file a1."""
    region = Region(file(tmp_path))
    yield region
    region.close()


def file(tmp_path: Path, size: int = SIZE, name: str = "a1", id: str = "1") -> wire.ShareReply:
    path = tmp_path / name
    path.touch()
    with path.open("r+b") as memory:
        memory.truncate(size)
    return wire.ShareReply(id, name, str(path), size)


def put(memory: Region, *frames: bytes | bytearray) -> Piece | None:
    return memory.put(frames, sum(map(len, frames)))


def test_a_payload_lies_where_the_request_says(memory: Region, tmp_path: Path) -> None:
    first, second = put(memory, b"first"), put(memory, b"one", bytearray(b"two"))
    assert first is not None
    assert second is not None
    assert second.frames == (b"one", b"two")
    content = (tmp_path / "a1").read_bytes()
    for piece, texts in ((first, [b"first"]), (second, [b"one", b"two"])):
        assert piece.where.region == "a1"
        assert [content[at : at + size] for at, size in piece.where.frames] == texts


def test_what_does_not_fit_is_not_put_there(memory: Region) -> None:
    piece = put(memory, bytes(SIZE))
    assert piece is not None
    assert put(memory, b"x") is None
    piece.release()
    assert put(memory, b"x") is not None
    assert put(memory, bytes(SIZE)) is None


def test_memory_that_the_system_does_not_have_is_not_written(memory: Region, monkeypatch) -> None:

    def refuse(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    assert put(memory, b"x") is None
    monkeypatch.undo()
    assert put(memory, b"x") is not None


def test_a_file_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        Region(wire.ShareReply("1", "a1", str(tmp_path / "nowhere"), SIZE))


def test_a_file_with_anything_in_it_is_not_written_over(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * SIZE)
    (tmp_path / "link").symlink_to(precious)
    for path, size in ((precious, SIZE), (precious, SIZE - 1), (tmp_path / "link", SIZE)):
        with pytest.raises(Unavailable):
            Region(wire.ShareReply("1", "a1", str(path), size))
    assert precious.read_bytes() == b"x" * SIZE


@pytest.mark.parametrize("share_bytes", [-1, 1.5, True, None])
def test_a_size_that_is_none_is_refused(share_bytes) -> None:
    with pytest.raises(InvalidArgument, match="share_bytes"):
        Client("ipc:///x", share_bytes=share_bytes)


# --- the session ----------------------------------------------------------------------------------


class Talk:
    """A session and the daemon's side of it, which shares memory or not."""

    def __init__(self, *extensions: str, share_bytes: int = SIZE) -> None:
        self.session = Session("ipc:///x", RETRY, share_bytes=share_bytes)
        self.extensions = extensions
        self.connect()

    def connect(self) -> None:
        self.session.on_connected(0.0)
        (hello,) = [h for h, _ in self.sent() if isinstance(h, wire.ServerMetadata)]
        self.reply(wire.ServerMetadataReply(hello.id, "edged", "1", self.extensions))

    def reply(self, header: wire.ReplyHeader, *payload: bytes) -> None:
        self.session.on_message(wire.encode_reply(header, payload), 0.0)

    def sent(self) -> list[tuple[wire.RequestHeader, list[bytes]]]:
        messages = []
        while self.session.can_send():
            request = wire.decode_request(self.session.next_to_send(0.0), wire.Limits())
            messages.append((request.header, [bytes(frame) for frame in request.payload]))
        return messages

    def submit(self, payload: bytes) -> Call:
        return submit_infer(self.session, payload, "flowers", now=0.0, default_timeout_s=30.0)

    def answer(self, call: Call) -> None:
        self.reply(
            wire.InferReply(call.id, (wire.OutputTensor("f", "n", "l", "UINT8", (1, 1)),)), b"\1"
        )

    def share(self, make: Callable[[str], wire.ShareReply], payload: bytes) -> None:
        """The first large payload, which is sent, has the daemon asked for memory."""
        call = self.submit(payload)
        (asked, _), (_, frames) = self.sent()
        assert isinstance(asked, wire.Share)
        assert frames == [payload]
        self.reply(make(asked.id))
        self.answer(call)


LARGE = b"x" * LEAST_BYTES


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk("shared_memory")
    yield talk
    talk.session.close(0.0)


def test_from_the_second_large_payload_on_they_are_shared(talk: Talk, tmp_path: Path) -> None:
    talk.submit(b"small")
    assert [type(header) for header, _ in talk.sent()] == [wire.Infer]
    talk.share(lambda id: file(tmp_path, id=id), LARGE)
    talk.submit(LARGE)
    ((header, frames),) = talk.sent()
    assert frames == []
    ((offset, size),) = header.parameters.shared.frames
    assert (tmp_path / "a1").read_bytes()[offset : offset + size] == LARGE


def test_pieces_are_free_again_however_their_requests_end(talk: Talk, tmp_path: Path) -> None:
    talk.share(lambda id: file(tmp_path, id=id), LARGE)
    whole = b"y" * SIZE
    with pytest.raises(ResourceExhausted, match="best classes"):
        submit_infer(talk.session, whole, "flowers", now=0.0, default_timeout_s=1.0, top_k=10_000)
    for end in ("answered", "refused", "given up"):
        call = talk.submit(whole)
        ((header, _),) = [m for m in talk.sent() if isinstance(m[0], wire.Infer)]
        assert header.parameters.shared is not None, end
        if end == "answered":
            talk.answer(call)
        elif end == "refused":
            talk.reply(wire.ErrorReply("no", "NOT_FOUND", call.id))
        else:
            talk.session.abandon(call, 0.0)
        assert (call.piece, call.payload) == (None, ()), end  # whoever keeps it keeps no memory
    assert talk.submit(whole).piece is not None


def test_another_daemon_gets_the_payload_in_the_message(talk: Talk, tmp_path: Path) -> None:
    """And memory of its own, when the next large payload comes."""
    talk.share(lambda id: file(tmp_path, id=id), LARGE)
    call = talk.submit(LARGE)
    ((header, _),) = talk.sent()
    assert header.parameters.shared is not None
    talk.session.on_disconnected(0.0)
    talk.session.on_connected(0.0)
    (hello, _), (again, frames) = talk.sent()
    talk.reply(wire.ServerMetadataReply(hello.id, "edged", "1", ("shared_memory",)))
    assert (again.id, again.parameters.shared, frames) == (call.id, None, [LARGE])
    talk.share(lambda id: file(tmp_path, name="b2", id=id), LARGE)
    talk.submit(LARGE)
    ((header, _),) = talk.sent()
    assert header.parameters.shared.region == "b2"


def test_a_daemon_that_forgot_gets_the_payload_in_the_message(talk: Talk, tmp_path: Path) -> None:
    talk.share(lambda id: file(tmp_path, id=id), LARGE)
    call = talk.submit(LARGE)
    talk.sent()
    talk.reply(wire.ErrorReply("not yours", "UNAVAILABLE", call.id, 0))
    talk.session.on_time(1.0)
    ((again, frames),) = talk.sent()
    assert (again.id, again.parameters.shared, frames) == (call.id, None, [LARGE])


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "UNSUPPORTED"])
def test_a_daemon_that_has_no_memory_gets_payloads_in_messages(talk: Talk, code: str) -> None:
    talk.submit(LARGE)
    (asked, _), _ = talk.sent()
    talk.reply(wire.ErrorReply("no", code, asked.id))
    talk.submit(LARGE)
    assert [(type(h), frames) for h, frames in talk.sent()] == [(wire.Infer, [LARGE])]


def test_memory_that_this_client_cannot_see_is_not_used(talk: Talk, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    talk.share(lambda id: wire.ShareReply(id, "a1", str(tmp_path / "nowhere"), SIZE), LARGE)
    assert "payloads are sent" in caplog.text
    talk.submit(LARGE)
    assert [(type(h), frames) for h, frames in talk.sent()] == [(wire.Infer, [LARGE])]


@pytest.mark.parametrize(
    "talk", [Talk("grants"), Talk("shared_memory", share_bytes=0)], ids=["daemon", "client"]
)
def test_nobody_asks_where_one_side_does_not_share(talk: Talk) -> None:
    talk.submit(LARGE)
    assert [type(header) for header, _ in talk.sent()] == [wire.Infer]


def test_a_payload_outlives_its_client_until_nobody_needs_it(memory: Region) -> None:
    piece = put(memory, LARGE)
    assert piece is not None
    memory.close()
    assert bytes(piece.frames[0]) == LARGE

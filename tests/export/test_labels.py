"""Files of labels that other tools wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edged.errors import InvalidArgument
from export.features import images
from export.labels import decode

FILE = Path("labels.txt")


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (b"person\ncar\ndog\n", ("person", "car", "dog")),
        (b"person\ncar\ndog", ("person", "car", "dog")),
        ("\ufeffperson\r\ncar\r\ndog\r\n".encode(), ("person", "car", "dog")),
        (b"person\rcar\rdog\r", ("person", "car", "dog")),
        (b"person\ncar\ndog\n\n  \n\n", ("person", "car", "dog")),
        (b"  person \n\tcar\ndog", ("person", "car", "dog")),
        (b"person\n\ndog\n", ("person", "", "dog")),  # a class that is not used keeps its place
        (b"\nperson\ndog\n", ("", "person", "dog")),
        ("café\n猫\nпёс\n".encode(), ("café", "猫", "пёс")),
        ("a\u2028b\nc\x0bd\n".encode(), ("a\u2028b", "c\x0bd")),  # these do not end a line
        (b"0 person\n1 car\n2 dog\n", ("person", "car", "dog")),
        (b"0  person\n2: traffic light\n", ("person", "", "traffic light")),
        (b"1 euro\n2 euro\n5 euro\n", ("1 euro", "2 euro", "5 euro")),  # not numbers of classes
        (b"0 person\ncar\n", ("0 person", "car")),
        (b"0 person\n0 car\n", ("0 person", "0 car")),
        (b"0\n1\n2\n", ("0", "1", "2")),  # digits
        (b"\n\n", ()),
    ],
)
def test_each_class_gets_its_label(data: bytes, labels: tuple[str, ...]) -> None:
    assert decode(data, FILE) == labels


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("person\ncafé\ndog\n".encode("latin-1"), "byte 0xe9 in line 2 is not UTF-8"),
        ("person\ncar\n".encode("utf-16"), "is written in UTF-16"),
        ("person\ncar\n".encode("utf-16-be"), "has a zero byte in line 1"),
        (b"\xfe\xff" + "person\n".encode("utf-16-be"), "is written in UTF-16"),
        ("person\ncar\n".encode("utf-32"), "is written in UTF-32"),
        (b"person\ncar\0\n", "has a zero byte in line 2"),
    ],
)
def test_another_encoding_is_refused_with_the_place_and_what_to_do(data: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"labels.txt .*{says}.*: save it as UTF-8"):
        decode(data, FILE)


def test_a_folder_whose_name_is_no_text_is_no_label(tmp_path: Path) -> None:
    for name in (b"cats", b"caf\xe9"):
        folder = tmp_path / os.fsdecode(name)
        folder.mkdir()
        (folder / "a.png").touch()
    with pytest.raises(InvalidArgument, match="is not UTF-8: rename it"):
        images(tmp_path)

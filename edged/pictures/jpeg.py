"""The header of a JPEG file (ITU-T T.81): segments before the first scan, and the number of scans.

It accepts what libjpeg accepts: segments in any order, fill bytes, markers without a length. Some
faults of cameras and programs mean nothing for the picture, and are mended before it is decoded:
bytes between segments, sequential scans that name the wrong coefficients, revisions of JFIF that
do not exist, and transformations of colours that Adobe never had (libjpeg takes YCbCr for them).
"""

from __future__ import annotations

import re

from edged.errors import Unsupported
from edged.pictures import exif
from edged.pictures.header import MAX_SCANS, Bytes, PictureHeader, damaged

MAGIC = b"\xff\xd8"  # SOI

_MAX_SEGMENTS = 2000  # a file of millions of empty segments would take seconds to read
_SOI, _EOI, _SOS, _APP0, _APP1, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_LENGTHLESS = frozenset((0x01, *range(0xD0, 0xD8)))  # the markers TEM and RST
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_ALL_COEFFICIENTS = b"\0\x3f\0"  # last bytes of the scan header of a sequential JPEG
_MARKER = re.compile(rb"\xff+([\x01-\xfe])", re.DOTALL)
# RST belongs to the scan.
_MARKER_AFTER_SCAN = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)


def look(data: Bytes) -> PictureHeader:
    """The header of a file. Raises InvalidArgument if it is damaged, Unsupported for rare JPEGs."""
    return _Walk(data).header()


def pixels_at_once(data: Bytes) -> int | None:
    """The pixels of a JPEG that is decoded in one pass; None if it is not, or `data` is too short.

    `data` is a file or its beginning. The call is cheap: it helps to choose who decodes a picture.
    """
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _SEQUENTIAL:
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            return height * width
        if marker in _FRAMES or marker in _LENGTHLESS or marker in (0x00, 0xFF, _SOI, _EOI, _SOS):
            return None
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


class _Walk:
    """One pass over a file's segments."""

    def __init__(self, data: Bytes) -> None:
        self._data = data
        self._at = 2  # the first byte after SOI
        self._segments = 0
        self._kept: list[Bytes] = []  # pieces of the file before `_begin`, if parts are removed
        self._begin = 0

    def header(self) -> PictureHeader:
        orientation = frame = None
        while (marker := self._next(_MARKER)) != _SOS:
            if marker in (_SOI, _EOI) or marker is None:
                raise damaged("JPEG", "it ends before a picture begins")
            if marker in _LENGTHLESS:
                continue
            segment = self._segment()
            if marker == _APP1 and orientation is None:
                orientation = exif.orientation(bytes(segment)) if segment[:4] == b"Exif" else None
            elif marker in (_APP0, _APP14):
                self._mend_application(marker, segment)
            elif marker in _FRAMES:
                if frame is not None:
                    raise damaged("JPEG", "it has two frames")
                frame = _frame(marker, segment)
        if frame is None:
            raise damaged("JPEG", "it has no frame")
        height, width, components, is_progressive = frame
        scan = self._segment()
        if not scan:
            raise damaged("JPEG", "the header of a scan is cut short")
        is_whole = is_progressive or scan[0] < components
        if not is_progressive:
            self._mend_scan()
        scans = 1 + self._more_scans(is_progressive) if is_whole else 1
        return PictureHeader(
            "JPEG", height, width, orientation or 1, self._pieces(), components, scans, is_whole
        )

    def _next(self, pattern: re.Pattern[bytes]) -> int | None:
        """Move past the next marker. Bytes before it mean nothing and are removed."""
        data, at = self._data, self._at
        self._segments += 1
        if self._segments > _MAX_SEGMENTS:
            raise damaged("JPEG", f"it has more than {_MAX_SEGMENTS} segments")
        if pattern is _MARKER and data[at : at + 1] == b"\xff" and len(data) > at + 1:
            marker = data[at + 1]
            if marker not in (0x00, 0xFF):
                self._at = at + 2
                return marker
        found = pattern.search(data, at)
        if found is None:
            return None
        if pattern is _MARKER and found.start() > at:
            self._leave_out(at, found.start())
        self._at = found.end()
        return data[self._at - 1]

    def _segment(self) -> Bytes:
        """The content of the segment whose marker was read. Moves past the segment."""
        data, at = self._data, self._at
        if at + 2 > len(data):
            raise damaged("JPEG", "it ends within its header")
        length = data[at] << 8 | data[at + 1]
        if length < 2 or at + length > len(data):
            raise damaged("JPEG", "a segment has a length that it cannot have")
        self._at = at + length
        return data[at + 2 : at + length]

    def _mend_application(self, marker: int, segment: Bytes) -> None:
        """Correct the revision of JFIF (1 is the only one), or Adobe's transformation of colours.

        libjpeg warns of other values, and then goes on as if they were 1.
        """
        is_jfif = marker == _APP0 and len(segment) >= 14 and segment[:5] == b"JFIF\0"
        is_adobe = marker == _APP14 and len(segment) >= 12 and segment[:5] == b"Adobe"
        place, known = (5, (1,)) if is_jfif else (11, (0, 1))
        if (is_jfif or is_adobe) and segment[place] not in known:
            start = self._at - len(segment) + place
            self._leave_out(start, start + 1)
            self._kept.append(b"\x01")

    def _mend_scan(self) -> None:
        """Correct the last bytes of a sequential scan's header.

        libjpeg ignores them but warns if they are wrong, and strict decoding makes that an error.
        """
        start = self._at - len(_ALL_COEFFICIENTS)
        if self._data[start : self._at] != _ALL_COEFFICIENTS:
            self._leave_out(start, self._at)
            self._kept.append(_ALL_COEFFICIENTS)

    def _more_scans(self, is_progressive: bool) -> int:
        """The number of scans after the first; counting stops at the limit."""
        scans = 0
        while scans < MAX_SCANS:
            marker = self._next(_MARKER_AFTER_SCAN)
            if marker is None or marker == _EOI:  # the decoder reports a file that is cut short
                break
            scans += marker == _SOS
            if marker != _SOI and marker not in _LENGTHLESS:
                segment = self._segment()
                if marker == _SOS and segment and not is_progressive:
                    self._mend_scan()
        return scans

    def _leave_out(self, start: int, stop: int) -> None:
        self._kept.append(self._data[self._begin : start])
        self._begin = stop

    def _pieces(self) -> tuple[Bytes, ...]:
        return (*self._kept, self._data[self._begin :])


def _frame(marker: int, segment: Bytes) -> tuple[int, int, int, bool]:
    """The height, width and components of a picture, and whether it is progressive."""
    if len(segment) < 6:
        raise damaged("JPEG", "its frame header is cut short")
    precision, components = segment[0], segment[5]
    height, width = segment[1] << 8 | segment[2], segment[3] << 8 | segment[4]
    if marker not in _SEQUENTIAL and marker != _PROGRESSIVE:
        raise Unsupported(
            f"the JPEG is of kind SOF{marker - 0xC0} (lossless, arithmetic or hierarchical): save "
            "it as a baseline JPEG"
        )
    if precision != 8:
        raise Unsupported(f"the JPEG has {precision} bits a sample: save it with 8")
    if components not in (1, 3):
        raise Unsupported(f"the JPEG has {components} components (CMYK?): save it as RGB")
    if not height or not width:
        raise damaged("JPEG", "its frame has no pixels")
    return height, width, components, marker == _PROGRESSIVE

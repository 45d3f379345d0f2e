"""Reads MP3 files with a missing or wrong length in the header to their real end.

libsndfile takes the length from the Xing header, or estimates it from the first frame's bit rate, and reads no
further: it would truncate joined files and files with a variable bit rate and no header. This module counts the
frames; if the length is wrong, the decoder gets the same frames after a correct header.

Formats: MPEG-1 and MPEG-2 audio, layer III (ISO 11172-3, 13818-3); Xing header with LAME's extension; ID3v2.
"""

import io
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ov_piano.errors import InputError

BITRATES = {  # kbit/s by index, of MPEG-1 and MPEG-2; 0 and 15 are not allowed
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
LARGEST_BITRATE = 14  # index
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by the version bits
ALL_FIELDS = 0b1111  # of a Xing header: frames, bytes, table of contents, quality
DELAY_OFFSET = 141  # bytes from "Xing" to the encoder's delay and padding, 12 bits each, if it has all fields


class Frame(NamedTuple):
    """Fields of a frame's header."""

    begin: int  # position in the file
    size: int  # bytes
    samples: int  # per channel
    stream: tuple[int, int, bool]  # version, sampling rate, mono: the same for all frames of a file
    side_info: int  # bytes between the header and the audio

    @property
    def end(self) -> int:
        return self.begin + self.size


def parse_frame(data: bytes | mmap.mmap, begin: int) -> Frame | None:
    """The frame that starts at ``begin``, or None."""
    head = data[begin : begin + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # 11 bits of synchronisation, layer III
        return None
    version, bitrate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or rate == 3 or bitrate in (0, 15):
        return None
    mpeg, mono = (1 if version == 3 else 2), head[3] >> 6 == 3
    samples, hertz = 1152 // mpeg, RATES[version][rate]
    size = samples // 8 * 1000 * BITRATES[mpeg][bitrate] // hertz + (head[2] >> 1 & 1)
    side_info = {(1, False): 32, (1, True): 17, (2, False): 17, (2, True): 9}[mpeg, mono]
    return Frame(begin, size, samples, (version, hertz, mono), side_info)


def find_frames(data: bytes | mmap.mmap) -> Iterator[Frame]:
    """The complete frames of a file, in order; skips tags and damaged parts.

    :raises InputError: the sampling rate or the number of channels changes
    """
    position, stream, synchronised = 0, None, False
    while 0 <= position < len(data):
        frame = parse_frame(data, position)
        if frame and not synchronised:  # random bytes may look like a frame: expect another after it
            synchronised = frame.end == len(data) or parse_frame(data, frame.end) is not None
        if not frame or not synchronised:
            synchronised = False
            position = _after_id3(data, position) or data.find(b"\xff", position + 1)
            continue
        if frame.end > len(data):
            return
        stream = stream or frame.stream
        if frame.stream != stream:
            raise InputError("joined from MP3 files of different sampling rates or channels: convert it first")
        yield frame
        position = frame.end


def _after_id3(data: bytes | mmap.mmap, begin: int) -> int | None:
    """End of the ID3v2 tag that starts at ``begin``, or None."""
    if data[begin : begin + 3] != b"ID3" or len(head := data[begin : begin + 10]) < 10:
        return None
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return begin + 10 + size + (10 if head[5] & 0x10 else 0)


def repaired(path: str | Path, samples: int) -> io.RawIOBase | None:
    """The file with a correct header, or None if libsndfile's length ``samples`` is correct.

    :raises InputError: truncated, or joined from streams of different formats
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            frames = find_frames(data)
            first = next(frames, None)
            if first is None:
                return None  # another layer
            count, end = 1, first.end
            for frame in frames:
                count, end = count + 1, frame.end
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        header = data[first.begin : first.end]
    tag, delay, begin = header[4 + first.side_info :], None, first.begin
    if tag[:4] in (b"Xing", b"Info"):
        count, begin = count - 1, first.end
        flags, declared = struct.unpack(">II", tag[4:12])
        if flags & 1 and declared == count:
            return None
        if flags & 1 and declared > count + 1:  # + 1: some encoders count the header frame
            raise InputError(f"{path}: truncated, {declared - count} of {declared} MP3 frames are missing")
        if flags & ALL_FIELDS == ALL_FIELDS:
            delay = tag[DELAY_OFFSET : DELAY_OFFSET + 2]
    elif count * first.samples == samples:
        return None
    return _View(path, _xing_frame(header[:4], first.side_info, count, end - begin, delay), begin, end)


def _xing_frame(head: bytes, side_info: int, frames: int, size: int, delay: bytes | None) -> bytes:
    """A Xing frame for ``frames`` frames of ``size`` bytes in total; the first 12 bits of ``delay``: encoder delay."""
    head = bytes([head[0], head[1] | 1, LARGEST_BITRATE << 4 | head[2] & 0x0C, head[3]])  # no checksum, no padding
    frame_size = parse_frame(head, 0).size
    tag = b"Xing" + struct.pack(">III100xI", ALL_FIELDS, frames, frame_size + size, 0) + b"LAME".ljust(21, b"\0")
    if delay:
        tag += bytes([delay[0], delay[1] & 0xF0])  # no padding at the end
    return (head + bytes(side_info) + tag).ljust(frame_size, b"\0")


class _View(io.RawIOBase):
    """File-like: ``header``, then the bytes ``begin`` to ``end`` of a file."""

    def __init__(self, path: str | Path, header: bytes, begin: int, end: int) -> None:
        self._file, self._header, self._begin = open(path, "rb"), header, begin  # noqa: SIM115 -- closed in close()
        self._position, self._size = 0, len(header) + end - begin

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer) -> int:
        size = max(0, min(len(buffer), self._size - self._position))
        part = self._header[self._position : self._position + size]
        if len(part) < size:
            self._file.seek(self._begin + self._position + len(part) - len(self._header))
            part += self._file.read(size - len(part))
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()

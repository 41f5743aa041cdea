"""A reader of the HDF5 files that this program writes, and of no others.

The HDF5 library trusts much of what a file says: one byte can crash it, or keep it busy for ever. Records (see
`malade_ref.storage.records`) use a small part of the format, so this module reads just that part, from the bytes:
version 2 or 3 of the superblock, version 2 of object headers, groups of hard links, and contiguous arrays of
little-endian numbers. Everything else is refused. Sizes are looked at before memory is taken, checksums are checked,
and no more metadata is read than the file is long.

Source: the HDF5 File Format Specification, version 3.0, https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_HEADER = 1 << 20  # bytes of one piece of metadata

NO_ARRAY = "is not an array"

_UNDEFINED = (1 << 64) - 1
_NIL, _SPACE, _LINK_INFO, _TYPE, _LINK, _EXTERNAL, _LAYOUT = 0x00, 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
_FILTERS, _ATTRIBUTE, _CONTINUATION = 0x0B, 0x0C, 0x10
_SHARED = 0x02


class FormatError(Exception):
    """What a file holds that is not part of a record."""


class ForeignError(FormatError):
    """That a file is another program's."""


class Message(NamedTuple):
    """A message of an object header.

    Attributes
    ----------
    kind : int
        Its type.
    body : bytes
        Its content.
    """

    kind: int
    body: bytes


class StoredArray(NamedTuple):
    """Where an array lies.

    Attributes
    ----------
    shape : tuple of int
        Its shape.
    dtype : dtype
        Little-endian numbers, or text of fixed length (kind "S").
    offset : int
        Its first byte in the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class StrictFile:
    """An open file, read by its bytes.

    Parameters
    ----------
    descriptor : int
        The file, open for reading; its position is neither used nor changed.

    Raises
    ------
    FormatError
        If it does not begin and end as an HDF5 file of these versions does.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.num_bytes = os.fstat(descriptor).st_size
        self._budget = self.num_bytes + MAX_HEADER
        start = os.pread(descriptor, 8, 0)
        if not SIGNATURE.startswith(start):
            raise ForeignError("it does not begin as an HDF5 file")
        block = self._bytes(0, 48)
        if block[8] not in (2, 3) or block[9:11] != b"\x08\x08" or _u64(block, 12) != 0:
            raise ForeignError("it has another version of HDF5's format")
        _check_sum(block)
        end, self.root = _u64(block, 28), _u64(block, 36)
        if end > self.num_bytes:
            raise FormatError(f"it ends after {self.num_bytes} of {end} bytes")

    def attributes(self, messages: list[Message]) -> dict[str, tuple[bytes, bytes]]:
        """Attributes without axes in an object header.

        Parameters
        ----------
        messages : list of Message
            The header.

        Returns
        -------
        dict of str to (bytes, bytes)
            Their type, as the file writes it, and their content.
        """
        found = {}
        for kind, body in messages:
            if kind != _ATTRIBUTE or len(body) < 9 or body[0] != 3 or body[1]:
                continue
            name_size, type_size, space_size = struct.unpack_from("<3H", body, 2)
            parts, at = [], 9
            for size in (name_size, type_size, space_size):
                parts.append(body[at : at + size])
                at += size
            if len(parts[2]) >= 4 and parts[2][1] == 0 and parts[2][3] == 0:
                found[parts[0].rstrip(b"\0").decode("utf-8", "replace")] = (parts[1], body[at:])
        return found

    def header(self, address: int) -> list[Message]:
        """Read an object header.

        Parameters
        ----------
        address : int
            Where it begins.

        Returns
        -------
        list of Message
            Its messages, with those of its continuations.

        Raises
        ------
        FormatError
            If it is of another version, or damaged.
        """
        start = self._bytes(address, 6)
        if start[:4] != b"OHDR" or start[4] != 2:
            raise FormatError("an object is stored in another version of the format")
        flags = start[5]
        skip = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(self._bytes(address + skip, width), "little")
        first = skip + width
        if size > MAX_HEADER:
            raise FormatError("a header is too large")
        chunk = self._bytes(address, first + size + 4)
        _check_sum(chunk)
        extra = 2 if flags & 4 else 0
        found: list[Message] = []
        waiting = [chunk[first:-4]]
        while waiting:
            for kind, body in _messages(waiting.pop(), extra):
                if kind != _CONTINUATION:
                    found.append(Message(kind, body))
                    continue
                if len(body) < 16 or not 8 <= _u64(body, 8) <= MAX_HEADER:
                    raise FormatError("a header's continuation is damaged")
                chunk = self._bytes(_u64(body, 0), _u64(body, 8))
                if chunk[:4] != b"OCHK":
                    raise FormatError("a header's continuation is damaged")
                _check_sum(chunk)
                waiting.append(chunk[4:-4])
        return found

    def links(self, messages: list[Message]) -> Iterator[tuple[str, int | None]]:
        """Names in a group.

        Parameters
        ----------
        messages : list of Message
            The group's header.

        Yields
        ------
        tuple of (str, int or None)
            A name and where its object begins; None if it is a soft or external link.

        Raises
        ------
        FormatError
            If they are damaged.
        """
        for kind, body in messages:
            if kind == _LINK:
                name, address, _ = _link(body, 0)
                yield name, address
            elif kind == _LINK_INFO:
                at = 2 + (8 if len(body) > 2 and body[1] & 1 else 0)
                if len(body) < at + 8:
                    raise FormatError("a group is damaged")
                if _u64(body, at) != _UNDEFINED:
                    yield from self._heap(_u64(body, at))

    def is_group(self, messages: list[Message]) -> bool:
        """Whether an object header is a group's.

        Parameters
        ----------
        messages : list of Message
            The header.

        Returns
        -------
        bool
            Whether it holds links, or says that there are none.
        """
        return any(kind in (_LINK, _LINK_INFO) for kind, _ in messages)

    def array(self, messages: list[Message]) -> StoredArray | str:
        """Where an array lies.

        Parameters
        ----------
        messages : list of Message
            Its header.

        Returns
        -------
        StoredArray or str
            Or what is wrong with it.
        """
        bodies = {kind: body for kind, body in messages}
        if _LAYOUT not in bodies or _SPACE not in bodies or _TYPE not in bodies:
            return NO_ARRAY
        layout, space = bodies[_LAYOUT], bodies[_SPACE]
        contiguous = len(layout) >= 18 and layout[0] in (3, 4, 5) and layout[1] == 1
        if not contiguous or _EXTERNAL in bodies or _FILTERS in bodies:
            return "is not stored in one piece"
        if len(space) < 4 or space[0] != 2 or space[3] > 1 or len(space) < 4 + 8 * space[1]:
            return "is not stored in one piece"
        shape = struct.unpack_from(f"<{space[1]}Q", space, 4)
        dtype = number_type(bodies[_TYPE]) or text_type(bodies[_TYPE])
        if dtype is None:
            return "has a dtype that records do not hold"
        found = StoredArray(shape, dtype, _u64(layout, 2))
        has = 0 if found.offset == _UNDEFINED else _u64(layout, 10)
        if has != found.num_bytes:
            return f"claims {found.num_bytes} bytes and has {has}"
        if found.num_bytes and found.offset + found.num_bytes > self.num_bytes:
            return "goes on after the end of the file"
        return found

    def read(self, array: StoredArray, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Rows of an array.

        Parameters
        ----------
        array : StoredArray
            Which one.
        first, last : int, optional
            Which rows, as in a slice; an array without axes is read whole.

        Returns
        -------
        ndarray
            Its own, C-contiguous.

        Raises
        ------
        FormatError
            If the file has become shorter.
        OSError
            If the disk cannot be read.
        """
        shape, start = array.shape, 0
        if shape:
            start, stop, _ = slice(first, last).indices(shape[0])
            shape = (max(0, stop - start), *shape[1:])
        values = np.empty(shape, dtype=array.dtype)
        if not values.size:
            return values
        view = memoryview(values.reshape(-1).view(np.uint8).data)
        at = array.offset + start * math.prod(shape[1:]) * array.dtype.itemsize
        while view:
            count = os.preadv(self._descriptor, [view[: 1 << 30]], at)
            if not count:
                raise FormatError("it was cut while it was read")
            view, at = view[count:], at + count
        return values

    def _bytes(self, address: int, size: int) -> bytes:
        self._budget -= size
        if self._budget < 0:
            raise FormatError("it describes more than it can hold")
        found = os.pread(self._descriptor, size, address) if address < self.num_bytes else b""
        if len(found) < size:
            raise FormatError("it ends too early")
        return found

    def _heap(self, address: int) -> Iterator[tuple[str, int | None]]:
        """Links of a large group: they lie one after the other in the blocks of a *fractal heap*."""
        head = self._bytes(address, 146)
        if head[:5] != b"FRHP\0" or head[7:9] != b"\0\0":
            raise FormatError("a group is damaged")
        _check_sum(head)
        count, huge, tiny = _u64(head, 70), _u64(head, 86), _u64(head, 102)
        width, start, largest, bits = struct.unpack_from("<HQQH", head, 110)
        root, rows = struct.unpack_from("<QH", head, 132)
        powers = start & (start - 1) == 0 and largest & (largest - 1) == 0
        if huge or tiny or not (powers and 0 < width <= 64 and 64 <= start <= largest <= MAX_HEADER and bits <= 64):
            raise FormatError("a group is damaged")
        sums = 4 if head[9] & 2 else 0
        blocks = [(root, start, rows)]
        seen = 0
        while blocks:
            block, size, rows = blocks.pop()
            if rows:
                blocks += reversed(self._indirect(block, rows, width, start, largest, bits))
                continue
            content = self._bytes(block, size)
            at = 13 + (bits + 7) // 8
            if content[:5] != b"FHDB\0":
                raise FormatError("a group is damaged")
            if sums:
                _check_sum(content[:at] + bytes(4) + content[at + 4 :], content[at : at + 4])
            at += sums
            while seen < count and at < size and content[at] == 1:
                name, target, at = _link(content, at)
                seen += 1
                yield name, target
        if seen != count:
            raise FormatError("a group has lost names")

    def _indirect(
        self, address: int, rows: int, width: int, start: int, largest: int, bits: int
    ) -> list[tuple[int, int, int]]:
        """Blocks below an indirect block: their addresses, sizes and, of those that have blocks again, rows."""
        first = 13 + (bits + 7) // 8
        block = self._bytes(address, first + 8 * rows * width + 4)
        if block[:5] != b"FHIB\0":
            raise FormatError("a group is damaged")
        _check_sum(block)
        found = []
        for i in range(rows * width):
            size = start << max(0, i // width - 1)
            below = 0 if size <= largest else (size // (start * width)).bit_length()
            if _u64(block, first + 8 * i) != _UNDEFINED:
                found.append((_u64(block, first + 8 * i), size, below))
        return found


def number_type(body: bytes) -> np.dtype[Any] | None:
    """The dtype of numbers that a datatype message stands for.

    Parameters
    ----------
    body : bytes
        The message.

    Returns
    -------
    dtype or None
        None if it is none of the types that records hold.
    """
    return _TYPES.get(bytes([body[0] & 15]) + body[1:]) if body else None


def text_type(body: bytes) -> np.dtype[Any] | None:
    """The dtype of text of fixed length that a datatype message stands for.

    Parameters
    ----------
    body : bytes
        The message.

    Returns
    -------
    dtype or None
        Kind "S"; None if it is no such type.
    """
    size = int.from_bytes(body[4:8], "little")
    return np.dtype(f"S{size}") if len(body) == 8 and body[0] & 15 == 3 and 0 < size < 1 << 31 else None


def _number_types() -> dict[bytes, np.dtype[Any]]:
    """The datatype messages of numbers, less their version."""
    found = {}
    for size in (1, 2, 4, 8):
        for kind, sign in (("u", 0), ("i", 8)):
            found[struct.pack("<BBHIHH", 0, sign, 0, size, 0, 8 * size)] = np.dtype(f"<{kind}{size}")
    for size, exponent, mantissa in ((2, 5, 10), (4, 8, 23), (8, 11, 52)):
        bias = (1 << (exponent - 1)) - 1
        places = struct.pack("<HHBBBBI", 0, 8 * size, mantissa, exponent, 0, mantissa, bias)
        found[struct.pack("<BBBBI", 1, 0x20, 8 * size - 1, 0, size) + places] = np.dtype(f"<f{size}")
    # A boolean is an enumeration of int8, as h5py writes it: FALSE 0, TRUE 1.
    base = struct.pack("<BBHIHH", 0, 8, 0, 1, 0, 8)
    for version in (0x10, 0x30):
        for names in (b"FALSE\0TRUE\0", b"FALSE\0\0\0TRUE\0\0\0\0"):
            message = struct.pack("<BBHI", 8, 2, 0, 1) + bytes([version]) + base[1:] + names + b"\0\1"
            found[message] = np.dtype(bool)
    return found


_TYPES = _number_types()


def _messages(chunk: bytes, extra: int) -> Iterator[tuple[int, bytes]]:
    """Messages in a piece of an object header."""
    at = 0
    while at + 4 + extra <= len(chunk):
        kind, size, flags = struct.unpack_from("<BHB", chunk, at)
        at += 4 + extra
        if at + size > len(chunk):
            raise FormatError("a header is damaged")
        if flags & _SHARED and kind != _NIL:
            raise FormatError("a header refers to another")
        yield kind, chunk[at : at + size]
        at += size


def _link(content: bytes, at: int) -> tuple[str, int | None, int]:
    """A link message: its name, its object's address (None if it is no hard link), and where it ends."""
    try:
        version, flags = content[at], content[at + 1]
        at += 2
        kind = content[at] if flags & 8 else 0
        at += (1 if flags & 8 else 0) + (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(content[at : at + width], "little")
        at += width
        name = content[at : at + size].decode()
        at += size
        if version != 1 or flags & 0xE0 or at > len(content):
            raise FormatError("a link is damaged")
        if kind == 0:
            return name, _u64(content, at), at + 8
        if kind not in (1, 64):
            raise FormatError("a link is of an unknown kind")
        return name, None, at + 2 + int.from_bytes(content[at : at + 2], "little")
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise FormatError("a link is damaged") from error


def _u64(content: bytes, at: int) -> int:
    number: int = struct.unpack_from("<Q", content, at)[0]
    return number


def _check_sum(block: bytes, expected: bytes | None = None) -> None:
    """Raise unless a block ends in its checksum, or has the one given."""
    content = block[:-4] if expected is None else block
    if checksum(content).to_bytes(4, "little") != (block[-4:] if expected is None else expected):
        raise FormatError("a checksum of its structure is wrong")


def checksum(content: bytes) -> int:
    """Checksum of HDF5's metadata: Jenkins' lookup3 ("hashlittle", initial value 0).

    Parameters
    ----------
    content : bytes
        What is summed.

    Returns
    -------
    int
        In [0, 2^32).
    """
    size, mask = len(content), 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + size) & mask
    if not size:
        return c
    words = struct.unpack(f"<{3 * -(-size // 12)}I", content + bytes(-size % 12))
    last = len(words) - 3
    for i in range(0, last, 3):
        a, b, c = (a + words[i]) & mask, (b + words[i + 1]) & mask, (c + words[i + 2]) & mask
        a = ((a - c) & mask) ^ ((c << 4 | c >> 28) & mask)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ ((a << 6 | a >> 26) & mask)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ ((b << 8 | b >> 24) & mask)
        b = (b + a) & mask
        a = ((a - c) & mask) ^ ((c << 16 | c >> 16) & mask)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ ((a << 19 | a >> 13) & mask)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ ((b << 4 | b >> 28) & mask)
        b = (b + a) & mask
    a, b, c = (a + words[last]) & mask, (b + words[last + 1]) & mask, (c + words[last + 2]) & mask
    c = ((c ^ b) - (b << 14 | b >> 18)) & mask
    a = ((a ^ c) - (c << 11 | c >> 21)) & mask
    b = ((b ^ a) - (a << 25 | a >> 7)) & mask
    c = ((c ^ b) - (b << 16 | b >> 16)) & mask
    a = ((a ^ c) - (c << 4 | c >> 28)) & mask
    b = ((b ^ a) - (a << 14 | a >> 18)) & mask
    total: int = ((c ^ b) - (b << 24 | b >> 8)) & mask
    return total

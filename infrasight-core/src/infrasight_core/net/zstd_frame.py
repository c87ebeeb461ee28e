"""Compresses bytes as one zstd frame, and tells a frame's size before it is decompressed.

Source: RFC 8878, section 3.1.1. A frame by `compress` declares the size of its content, and a
decompressor rejects content of another size.
"""

import pyarrow as pa

from infrasight_core.errors import SchemaError

_MAGIC = b"\x28\xb5\x2f\xfd"
_DESCRIPTOR = 4
_SINGLE_SEGMENT = 1 << 5
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_SIZE_BYTES = (0, 2, 4, 8)
_TWO_BYTES_OFFSET = 256  # a size of two bytes counts from here
_LEVEL = 1  # the next ones are a tenth smaller and take a third longer
_CODEC = pa.Codec("zstd", _LEVEL)


def compress(data: pa.Buffer) -> bytes:
    """Returns a frame with the data."""
    frame: bytes = _CODEC.compress(data, asbytes=True)
    return frame


def is_frame(data: bytes) -> bool:
    """Returns whether bytes begin as a frame does; an Arrow IPC stream does not."""
    return data.startswith(_MAGIC)


def content_size(frame: bytes) -> int:
    """Returns how many bytes a frame declares to contain.

    Raises:
        SchemaError: It declares none, or its header is cut off.
    """
    if len(frame) <= _DESCRIPTOR:
        raise SchemaError("a zstd frame is cut off")
    descriptor = frame[_DESCRIPTOR]
    is_single = bool(descriptor & _SINGLE_SEGMENT)
    width = _SIZE_BYTES[descriptor >> 6] or int(is_single)
    if not width:
        raise SchemaError("a zstd frame does not declare the size of its content")
    begin = _DESCRIPTOR + 1 + (not is_single) + _DICTIONARY_ID_BYTES[descriptor & 3]
    size = frame[begin : begin + width]
    if len(size) < width:
        raise SchemaError("a zstd frame is cut off")
    return int.from_bytes(size, "little") + (_TWO_BYTES_OFFSET if width == 2 else 0)


def decompress(frame: bytes) -> bytes:
    """Returns a frame's content, whose declared size the caller has found acceptable.

    Raises:
        SchemaError: It is no frame, is damaged, or contains more or less than it declares.
        MemoryError: There is not enough memory for it.
    """
    size = content_size(frame)
    try:
        content: bytes = _CODEC.decompress(frame, decompressed_size=size, asbytes=True)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SchemaError(f"a zstd frame cannot be decompressed: {reason}") from error
    return content

"""Converts record batches to Arrow IPC streams and back, compressed with zstd if that pays off.

The outbox encodes each batch as a frame, and the server decodes it. Readers get streams whose
buffers are compressed one by one, because that is what other programs' Arrow libraries read.
"""

import pyarrow as pa

from infrasight_core.errors import SchemaError
from infrasight_core.net import zstd_frame

# Setting up a compressor for each buffer costs 1 ms; below this size that saves a packet or two.
COMPRESS_FROM_BYTES = 64 << 10
_PLAIN = pa.ipc.IpcWriteOptions(use_threads=False)
_ZSTD = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)


def to_bytes(*batches: pa.RecordBatch) -> bytes:
    """Encodes batches of one schema as one IPC stream."""
    sink = pa.BufferOutputStream()
    size = sum(batch.nbytes for batch in batches)
    options = _ZSTD if size >= COMPRESS_FROM_BYTES else _PLAIN
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def to_frame(batch: pa.RecordBatch) -> bytes:
    """Encodes a batch as an IPC stream, compressed as a whole in one zstd frame.

    That is smaller and takes less time than to compress its buffers one by one, above all for
    batches of few rows, whose schema takes more room than their rows.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_PLAIN) as writer:
        writer.write_batch(batch)
    return zstd_frame.compress(sink.getvalue())


def from_frame(body: bytes, expected: pa.Schema | None = None) -> pa.Table:
    """Decodes what `to_frame` returned; see `from_bytes`. The caller has bounded its size."""
    return from_bytes(zstd_frame.decompress(body), expected)


def from_bytes(body: bytes, expected: pa.Schema | None = None) -> pa.Table:
    """Decodes an IPC stream and validates every length and offset in it.

    Args:
        body: The stream.
        expected: The schema that the stream must have, checked before its rows are decoded; None
            for any.

    Raises:
        SchemaError: The bytes are not a valid IPC stream, or it has another schema.
    """
    try:
        with pa.ipc.open_stream(body) as reader:
            if expected is not None and not reader.schema.equals(expected):
                raise SchemaError(_difference(reader.schema, expected))
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SchemaError(f"not an Arrow IPC stream: {str(error).partition(chr(10))[0]}") from error
    return table


def _difference(sent: pa.Schema, expected: pa.Schema) -> str:
    if sent.names != expected.names:
        missing = [name for name in expected.names if name not in sent.names]
        unknown = [name for name in sent.names if name not in expected.names]
        return (
            "its columns are not the probe's: "
            f"missing {missing}, unknown {unknown}, or in another order"
        )
    differences = [
        f"{ours.name} is {theirs}, not {ours}"
        for theirs, ours in zip(sent, expected, strict=True)
        if not theirs.equals(ours)
    ]
    return f"its columns have other types: {'; '.join(differences)}"

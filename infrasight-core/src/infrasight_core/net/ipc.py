"""Record batches as bytes: whole Arrow IPC streams, compressed with zstd where that is worth it."""

import pyarrow as pa

from infrasight_core.errors import SchemaError

_PLAIN = pa.ipc.IpcWriteOptions(use_threads=False)
_ZSTD = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
WORTH_BYTES = (
    64 << 10
)  # below, setting up a compressor for each buffer costs 1 ms to save less than a packet or two


def to_bytes(*batches: pa.RecordBatch) -> bytes:
    """One IPC stream that holds the batches, which share a schema."""
    sink = pa.BufferOutputStream()
    options = _ZSTD if sum(batch.nbytes for batch in batches) >= WORTH_BYTES else _PLAIN
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def from_bytes(body: bytes) -> pa.Table:
    """The rows of an IPC stream, every length and offset in it checked.

    Raises:
        SchemaError: The bytes are not a valid IPC stream.
    """
    try:
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SchemaError(f"not an Arrow IPC stream: {str(error).splitlines()[0]}") from error
    return table

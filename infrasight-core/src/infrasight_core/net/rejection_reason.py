"""Names the reasons for which the server rejects a batch."""

from infrasight.v1.stream_pb2 import RejectionReason


def reason_name(reason: int) -> str:
    """Returns a rejection's reason as metrics, tables and logs show it, e.g. `too_large`.

    A reason that this version does not know, from a newer server, is `unknown`.
    """
    if reason not in RejectionReason.values():
        return "unknown"
    name = RejectionReason.Name(RejectionReason.ValueType(reason))
    return name.removeprefix("REJECTION_REASON_").lower()

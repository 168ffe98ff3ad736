"""Bodies of `application/cbor`, which schemathesis does not write by itself."""

import cbor2
import schemathesis


@schemathesis.serializer("application/cbor")
def cbor(ctx, value):
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    try:
        return cbor2.dumps(value)
    except (cbor2.CBOREncodeError, UnicodeEncodeError):
        # Such as half of a surrogate pair, which CBOR has no form for.
        return repr(value).encode("utf-8", "replace")

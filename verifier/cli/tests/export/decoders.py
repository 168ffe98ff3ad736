"""Reads what `cgpath export` wrote with decoders that are not ours: cbor2, pycose, jwcrypto, json.

Arguments: the folder with the files, and the hex of what the quote was asked with. Prints what it found as JSON.
"""

import base64
import hashlib
import json
import pathlib
import sys

import cbor2
from jwcrypto import jwk, jws
from pycose.keys import EC2Key
from pycose.messages import Sign1Message

folder = pathlib.Path(sys.argv[1])
nonce = bytes.fromhex(sys.argv[2])


def once(pairs):
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"a key twice in {keys}"
    return dict(pairs)


def loads(name):
    return json.loads((folder / name).read_text(), object_pairs_hook=once)


def extend(value, algorithm, digest):
    return hashlib.new(algorithm, value + digest).digest()


# Canonical event log: both encodings hold the same, and replay to the same register.
names = {0x0004: "sha1", 0x000B: "sha256"}
in_cbor = cbor2.loads((folder / "log.cel").read_bytes())
in_json = loads("log.json")
assert len(in_cbor) == len(in_json)
registers = {name: bytes(hashlib.new(name).digest_size) for name in names.values()}
for number, (a, b) in enumerate(zip(in_cbor, in_json)):
    assert list(a) == [0, 1, 3, 9, 10], a
    assert (a[0], a[1], a[9]) == (number, 10, 7)
    assert (b["recnum"], b["pcr"], b["content_type"]) == (number, 10, "ima_template")
    assert a[10][0] == b["content"]["template_name"]
    assert a[10][1].hex() == b["content"]["template_data"]
    digests = {names[d[0]]: d[1] for d in a[3]}
    assert {d["hashAlg"]: d["digest"] for d in b["digests"]} == {k: v.hex() for k, v in digests.items()}
    for name, digest in digests.items():
        assert digest in (hashlib.new(name, a[10][1]).digest(), b"\xff" * len(digest))
        registers[name] = extend(registers[name], name, digest)


def check_claims(claims):
    assert claims[10] == nonce, claims[10]
    assert claims[265] == "urn:ima-cgpath:eat:1"
    assert claims[256][0] == 1 and len(claims[256]) == 33
    [[content_format, carried]] = claims[273]
    assert content_format == 65000
    assert carried == (folder / "evidence.cbor").read_bytes()
    assert cbor2.dumps(cbor2.loads(carried), canonical=True) == carried, "not deterministic"


# EAT without a signature (UCCS) and with one (CWT).
uccs = cbor2.loads((folder / "token.ucs").read_bytes())
assert uccs.tag == 601
check_claims(uccs.value)
cwt = cbor2.loads((folder / "token.cwt").read_bytes())
assert cwt.tag == 61 and cwt.value.tag == 18
sign1 = Sign1Message.decode(cbor2.dumps(cwt.value))
public = jwk.JWK.from_pem((folder / "verdict.pub.pem").read_bytes())
numbers = json.loads(public.export_public())
octets = {k: base64.urlsafe_b64decode(numbers[k] + "=" * (-len(numbers[k]) % 4)) for k in "xy"}
sign1.key = EC2Key(crv="P_256", x=octets["x"], y=octets["y"])
assert sign1.verify_signature()
check_claims(cbor2.loads(sign1.payload))
sign1.payload = sign1.payload[:-1] + bytes([sign1.payload[-1] ^ 1])
assert not sign1.verify_signature(), "a changed payload still verifies"

# Conceptual message wrapper, in both encodings.
in_cbor = cbor2.loads((folder / "evidence.cmw").read_bytes())
in_json = loads("evidence.cmw.json")
assert in_cbor["__cmwc_t"] == in_json["__cmwc_t"] == "urn:ima-cgpath:cmw:1"
for label, kind in [("evidence", 4), ("result", 8)]:
    media, value, indicator = in_cbor[label]
    assert indicator == kind
    padded = in_json[label][1] + "=" * (-len(in_json[label][1]) % 4)
    assert [media, value, kind] == [in_json[label][0], base64.urlsafe_b64decode(padded), in_json[label][2]]
assert in_cbor["evidence"][0] == 'application/eat-ucs+cbor; eat_profile="urn:ima-cgpath:eat:1"'
assert in_cbor["evidence"][1] == (folder / "token.ucs").read_bytes()

# The attestation result.
token = jws.JWS()
token.deserialize(in_cbor["result"][1].decode(), public)
result = json.loads(token.payload, object_pairs_hook=once)
assert result["eat_profile"] == "tag:ietf.org,2026:rats/ear#04"
last = cbor2.loads((folder / "evidence.cbor").read_bytes())[6][-1]
claimed = result["submods"]["node"]["ear_verifier_claims"]["checkpoint"]["sha256"]
assert claimed == hashlib.sha256(last).hexdigest(), "the result is not tied to the last checkpoint"

# Our JSON holds what our CBOR holds, and no key twice.
assert loads("evidence.json")["quote"]["attest"] == cbor2.loads((folder / "evidence.cbor").read_bytes())[4][0].hex()

print(json.dumps({name: value.hex() for name, value in registers.items()}))

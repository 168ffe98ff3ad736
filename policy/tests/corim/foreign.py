"""CoRIM by decoders and encoders that are not ours: cbor2, pycose.

`read`: the manifest (hex) and the key's coordinates come as JSON on standard input; what is in it goes out as JSON.
`write`: manifests as others would write them, as hex by name.
"""

import hashlib
import json
import sys

import cbor2
from pycose.keys import EC2Key
from pycose.messages import Sign1Message


def open_signed(message, key):
    sign1 = Sign1Message.decode(message)
    sign1.key = EC2Key(crv="P_256", x=bytes.fromhex(key["x"]), y=bytes.fromhex(key["y"]))
    assert sign1.verify_signature()
    header = {getattr(k, "identifier", k): v for k, v in sign1.phdr.items()}
    assert header[3] == "application/rim+cbor", header
    meta = cbor2.loads(header[8])
    payload = sign1.payload
    sign1.payload = payload[:-1] + bytes([payload[-1] ^ 1])
    assert not sign1.verify_signature(), "a changed payload still verifies"
    return payload, meta[0][0]


def one_or_more(value):
    return value if isinstance(value, list) else [value]


def instance(value):
    # cbor2 makes a uuid of tag 37.
    return str(value) if not isinstance(value, cbor2.CBORTag) else [value.tag, value.value.decode()]


def read(given):
    message, signer = bytes.fromhex(given["corim"]), None
    if given.get("key"):
        message, signer = open_signed(message, given["key"])
    corim = cbor2.loads(message)
    assert corim.tag == 501
    assert cbor2.dumps(corim, canonical=True) == message, "not deterministic"
    algorithms = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}
    files, triples = {}, []
    for tag in corim.value[1]:
        value = cbor2.loads(tag.value)
        if tag.tag == 505:
            assert isinstance(value[0], str) and value[12] == 0 and value[2][33] == 1
            found = files.setdefault(value[0], [])
            for entry in one_or_more(value[6][17]):
                algorithm, digest = entry[7]
                assert len(digest) == algorithms[algorithm]().digest_size
                path = entry.get(25, "") + (entry[23] + "/" if 23 in entry else "") + entry[24]
                found.append([path, algorithms[algorithm]().name, digest.hex()])
        else:
            assert tag.tag == 506
            for environment, ids in value[4].get(6, []):
                triples.append([environment[0][2], instance(environment[1]), ids])
            for environment, [measurement] in value[4].get(0, []):
                assert environment[0] == {1: "ima-cgpath", 2: "boot"}
                triples.append(["boot", measurement.get(0), sorted(measurement[1])])
    profile = corim.value[3]
    profile = profile.value if isinstance(profile, cbor2.CBORTag) else profile
    return {"id": corim.value[0], "profile": profile, "signer": signer, "files": files, "triples": triples}


def tagged(tag, value):
    return cbor2.CBORTag(tag, cbor2.dumps(value, canonical=True))


def write():
    digest = hashlib.sha256(b"content").digest()
    entity = {31: "Example Ltd.", 33: [1, 2]}
    nested = {
        0: bytes(range(16)),
        1: "nested",
        2: entity,
        4: {38: cbor2.CBORTag(32, "https://example.com/licence"), 40: "license"},
        5: {46: "a description", 50: "somebody's generator"},
        6: {
            16: {
                24: "usr",
                25: "/",
                26: {
                    16: [
                        {24: "bin", 26: {17: [{7: [1, digest], 20: 7, 24: "a"}, {7: [1, digest], 24: "b"}]}},
                        {23: "share", 24: "doc", 26: {17: {7: [7, hashlib.sha384(b"").digest()], 24: "c"}}},
                        {24: "empty"},
                    ]
                },
            },
            17: {7: [8, hashlib.sha512(b"").digest()], 23: "/etc/", 24: "d"},
        },
        12: 3,
        13: "1.2.3",
        14: 16384,
        "x-note": "for people",
    }
    corim = {
        0: "https://example.com/rim",
        1: [tagged(505, nested)],
        4: {0: cbor2.CBORTag(1, 1000), 1: cbor2.CBORTag(1, 4000000000)},
        5: [{0: "Example Ltd.", 2: [1]}],
    }
    unsigned = cbor2.dumps(cbor2.CBORTag(501, corim), canonical=True)
    legacy = cbor2.dumps(cbor2.CBORTag(500, cbor2.CBORTag(501, corim)), canonical=True)
    return {"nested": unsigned.hex(), "legacy": legacy.hex()}


given = json.load(sys.stdin)
print(json.dumps(read(given) if given["do"] == "read" else write()))

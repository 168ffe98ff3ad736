"""Reads the event log of a trust domain's register, which `cgpath export` wrote, with decoders that are not ours.

Arguments: the log in CBOR and the same in JSON. Both must hold the same. Prints each register's value by its index,
replayed from zeros, as JSON.
"""

import hashlib
import json
import pathlib
import sys

import cbor2


def once(pairs):
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"a key twice in {keys}"
    return dict(pairs)


SHA384 = 0x000C
PCCLIENT_STD = 5
EV_EVENT_TAG = 6

in_cbor = cbor2.loads(pathlib.Path(sys.argv[1]).read_bytes())
in_json = json.loads(pathlib.Path(sys.argv[2]).read_text(), object_pairs_hook=once)
assert len(in_cbor) == len(in_json)
assert in_cbor, "no record"
registers = {}
numbers = {}
for a, b in zip(in_cbor, in_json):
    assert list(a) == [0, 1, 3, 9, 10], a
    number = numbers.get(a[1], 0)
    numbers[a[1]] = number + 1
    assert (a[0], a[9]) == (number, PCCLIENT_STD), a
    assert (b["recnum"], b["pcr"], b["content_type"]) == (number, a[1], "pcclient_std"), b
    [digest] = a[3]
    assert digest[0] == SHA384
    assert b["digests"] == [{"hashAlg": "sha384", "digest": digest[1].hex()}]
    assert (a[10][0], b["content"]["event_type"]) == (EV_EVENT_TAG, "EV_EVENT_TAG")
    assert a[10][1].hex() == b["content"]["event_data"]
    value = registers.get(a[1], bytes(48))
    registers[a[1]] = hashlib.sha384(value + digest[1]).digest()
print(json.dumps({str(register): value.hex() for register, value in registers.items()}))

# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The parser class, tried in the real Keylime: see README.md for how to run it."""

import copy
import hashlib
import pathlib
import struct
import unittest

import ima_cgpath_keylime
from keylime.common.algorithms import Hash
from keylime.ima import ast, ima

HERE = pathlib.Path(__file__).resolve().parent
#: A published list that others made, beside the repository.
PUBLISHED = HERE.parents[2] / "shared/vectors/cima/ascii_ima-cgpath_sha384"

DEP = "/usr/bin/runc:/usr/bin/containerd-shim-runc-v2:/usr/lib/systemd/systemd:swapper/0"
POD = "/kubepods/burstable/pod11111111-0000-4000-8000-000000000001/0123"
#: `a b:c\d` as the kernel escapes it.
ODD = "/kubepods/a\\040b\\072c\\134d"


def line(dep, cgroup, digest, name):
    """A line as the kernel prints it, with its template digest computed here and not by the class under test."""

    def string(text):
        return struct.pack("<I", len(text) + 1) + text.encode() + b"\0"

    raw = bytes.fromhex(digest)
    field = b"sha256:\0" + raw
    data = string(dep) + string(cgroup) + struct.pack("<I", len(field)) + field + string(name)
    text = f"10 {hashlib.sha1(data).hexdigest()} ima-cgpath {dep} {cgroup} sha256:{digest} {name}"
    return text, data


GOOD = "11" * 32
EVIL = "22" * 32
POLICY = {
    "meta": {"version": 1, "generator": 0, "timestamp": ""},
    "release": 0,
    "digests": {"/bin/busybox": [GOOD], "/bin/sh": [GOOD]},
    "excludes": [],
    "keyrings": {},
    "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
    "ima-buf": {},
    "verification-keys": "",
}


def appraise(*entries):
    """What Keylime says of a list whose replay gives the register."""
    lines = [text for text, _ in entries]
    register = b"\0" * 32
    for _, data in entries:
        register = hashlib.sha256(register + hashlib.sha256(data).digest()).digest()
    _, failure = ima.process_measurement_list(
        None, lines, copy.deepcopy(POLICY), pcrval=register.hex(), hash_alg=Hash.SHA256
    )
    return failure


class ImaCgpath(unittest.TestCase):
    def setUp(self):
        ima_cgpath_keylime.register()

    def test_entries_are_judged_by_the_runtime_policy(self):
        good = [line(DEP, POD, GOOD, "/bin/busybox"), line("runc:swapper/0", ODD, GOOD, "/bin/sh")]
        self.assertFalse(appraise(*good))
        self.assertTrue(appraise(*good, line(DEP, POD, EVIL, "/bin/sh")))
        self.assertTrue(appraise(*good, line(DEP, POD, GOOD, "/bin/unknown")))

    def test_a_changed_group_is_found(self):
        text, data = line(DEP, POD, GOOD, "/bin/busybox")
        self.assertTrue(appraise((text.replace("burstable", "besteffort"), data)))

    def test_too_few_or_too_many_fields_are_rejected(self):
        text, data = line(DEP, POD, GOOD, "/bin/busybox")
        self.assertTrue(appraise((text.replace(DEP + " ", ""), data)))
        self.assertTrue(appraise((text + " x", data)))

    def test_keylime_alone_rejects_the_template(self):
        del ast.Entry._mode_lookup[ima_cgpath_keylime.TEMPLATE]
        self.assertTrue(appraise(line(DEP, POD, GOOD, "/bin/busybox")))

    @unittest.skipUnless(PUBLISHED.is_file(), f"SKIPPED: {PUBLISHED} is not there")
    def test_the_template_digests_of_a_published_list_recompute(self):
        entries = 0
        for text in PUBLISHED.read_text().splitlines():
            # Keylime expects no blank before a PCR of one digit.
            entry = ast.Entry(text.lstrip(), None, Hash.SHA384, Hash.SHA384)
            self.assertEqual(hashlib.sha384(entry.mode.bytes()).digest(), entry.ima_template_hash, text)
            entries += 1
        self.assertEqual(entries, 77)


if __name__ == "__main__":
    unittest.main()

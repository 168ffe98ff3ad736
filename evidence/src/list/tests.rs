//! Lists made by hand: what must decode, and what must not.

#![allow(missing_docs, reason = "tests")]

use super::*;
use proptest::prelude::*;

const ORDERS: [ByteOrder; 2] = [ByteOrder::Little, ByteOrder::Big];

pub(crate) fn record(order: ByteOrder, pcr: u32, digest: &[u8], name: &[u8], data: &[u8]) -> Vec<u8> {
    let mut record = order.bytes(pcr).to_vec();
    record.extend(digest);
    record.extend(order.bytes(name.len() as u32));
    record.extend(name);
    if name != b"ima" {
        record.extend(order.bytes(data.len() as u32));
    }
    record.extend(data);
    record
}

pub(crate) fn entry(pcr: u32, digest: &[u8], name: &[u8], data: &[u8]) -> ListEntry {
    ListEntry::from_canonical(0, Bytes::from(record(ByteOrder::Little, pcr, digest, name, data))).unwrap()
}

pub(crate) fn fields(order: ByteOrder, fields: &[&[u8]]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|f| [&order.bytes(f.len() as u32), *f].concat())
        .collect()
}

/// The data of an `ima-ng` entry of a file with this content.
fn ima_ng_data(order: ByteOrder, name: &[u8], content: &[u8]) -> Vec<u8> {
    let hash = [b"sha256:\0", Bank::Sha256.hash(&[content]).bytes()].concat();
    fields(order, &[&hash, &[name, &[0]].concat()])
}

/// An `ima-ng` entry of a file with this content, listed with its right SHA-1 digest.
pub(crate) fn ima_ng(pcr: u32, name: &str, content: &[u8]) -> ListEntry {
    let data = ima_ng_data(ByteOrder::Little, name.as_bytes(), content);
    entry(pcr, Bank::Sha1.hash(&[&data]).bytes(), b"ima-ng", &data)
}

/// A list of three entries, of which the second is a violation, in this layout.
fn list(order: ByteOrder, bank: Bank) -> Vec<u8> {
    let mut list = Vec::new();
    for n in 0..3u8 {
        let data = ima_ng_data(order, format!("/bin/{n}").as_bytes(), &[n]);
        let digest = if n == 1 {
            Digest::zero(bank)
        } else {
            bank.hash(&[&data])
        };
        list.extend(record(order, 10, digest.bytes(), b"ima-ng", &data));
    }
    list
}

/// All entries with their checked fields' number, and the error that ended it, when fed in chunks of `chunk`
/// bytes.
fn run(mut decoder: Decoder, bytes: &[u8], chunk: usize) -> (Vec<ListEntry>, Option<Error>) {
    let mut entries = Vec::new();
    for (n, part) in bytes.chunks(chunk).map(Some).chain([None]).enumerate() {
        match part {
            Some(part) if n % 2 == 0 => decoder.feed(part),
            Some(part) => decoder.feed_bytes(Bytes::copy_from_slice(part)),
            None => decoder.end(),
        }
        loop {
            match decoder.next_entry() {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_entry(), Err(error.clone()), "an error stays");
                    return (entries, Some(error));
                }
            }
        }
    }
    (entries, None)
}

fn all(bytes: &[u8]) -> (Vec<ListEntry>, Option<Error>) {
    run(Decoder::auto(), bytes, bytes.len().max(1))
}

fn check_fields(entry: &ListEntry) -> Result<()> {
    entry.fields(Templates::builtin()).map(|_| ())
}

#[test]
fn byte_order_and_bank_are_found_and_the_digests_recompute() {
    for order in ORDERS {
        for bank in Bank::ALL {
            let bytes = list(order, bank);
            let mut decoder = Decoder::auto();
            decoder.feed(&bytes);
            let mut found = Vec::new();
            while let Some(entry) = decoder.next_entry().unwrap() {
                check_fields(&entry).unwrap();
                found.push(entry.listed());
                assert_eq!((entry.pcr(), entry.order()), (10, order));
                let name = format!("/bin/{}", entry.index());
                assert_eq!(entry.file_name(), Some(name.as_bytes()));
                assert_eq!(entry.file_digest().unwrap().algorithm.name(), "sha256");
                // What evidence carries is read back as the same entry.
                let Entry::Full(canonical) = entry.to_entry() else {
                    panic!()
                };
                let again = ListEntry::from_canonical(entry.index(), canonical.as_slice()).unwrap();
                assert_eq!(
                    (again.pcr(), again.order(), again.listed()),
                    (10, order, entry.listed())
                );
                assert_eq!(
                    (again.file_name(), again.data()),
                    (entry.file_name(), entry.data())
                );
            }
            let matches = Listed::Matches(ListBank::Bank(bank));
            assert_eq!(found, [matches, Listed::Violation, matches], "{order:?} {bank}");
            assert_eq!(
                decoder.form(),
                Some(Form::Binary(Layout {
                    order,
                    digest_len: bank.len()
                }))
            );
            assert_eq!((decoder.pending(), decoder.offset()), (0, bytes.len() as u64));
        }
    }
}

#[test]
fn every_truncation_is_incomplete_and_gives_the_entries_before_it() {
    for order in ORDERS {
        for bank in Bank::ALL {
            let bytes = list(order, bank);
            let (whole, _) = all(&bytes);
            let ends: Vec<u64> = whole
                .iter()
                .map(|e| e.offset() + e.record().len() as u64)
                .collect();
            for n in 0..bytes.len() {
                let (entries, error) = all(&bytes[..n]);
                let before = ends.iter().filter(|end| **end <= n as u64).count();
                assert_eq!(entries, whole[..before], "cut at {n}");
                let at_border = n == 0 || ends.contains(&(n as u64));
                match error {
                    None => assert!(at_border, "cut at {n}"),
                    Some(Error::Incomplete { offset, need, .. }) => {
                        assert!(
                            !at_border && need > 0 && offset == before.checked_sub(1).map_or(0, |b| ends[b])
                        );
                    }
                    Some(other) => panic!("cut at {n}: {other}"),
                }
            }
        }
    }
}

#[test]
fn chunks_of_any_size_give_the_same_entries() {
    for bytes in [
        list(ByteOrder::Little, Bank::Sha256),
        ascii_of(&list(ByteOrder::Little, Bank::Sha1)),
    ] {
        let whole = all(&bytes);
        assert_eq!(whole.0.len(), 3);
        for chunk in 1..40 {
            assert_eq!(run(Decoder::auto(), &bytes, chunk), whole, "chunks of {chunk}");
        }
    }
}

fn ascii_of(binary: &[u8]) -> Vec<u8> {
    let (entries, error) = all(binary);
    assert_eq!(error, None);
    let line = |e: &ListEntry| [e.to_ascii(Templates::builtin()).unwrap(), b"\n".to_vec()].concat();
    entries.iter().flat_map(line).collect()
}

#[test]
fn more_bytes_are_asked_for_as_many_as_lack_at_least() {
    let bytes = list(ByteOrder::Little, Bank::Sha1);
    let mut decoder = Decoder::new(Format::Binary(Some(Layout::DEFAULT)));
    let mut fed = 0;
    let mut entries = 0;
    loop {
        match decoder.next_entry().unwrap() {
            Some(_) => entries += 1,
            None if fed == bytes.len() => break,
            None => {
                let end = fed + decoder.need();
                assert!(
                    decoder.need() > 0 && end <= bytes.len(),
                    "never more than the list has"
                );
                decoder.feed(&bytes[fed..end]);
                fed = end;
            }
        }
    }
    assert_eq!(entries, 3);
}

#[test]
fn the_old_template_hashes_its_name_padded_and_without_lengths() {
    let digest = [0xab; 20];
    let name = b"/usr/bin/old";
    let hashed = [&digest[..], name, &[0; 256 - 12]].concat();
    assert_eq!(hashed.len(), 276);
    for order in ORDERS {
        let data = [&digest[..], &order.bytes(name.len() as u32), name].concat();
        let bytes = record(order, 10, Bank::Sha1.hash(&[&hashed]).bytes(), b"ima", &data);
        let mut two = bytes.clone();
        two.extend(&bytes);
        let (entries, error) = all(&two);
        assert_eq!((entries.len(), error), (2, None));
        let entry = &entries[1];
        check_fields(entry).unwrap();
        assert_eq!(entry.listed(), Listed::Matches(ListBank::Bank(Bank::Sha1)));
        assert_eq!(entry.template_digest(Bank::Sha384), Bank::Sha384.hash(&[&hashed]));
        assert_eq!(entry.file_name(), Some(&name[..]));
        assert_eq!(entry.file_digest().unwrap().bytes, digest);
        let Entry::Full(canonical) = entry.to_entry() else {
            panic!()
        };
        assert_eq!(
            ListEntry::from_canonical(1, canonical.as_slice())
                .unwrap()
                .listed(),
            entry.listed()
        );
        let line = [entry.to_ascii(Templates::builtin()).unwrap(), b"\n".to_vec()].concat();
        assert_eq!(all(&line).0[0].record(), entry.record());
        for n in 1..bytes.len() {
            assert!(
                matches!(all(&bytes[..n]).1, Some(Error::Incomplete { .. })),
                "cut at {n}"
            );
        }
    }
    let long = [&digest[..], &256u32.to_le_bytes(), &[b'a'; 256]].concat();
    let bytes = record(ByteOrder::Little, 10, &[1; 20], b"ima", &long);
    assert!(matches!(
        all(&bytes).1,
        Some(Error::Limit {
            offset: 51,
            found: 256,
            limit: 255,
            ..
        })
    ));
}

#[test]
fn absurd_lengths_are_refused_where_they_stand_before_anything_is_allocated() {
    let good = list(ByteOrder::Little, Bank::Sha1);
    let start = all(&good).0[1].offset();
    let with = |at: u64, value: u32| {
        let mut bytes = good.clone();
        bytes[(start + at) as usize..][..4].copy_from_slice(&value.to_le_bytes());
        // No more bytes than the header: the error must not wait for four gigabytes.
        all(&bytes[..(start + 40) as usize])
    };
    for value in [256, 0x7fff_ffff, u32::MAX] {
        let (entries, error) = with(24, value);
        assert_eq!(entries.len(), 1);
        assert!(
            matches!(error, Some(Error::Limit { offset, found, limit: 255, .. })
            if offset == start + 24 && found == u64::from(value))
        );
    }
    for value in [16 * 1024 * 1024 + 1, u32::MAX] {
        let (_, error) = with(34, value);
        assert!(
            matches!(error, Some(Error::Limit { offset, .. }) if offset == start + 34),
            "{error:?}"
        );
    }
    assert!(matches!(with(24, 0).1, Some(Error::Malformed { .. })));
    assert!(matches!(with(0, 64).1, Some(Error::Malformed { offset, .. }) if offset == start));
    // In the first entry too, where the layout is not known yet.
    let first = record(ByteOrder::Big, 10, &[1; 32], b"ima-sig", &[]);
    let mut first = first[..first.len() - 4].to_vec();
    first.extend([0xff; 4]);
    assert!(matches!(
        all(&first).1,
        Some(Error::Limit {
            offset: 47,
            found: 0xffff_ffff,
            ..
        })
    ));
    let tiny = Limits { data: 10 };
    assert!(matches!(
        run(Decoder::auto().with_limits(tiny), &good, 7).1,
        Some(Error::Limit { .. })
    ));
    let long_line = [b"10 ".to_vec(), vec![b'a'; 5000]].concat();
    let (_, error) = run(Decoder::auto().with_limits(tiny), &long_line, 512);
    assert!(
        matches!(error, Some(Error::Limit { limit: 4116, .. })),
        "{error:?}"
    );
}

#[test]
fn names_of_any_bytes_and_of_4096_bytes_are_read_and_only_safe_ones_written_as_ascii() {
    let templates = Templates::builtin();
    let long = vec![b'x'; 4096];
    for (name, is_safe) in [
        (&long[..], true),
        ("/ünï/ṕath".as_bytes(), true),
        (b"/\xff\xfe", true),
        (b"/a b", false),
        (b"/a\nb", false),
        (b"/a\x1b[31m", false),
        (b"", true),
    ] {
        let data = ima_ng_data(ByteOrder::Little, name, b"c");
        let entry = entry(10, Bank::Sha1.hash(&[&data]).bytes(), b"ima-ng", &data);
        check_fields(&entry).unwrap();
        assert_eq!(entry.file_name(), Some(name));
        match entry.to_ascii(templates) {
            Ok(line) => {
                assert!(is_safe);
                let (again, error) = all(&[&line[..], b"\n"].concat());
                assert_eq!((again[0].record(), error), (entry.record(), None));
            }
            Err(Unsafe::Byte {
                index: 0,
                field: "n-ng",
                at: 2,
                ..
            }) => assert!(!is_safe),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn an_unknown_template_is_framed_in_binary_and_reported_with_its_offset() {
    let data = ima_ng_data(ByteOrder::Little, b"/x", b"c");
    let bytes = record(
        ByteOrder::Little,
        10,
        Bank::Sha1.hash(&[&data]).bytes(),
        b"ima-own",
        &data,
    );
    let list = [list(ByteOrder::Little, Bank::Sha1), bytes].concat();
    let (entries, error) = all(&list);
    assert_eq!((entries.len(), error), (4, None));
    let at = entries[3].offset() + 28;
    let Err(Error::Malformed { offset, why }) = check_fields(&entries[3]) else {
        panic!()
    };
    assert!(
        offset == at && why.contains("entry 3") && why.contains("`ima-own` is not known"),
        "{why}"
    );
    // It replays all the same, and with its fields given it is read.
    assert_eq!(entries[3].listed(), Listed::Matches(ListBank::Bank(Bank::Sha1)));
    let mut own = Templates::default();
    own.define("ima-own", "d-ng|n-ng").unwrap();
    assert_eq!(entries[3].fields(&own).unwrap().len(), 2);
    assert!(own.define("ima-ng", "n-ng").is_err() && own.define("a b", "n").is_err());

    let line = entries[3].to_ascii(&own).unwrap();
    let (_, error) = all(&[&line[..], b"\n"].concat());
    assert!(
        matches!(&error, Some(Error::Malformed { offset: 44, why }) if why.contains("`ima-own`")),
        "{error:?}"
    );
    let decoder = Decoder::auto().with_templates(own);
    assert_eq!(
        run(decoder, &[&line[..], b"\n"].concat(), 9).0[0].record(),
        entries[3].record()
    );
}

#[test]
fn a_field_list_in_the_names_place_is_a_template() {
    let name = b"n-ng|iuid|d-ngv2|imode|sig";
    let digest = [b"verity:sha256:\0", &[7u8; 32][..]].concat();
    for order in ORDERS {
        let mode = if order == ByteOrder::Little {
            [0xed, 0x81]
        } else {
            [0x81, 0xed]
        };
        let data = fields(order, &[b"/bin/x\0", &order.bytes(1000), &digest, &mode, b""]);
        let bytes = record(order, 10, Bank::Sha1.hash(&[&data]).bytes(), name, &data);
        let entry = all(&bytes).0.remove(0);
        let values: Vec<Value> = entry
            .fields(Templates::builtin())
            .unwrap()
            .iter()
            .map(|f| f.value().unwrap())
            .collect();
        assert_eq!(values[0], Value::Text(b"/bin/x"));
        assert_eq!(values[1], Value::Number(1000));
        assert!(matches!(values[2], Value::Digest(d) if d.kind == Some(DigestKind::Verity)));
        assert_eq!(values[3], Value::Number(0o100_755));
        assert_eq!(values[4], Value::Empty);
        let line = entry.to_ascii(Templates::builtin()).unwrap();
        assert!(line.ends_with(b" 33261 "), "an empty field keeps its blank");
        let again = all(&[&line[..], b"\n"].concat()).0.remove(0);
        assert_eq!((again.record(), again.order()), (entry.record(), order));
    }
    for wrong in ["d-ng|", "|n", "d-ng|x", ""] {
        assert!(Template::from_field_list(wrong.as_bytes()).is_err(), "{wrong}");
    }
    assert!(Template::from_field_list("n|".repeat(15).as_bytes()).is_err());
    assert!(Template::from_field_list(b"n|n|n|n|n|n|n|n|n|n|n|n|n|n|n|n").is_err());
    for (name, list) in BUILTIN {
        assert_eq!(
            Templates::builtin()
                .resolve(name.as_bytes(), 0)
                .unwrap()
                .field_list(),
            list
        );
    }
}

#[test]
fn a_relabelled_entry_passes_only_with_a_template_of_the_same_shape() {
    let data = ima_ng_data(ByteOrder::Little, b"/x", b"c");
    let digest = Bank::Sha1.hash(&[&data]);
    let labelled = |name: &[u8]| {
        all(&record(ByteOrder::Little, 10, digest.bytes(), name, &data))
            .0
            .remove(0)
    };
    for name in ["ima-ng", "d-ng|n-ng"] {
        check_fields(&labelled(name.as_bytes())).unwrap();
    }
    for name in [
        "ima-sig",
        "ima-buf",
        "ima-modsig",
        "evm-sig",
        "ima-cgpath",
        "ima-ngv2",
        "ima-sigv2",
        "n-ng|d-ng",
    ] {
        let error = check_fields(&labelled(name.as_bytes())).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{name}: {error}");
    }
    // `ima` has another layout: it does not even end where the entry does, or its digest differs.
    let bytes = record(ByteOrder::Little, 10, digest.bytes(), b"ima", &data);
    let (entries, error) = all(&bytes);
    assert!(error.is_some() || entries.iter().any(|e| e.listed() == Listed::Differs));
}

#[test]
fn fields_that_the_kernel_never_writes_are_refused() {
    let hash = [b"sha256:\0", &[1u8; 32][..]].concat();
    let bad: &[(&str, &[&[u8]])] = &[
        ("ima-ng", &[&hash, b"no nul"]),
        ("ima-ng", &[&hash, b"two\0nul\0"]),
        ("ima-ng", &[&hash, b""]),
        ("ima-ng", &[b"", b"/x\0"]),
        ("ima-ng", &[b"sha256:\0short", b"/x\0"]),
        ("ima-ng", &[b"sha257:\0\x01\x01", b"/x\0"]),
        ("ima-ng", &[b"sha256", b"/x\0"]),
        ("ima-ng", &[b"sha256\0aaaa", b"/x\0"]),
        ("ima-ngv2", &[&hash, b"/x\0"]),
        ("ima-ngv2", &[b"other:sha1:\0aaaaaaaaaaaaaaaaaaaa", b"/x\0"]),
        ("ima-ng", &[&hash, b"/x\0", b""]),
        ("ima-ng", &[&hash]),
        ("n-ng|imode", &[b"/x\0", &[0; 4]]),
        ("n-ng|iuid", &[b"/x\0", &[0; 2]]),
        ("n-ng|xattrlengths", &[b"/x\0", &[0; 3]]),
        ("d|n", &[&[0; 19], b"/x\0"]),
    ];
    for (name, values) in bad {
        let data = fields(ByteOrder::Little, values);
        let entry = entry(10, &[1; 20], name.as_bytes(), &data);
        let error = check_fields(&entry).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{name} {values:?}");
        assert!(entry.file_name().is_none() && entry.file_digest().is_none());
    }
    let good: &[(&str, &[&[u8]])] = &[
        // A violation of kernels that wrote 20 bytes whatever the algorithm.
        ("ima-ng", &[&[b"sha256:\0", &[0u8; 20][..]].concat(), b"/x\0"]),
        ("ima-ng", &[&[b":\0", &[1u8; 20][..]].concat(), b"/x\0"]),
        ("d|n", &[&[1; 16], b"/x\0"]),
        ("ima-modsig", &[&hash, b"/x\0", b"", b"", b""]),
        ("evm-sig", &[&hash, b"/x\0", b"", b"", b"", b"", b"", b"", b""]),
        (
            "evm-sig",
            &[
                &hash,
                b"/x\0",
                b"s",
                b"a|b\0",
                &[1, 0, 0, 0, 1, 0, 0, 0],
                b"vw",
                &[0; 4],
                &[0; 4],
                &[0; 2],
            ],
        ),
        ("ima-cgpath", &[b"", b"", &hash, b"/x\0"]),
        ("ima-cgpath", &[b"\0", b"\0", &hash, b"/x\0"]),
        ("ima-ng", &[&hash, b"\0"]),
        (
            "ima-ngv2",
            &[&[b"ima:sha512:\0", &[1u8; 64][..]].concat(), b"/x\0"],
        ),
        ("ima-ng", &[&[b"sm3-256:\0", &[1u8; 32][..]].concat(), b"/x\0"]),
    ];
    for (name, values) in good {
        let data = fields(ByteOrder::Little, values);
        let entry = entry(10, Bank::Sha1.hash(&[&data]).bytes(), name.as_bytes(), &data);
        check_fields(&entry).unwrap();
        let line = [entry.to_ascii(Templates::builtin()).unwrap(), b"\n".to_vec()].concat();
        let (again, error) = all(&line);
        assert_eq!(
            (again.first().map(ListEntry::record), error),
            (Some(entry.record()), None),
            "{name}"
        );
    }
}

#[test]
fn an_all_zero_digest_is_a_violation_whatever_the_entry_says() {
    let data = ima_ng_data(ByteOrder::Little, b"/x", b"c");
    for bank in Bank::ALL {
        let zeroed = all(&record(
            ByteOrder::Little,
            10,
            Digest::zero(bank).bytes(),
            b"ima-ng",
            &data,
        ))
        .0
        .remove(0);
        assert_eq!(zeroed.listed(), Listed::Violation);
        assert_eq!(
            zeroed.to_opaque(&[bank]),
            Entry::Opaque {
                pcr: 10,
                digests: vec![Digest::zero(bank)],
                hash: None,
            }
        );
    }
}

#[test]
fn a_sha1_digest_padded_to_a_larger_bank_is_recognised() {
    let data = ima_ng_data(ByteOrder::Little, b"/x", b"c");
    let sha1 = Bank::Sha1.hash(&[&data]);
    for bank in [Bank::Sha256, Bank::Sha384, Bank::Sha512] {
        let mut padded = sha1.bytes().to_vec();
        padded.resize(bank.len(), 0);
        let bytes = |digest: &[u8]| record(ByteOrder::Little, 10, digest, b"ima-ng", &data);
        assert_eq!(all(&bytes(&padded)).0[0].listed(), Listed::PaddedSha1(bank));
        padded[bank.len() - 1] = 1;
        assert_eq!(all(&bytes(&padded)).0[0].listed(), Listed::Differs);
    }
}

#[test]
fn ascii_lines_that_are_cut_are_incomplete_and_wrong_ones_named_by_line() {
    let bytes = ascii_of(&list(ByteOrder::Little, Bank::Sha1));
    let (whole, _) = all(&bytes);
    let second = whole[1].offset() as usize;
    let third = whole[2].offset() as usize;
    for n in third + 1..bytes.len() - 1 {
        let (entries, error) = all(&bytes[..n]);
        assert_eq!(entries, whole[..2], "cut at {n}");
        assert!(
            matches!(error, Some(Error::Incomplete { offset, .. }) if offset == third as u64),
            "cut at {n}"
        );
    }
    // Without its newline, the last line is taken only if its digest proves it whole.
    assert_eq!(all(&bytes[..bytes.len() - 1]), (whole.clone(), None));
    let mut trimmed = bytes[..second].to_vec();
    trimmed.truncate(second - 8);
    trimmed.push(b'\n');
    let (_, error) = all(&trimmed);
    assert!(
        matches!(&error, Some(Error::Malformed { why, .. })
        if why.contains("line 1") && why.contains("was the line's end trimmed?")),
        "{error:?}"
    );
    for (line, why) in [
        (&b"100 00 ima-ng x y\n"[..], "no PCR"),
        (b"10 zz ima-ng x y\n", "no digest"),
        (b"10 0000 ima-ng x y\n", "no digest"),
        (b"10\n", "ends after the PCR"),
        (b"10 \n", "no digest"),
        (
            b"10 00112233445566778899aabbccddeeff00112233\n",
            "ends after the digest",
        ),
        (
            b"10 00112233445566778899aabbccddeeff00112233  x\n",
            "name is empty",
        ),
        (
            b"10 00112233445566778899aabbccddeeff00112233 ima-ng sha1:zz /x\n",
            "no hex",
        ),
        (
            b"10 00112233445566778899aabbccddeeff00112233 ima-ng sha1:00 /x\n",
            "sha1 has 20",
        ),
        (
            b"10 00112233445566778899aabbccddeeff00112233 n-ng|imode /x 65536\n",
            "no 2-byte number",
        ),
        (
            b"10 00112233445566778899aabbccddeeff00112233 n-ng|sig /x 00 00\n",
            "more than the 2 fields",
        ),
        (b"10 \n\n", "no digest"),
        (b"  \n", "no PCR"),
    ] {
        let (_, error) = all(line);
        assert!(
            matches!(&error, Some(Error::Malformed { why: w, .. }) if w.contains(why)),
            "{why}: {error:?}"
        );
    }
}

#[test]
fn a_newline_in_a_name_cannot_hide_in_an_ascii_list() {
    // What the kernel prints for a file named "/x\n10 <digest> ima-ng …": a forged second line.
    let forged = ima_ng(10, "/forged", b"f");
    let line = String::from_utf8(forged.to_ascii(Templates::builtin()).unwrap()).unwrap();
    let real = ima_ng(10, &format!("/x\n{line}"), b"r");
    let mut text = real.ascii_start().into_bytes();
    for field in real.fields(Templates::builtin()).unwrap() {
        text.push(b' ');
        text.extend_from_slice(&field.ascii().unwrap());
    }
    text.push(b'\n');
    let (entries, error) = all(&text);
    assert_eq!((entries.len(), error), (2, None));
    // The forged line looks right, the broken one betrays it.
    assert_eq!(entries[0].listed(), Listed::Differs);
}

#[test]
fn reading_goes_on_where_it_was_left() {
    let bytes = list(ByteOrder::Little, Bank::Sha1);
    let (whole, _) = all(&bytes);
    let from = whole[1].offset();
    let decoder = Decoder::new(Format::Binary(Some(Layout::DEFAULT))).resume(1, from);
    assert_eq!(run(decoder, &bytes[from as usize..], 50).0, whole[1..]);
}

#[test]
fn a_record_with_anything_behind_it_is_not_canonical() {
    let record = ima_ng(10, "/x", b"c").record().to_vec();
    for n in 0..record.len() {
        assert!(
            matches!(
                ListEntry::from_canonical(0, &record[..n]),
                Err(Error::Incomplete { .. })
            ),
            "cut at {n}"
        );
    }
    let longer = [&record[..], &[0]].concat();
    let offset = record.len() as u64;
    assert!(
        matches!(ListEntry::from_canonical(0, &longer), Err(Error::Malformed { offset: o, .. })
            if o == offset)
    );
}

#[test]
fn an_entry_that_is_detached_or_fed_without_copy_is_the_same() {
    let bytes = list(ByteOrder::Big, Bank::Sha384);
    let mut decoder = Decoder::auto();
    decoder.feed_bytes(Bytes::from(bytes.clone()));
    let entry = decoder.next_entry().unwrap().unwrap();
    assert_eq!(entry.detached(), entry);
    assert_eq!(entry, all(&bytes).0[0]);
}

fn field_value(field: Field, order: ByteOrder) -> BoxedStrategy<Vec<u8>> {
    let text = proptest::collection::vec(0x21u8..=0x7e, 1..40).prop_map(|mut t| {
        t.push(0);
        t
    });
    let raw = proptest::collection::vec(any::<u8>(), 0..60);
    let digest = |prefix: &'static str, len: usize| {
        proptest::collection::vec(1u8.., len).prop_map(move |d| [prefix.as_bytes(), &d].concat())
    };
    match field {
        Field::D => digest("", 20).boxed(),
        Field::DNg | Field::DModsig => prop_oneof![
            digest("sha256:\0", 32),
            digest("sha3-512:\0", 64),
            digest("md5:\0", 16)
        ]
        .boxed(),
        Field::DNgV2 => prop_oneof![digest("ima:sha384:\0", 48), digest("verity:sha256:\0", 32)].boxed(),
        Field::N | Field::NNg | Field::Dep | Field::CgPath => text.boxed(),
        Field::XattrNames => prop_oneof![Just(Vec::new()), text].boxed(),
        Field::XattrLengths => raw
            .prop_map(|mut r| {
                r.truncate(r.len() / 4 * 4);
                r
            })
            .boxed(),
        Field::Sig | Field::Buf | Field::Modsig | Field::XattrValues | Field::EvmSig => raw.boxed(),
        Field::Iuid | Field::Igid => any::<u32>().prop_map(move |n| order.bytes(n).to_vec()).boxed(),
        Field::Imode => any::<u16>()
            .prop_map(move |n| match order {
                ByteOrder::Little => n.to_le_bytes().to_vec(),
                ByteOrder::Big => n.to_be_bytes().to_vec(),
            })
            .boxed(),
    }
}

fn any_entry() -> impl Strategy<Value = (ByteOrder, Vec<u8>)> {
    let order = prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)];
    let custom = proptest::collection::vec(proptest::sample::select(&Field::ALL[..]), 1..MAX_FIELDS)
        .prop_map(|fields| fields.iter().map(|f| f.id()).collect::<Vec<_>>().join("|"));
    let name = prop_oneof![
        proptest::sample::select(&BUILTIN[1..]).prop_map(|(n, _)| n.to_owned()),
        custom
    ];
    (order, name, proptest::sample::select(&Bank::ALL[..]), 0..=MAX_PCR).prop_flat_map(
        |(order, name, bank, pcr)| {
            let template = Templates::builtin().resolve(name.as_bytes(), 0).unwrap();
            let values: Vec<_> = template.fields().iter().map(|f| field_value(*f, order)).collect();
            values.prop_map(move |values| {
                let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
                let data = fields(order, &values);
                (
                    order,
                    record(order, pcr, bank.hash(&[&data]).bytes(), name.as_bytes(), &data),
                )
            })
        },
    )
}

proptest! {
    #[test]
    fn every_template_survives_binary_canonical_and_ascii((order, bytes) in any_entry()) {
        let (entries, error) = all(&bytes);
        prop_assert_eq!((entries.len(), error), (1, None));
        let entry = &entries[0];
        prop_assert!(check_fields(entry).is_ok());
        prop_assert!(matches!(entry.listed(), Listed::Matches(_)));
        let Entry::Full(canonical) = entry.to_entry() else { panic!() };
        let again = ListEntry::from_canonical(0, canonical.as_slice()).unwrap();
        prop_assert_eq!(again.data(), entry.data());
        prop_assert_eq!(again.listed(), entry.listed());
        if order == ByteOrder::Little {
            prop_assert_eq!(&canonical, &bytes);
        }
        let line = [entry.to_ascii(Templates::builtin()).unwrap(), b"\n".to_vec()].concat();
        let (from_ascii, error) = all(&line);
        prop_assert_eq!(error, None);
        prop_assert_eq!(from_ascii[0].record(), entry.record());
    }

    #[test]
    fn any_bytes_give_entries_or_an_error_and_chunks_do_not_matter(
        start in prop_oneof![
            Just(Vec::new()),
            Just(list(ByteOrder::Little, Bank::Sha1)),
            Just(list(ByteOrder::Big, Bank::Sha256)),
            Just(ascii_of(&list(ByteOrder::Little, Bank::Sha1))),
        ],
        cut in any::<proptest::sample::Index>(),
        tail in proptest::collection::vec(any::<u8>(), 0..200),
        chunk in 1usize..300,
    ) {
        let mut bytes = start;
        let at = cut.index(bytes.len() + 1);
        bytes.splice(at..(at + tail.len()).min(bytes.len()), tail);
        let whole = all(&bytes);
        for entry in &whole.0 {
            let _ = (check_fields(entry), entry.listed(), entry.to_ascii(Templates::builtin()));
            let _ = (entry.file_name(), entry.file_digest(), entry.dep(), entry.cgroup_path());
            let canonical = ListEntry::from_canonical(0, entry.record()).unwrap();
            prop_assert_eq!(canonical.record(), entry.record());
        }
        prop_assert_eq!(run(Decoder::auto(), &bytes, chunk), whole);
    }
}

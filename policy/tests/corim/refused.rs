//! Manifests that must be refused, each with the place of what is wrong.

use super::{Error, key, manifest, unhex, unsigned, written};
use crate::used;
use cgpath_policy::corim::{Trust, read, sign};
use coset::cbor::Value;

fn decode(bytes: &[u8]) -> Value {
    coset::cbor::from_reader(bytes).unwrap()
}

fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    coset::cbor::into_writer(value, &mut out).unwrap();
    out
}

fn number(n: i64) -> Value {
    Value::Integer(n.into())
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// The value of a key.
fn at(value: &mut Value, key: i64) -> &mut Value {
    let Value::Map(map) = value else {
        panic!("{value:?} is no map")
    };
    let found = map.iter_mut().find(|(k, _)| *k == number(key));
    &mut found.unwrap_or_else(|| panic!("no key {key}")).1
}

fn item(value: &mut Value, n: usize) -> &mut Value {
    let Value::Array(items) = value else {
        panic!("{value:?} is no array")
    };
    &mut items[n]
}

fn inner(value: &mut Value) -> &mut Value {
    let Value::Tag(_, inner) = value else {
        panic!("{value:?} is no tag")
    };
    inner
}

/// Puts a key where it belongs among numbers.
fn put(value: &mut Value, key: i64, new: Value) {
    let Value::Map(map) = value else {
        panic!("{value:?} is no map")
    };
    map.retain(|(k, _)| *k != number(key));
    let after = map
        .iter()
        .position(|(k, _)| k.as_integer().is_none_or(|k| i128::from(k) > key.into()));
    map.insert(after.unwrap_or(map.len()), (number(key), new));
}

fn remove(value: &mut Value, key: i64) {
    let Value::Map(map) = value else {
        panic!("{value:?} is no map")
    };
    map.retain(|(k, _)| *k != number(key));
}

/// Our manifest with its `corim-map` changed.
fn corim(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = decode(&written());
    change(inner(&mut value));
    encode(&value)
}

/// Our manifest with what is in tag `n` changed.
fn tag(n: usize, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    corim(|map| {
        let bytes = inner(item(at(map, 1), n));
        let mut value = decode(bytes.as_bytes().unwrap());
        change(&mut value);
        *bytes = Value::Bytes(encode(&value));
    })
}

/// With the first file of the first CoSWID changed.
fn file(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    tag(0, |coswid| change(item(at(at(coswid, 6), 17), 0)))
}

/// With the triples of the CoMID, which comes last, changed.
fn triples(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    tag(4, |comid| change(at(comid, 4)))
}

fn is_refused(bytes: &[u8], place: &str, why: &str) {
    let error = unsigned(bytes).expect_err(why).to_string();
    assert!(
        error.contains(place) && error.contains(why),
        "{error}\n  lacks {place:?} or {why:?}"
    );
}

#[test]
fn the_helpers_change_nothing_by_themselves() {
    assert_eq!(corim(|_| ()), written());
    assert_eq!(file(|_| ()), written());
    assert_eq!(triples(|_| ()), written());
}

#[test]
fn what_could_change_the_meaning_and_is_not_understood_is_refused_by_its_place() {
    is_refused(&corim(|map| put(map, 9, number(1))), "corim: key 9", "extension");
    let profile = Value::Tag(32, Box::new(text("http://example.com/p")));
    is_refused(
        &corim(|map| put(map, 3, profile)),
        "corim.profile",
        "http://example.com/p",
    );
    is_refused(
        &corim(|map| {
            let tag = item(at(map, 1), 1);
            *tag = Value::Tag(508, Box::new(Value::Bytes(encode(&number(1)))));
        }),
        "corim.tags[1]: tag 508",
        "CoSWID (505)",
    );
    is_refused(
        &tag(0, |coswid| put(coswid, 9, Value::Bool(true))),
        "tags[0].coswid: a patch tag",
        "installed",
    );
    is_refused(
        &tag(0, |coswid| put(coswid, 3, Value::Map(vec![]))),
        "tags[0].coswid: evidence",
        "payload",
    );
    is_refused(
        &tag(0, |coswid| put(at(coswid, 6), 18, Value::Map(vec![]))),
        "coswid.payload: key 18",
        "files",
    );
    is_refused(
        &file(|file| put(file, 99, number(1))),
        "coswid.payload.file[0]: key 99",
        "extension",
    );
    is_refused(
        &file(|file| *item(at(file, 7), 0) = number(10)),
        "file[0].hash: hash algorithm 10",
        "SHA-256 (1)",
    );
    is_refused(
        &file(|file| *item(at(file, 7), 0) = text("sha-256")),
        "file[0].hash",
        "sha-256",
    );
    is_refused(
        &file(|file| remove(file, 7)),
        "file[0]: a file without a hash",
        "nothing of the content",
    );
    is_refused(
        &triples(|triples| put(triples, 1, Value::Array(vec![]))),
        "comid.triples: endorsed-triples",
        "(0)",
    );
    is_refused(
        &triples(|triples| {
            let class = at(item(item(at(triples, 6), 0), 0), 0);
            put(class, 1, text("ACME"));
        }),
        "coswid-triples[0].environment",
        "ACME",
    );
    is_refused(
        &triples(|triples| {
            let class = at(item(item(at(triples, 0), 0), 0), 0);
            put(class, 2, text("host"));
        }),
        "reference-triples[0]",
        "other than a node's boot",
    );
    is_refused(
        &triples(|triples| {
            let claim = item(item(item(at(triples, 0), 0), 1), 0);
            put(claim, 2, Value::Array(vec![]));
        }),
        "reference-triples[0].ref-claims[0]: key 2",
        "mkey",
    );
}

#[test]
fn other_manifests_that_it_depends_on_are_reported_and_not_fetched() {
    let locator = Value::Map(vec![(
        number(0),
        Value::Tag(32, Box::new(text("https://example.com/x"))),
    )]);
    let read = unsigned(&corim(|map| put(map, 2, Value::Array(vec![locator])))).unwrap();
    assert_eq!(read.manifest, manifest());
    assert!(
        read.notes.iter().any(|note| note.contains("not fetched")),
        "{:?}",
        read.notes
    );
}

#[test]
fn values_that_cannot_be_are_refused() {
    let digest = |n: usize| Value::Bytes(vec![1; n]);
    is_refused(
        &file(|file| *item(at(file, 7), 1) = digest(31)),
        "file[0].hash",
        "31 bytes",
    );
    is_refused(&file(|file| put(file, 24, text("a/b"))), "file[0]", "slash");
    is_refused(&file(|file| put(file, 24, text(".."))), "file[0]", "`..`");
    is_refused(&file(|file| put(file, 23, text("a//b"))), "file[0]", "empty part");
    is_refused(
        &file(|file| put(file, 24, text(&"x".repeat(4096)))),
        "file[0]: a path",
        "4097, the limit is 4096",
    );
    is_refused(&file(|file| put(file, 25, text("C:"))), "file[0]: root", "C:");
    is_refused(
        &tag(0, |coswid| {
            let files = at(at(coswid, 6), 17);
            let first = item(files, 0).clone();
            *item(files, 1) = first;
        }),
        "file[1]",
        "twice",
    );
    is_refused(
        &tag(0, |coswid| *at(at(coswid, 6), 17) = Value::Array(vec![])),
        "payload.file",
        "empty array",
    );
    is_refused(
        &tag(0, |coswid| remove(coswid, 6)),
        "tags[0].coswid",
        "accept nothing",
    );
    is_refused(&tag(0, |coswid| remove(coswid, 0)), "tags[0].coswid", "no tag-id");
    is_refused(
        &corim(|map| {
            let tags = at(map, 1);
            let first = item(tags, 0).clone();
            *item(tags, 1) = first;
        }),
        "tags[1]",
        "a second CoSWID",
    );
    is_refused(&corim(|map| remove(map, 0)), "corim", "no id");
    is_refused(
        &triples(|triples| {
            *item(item(item(at(triples, 6), 0), 1), 0) = text("sha256:unknown");
        }),
        "corim",
        "names the CoSWID sha256:unknown",
    );
    is_refused(
        &triples(|triples| {
            let first = item(at(triples, 6), 2).clone();
            *item(at(triples, 6), 3) = first;
        }),
        "corim",
        "two triples for pod",
    );
    is_refused(
        &triples(|triples| {
            let instance = at(item(item(at(triples, 6), 0), 0), 1);
            *inner(instance) = Value::Bytes(b"another".to_vec());
        }),
        "coswid-triples[0]",
        "another, not worker-1",
    );
    is_refused(
        &triples(|triples| {
            let registers = at(at(item(item(item(at(triples, 0), 0), 1), 0), 1), 14);
            let Value::Map(map) = registers else { panic!() };
            map[0].0 = number(10);
        }),
        "integrity-registers: key 10",
        "PCR 0 to 9",
    );
    is_refused(
        &triples(|triples| {
            let event = item(item(item(at(triples, 0), 5), 1), 0);
            put(event, 0, text("pcr-4/EV_NO_ACTION"));
        }),
        "ref-claims[0]",
        "is no event",
    );
    // Values from a log that are not said to be learned.
    is_refused(
        &tag(3, |coswid| {
            let Value::Map(map) = coswid else { panic!() };
            map.retain(|(k, _)| k.as_text().is_none_or(|k| !k.ends_with("learned")));
        }),
        "tags[3].coswid",
        "learned",
    );
    is_refused(
        &tag(2, |coswid| {
            let Value::Map(map) = coswid else { panic!() };
            map.retain(|(k, _)| k.as_text().is_none_or(|k| !k.ends_with("origins")));
        }),
        "tags[2].coswid",
        "there are 0 origins",
    );
}

#[test]
fn bytes_that_are_not_the_one_encoding_of_a_value_are_refused() {
    let good = written();
    is_refused(
        &[&good[..], &[0]].concat(),
        &format!("offset {}", good.len()),
        "bytes follow its end",
    );
    // The map's head, 0xa4, in a longer form; its first key in a longer form; an indefinite map.
    assert_eq!(&good[..5], [0xd9, 0x01, 0xf5, 0xa4, 0x00]);
    let long = [&good[..3], &[0xb8, 4], &good[4..]].concat();
    is_refused(&long, "offset 5: corim", "longer than it has to be");
    let indefinite = [&good[..3], &[0xbf], &good[4..], &[0xff]].concat();
    is_refused(&indefinite, "offset 3: corim", "indefinite");
    let twice = corim(|map| {
        let Value::Map(map) = map else { panic!() };
        map[1].0 = number(0);
    });
    is_refused(&twice, "corim", "a key twice");
    let disorder = corim(|map| {
        let Value::Map(map) = map else { panic!() };
        map.swap(0, 1);
    });
    is_refused(&disorder, "corim", "keys out of order");
    is_refused(
        &tag(0, |coswid| {
            let Value::Map(map) = coswid else { panic!() };
            map.swap(0, 1);
        }),
        "corim.tags[0].coswid",
        "keys out of order",
    );
    is_refused(&corim(|map| put(map, 5, Value::Float(0.5))), "corim", "a float");
    for end in 0..good.len() {
        assert!(unsigned(&good[..end]).is_err(), "cut after {end} bytes");
    }
}

#[test]
fn absurd_lengths_and_depths_end_at_once() {
    let begin = used();
    let huge = [0xd9, 0x01, 0xf5, 0x9b, 0, 0, 0, 2, 0x80, 0, 0, 0];
    let error = unsigned(&huge).unwrap_err();
    assert!(matches!(error, Error::Incomplete { offset: 12, .. }), "{error}");
    let long = [
        0xd9, 0x01, 0xf5, 0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    assert!(matches!(unsigned(&long), Err(Error::Incomplete { .. })));
    let mut deep = vec![0xd9, 0x01, 0xf5];
    deep.resize(1_000_000, 0x81);
    let error = unsigned(&deep).unwrap_err();
    assert!(matches!(error, Error::Limit { limit: 100, .. }), "{error}");
    // Folders below folders, which multiply the paths that are below.
    let folder = "d".repeat(2000);
    let nested = tag(0, |coswid| {
        let file = item(at(at(coswid, 6), 17), 0).clone();
        let mut directory = Value::Map(vec![(number(17), file)]);
        for _ in 0..3 {
            let entry = Value::Map(vec![(number(24), text(&folder)), (number(26), directory)]);
            directory = Value::Map(vec![(number(16), entry)]);
        }
        *at(coswid, 6) = directory;
    });
    is_refused(
        &nested,
        "directory.path-elements.directory.path-elements.directory",
        "the limit is 4096",
    );
    assert!((used() - begin).as_secs() < 10);
}

#[test]
fn a_signature_that_says_anything_else_is_refused() {
    let verifying = *key().verifying_key();
    let refused = |bytes: &[u8], why: &str| {
        let error = read(bytes, Trust::Key(&verifying), super::NOW)
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
        let error = unsigned(bytes).unwrap_err().to_string();
        assert!(error.contains(why), "without a key, too: {error}");
    };
    // The header is signed, so that its checks come first: a changed one must be refused for what it says.
    let header = |change: &dyn Fn(&mut Value)| {
        let mut value = decode(&sign(&written(), "who", &key()).unwrap());
        let bytes = item(inner(&mut value), 0);
        let mut header = decode(bytes.as_bytes().unwrap());
        change(&mut header);
        *bytes = Value::Bytes(encode(&header));
        encode(&value)
    };
    refused(&header(&|h| put(h, 1, number(-35))), "ES256 (P-256) alone");
    refused(&header(&|h| remove(h, 1)), "ES256 (P-256) alone");
    refused(&header(&|h| put(h, 2, Value::Array(vec![number(4)]))), "critical");
    refused(&header(&|h| put(h, 3, text("application/json"))), "content type");
    refused(
        &header(&|h| {
            remove(h, 8);
            remove(h, 15);
        }),
        "names no signer",
    );
    refused(
        &header(&|h| put(h, 15, Value::Map(vec![(number(1), text("another"))]))),
        "two signers",
    );
    refused(
        &header(&|h| {
            let Value::Map(map) = h else { panic!() };
            map.swap(0, 1);
        }),
        "signed.protected.header: not in deterministic form",
    );
    let expired = |h: &mut Value| {
        let validity = Value::Map(vec![(number(1), Value::Tag(1, Box::new(number(5))))]);
        let meta = Value::Map(vec![
            (number(0), Value::Map(vec![(number(0), text("who"))])),
            (number(1), validity),
        ]);
        put(h, 8, Value::Bytes(encode(&meta)));
    };
    refused(&header(&expired), "signature-validity.not-after: valid until 5");
    refused(
        &header(&|h| {
            put(
                h,
                15,
                Value::Map(vec![(number(1), text("who")), (number(4), number(5))]),
            )
        }),
        "cwt-claims.exp: valid until 5",
    );
    let mut detached = decode(&sign(&written(), "who", &key()).unwrap());
    *item(inner(&mut detached), 2) = Value::Null;
    refused(&encode(&detached), "a detached payload");
    let nothing = sign(&[0xd9, 0x01, 0xf5, 0xa0], "who", &key()).unwrap();
    refused(&nothing, "corim: no id");
}

/// What Veraison's `corim` prints in its example of a profile (corim/example_profile_test.go, Apache-2.0): a
/// CoMID with a reference value of a profile of its own.
const VERAISON: &str = "d901f5a30063666f6f0181d901fa58a5a40065656e2d474201a100676578616d706c650281a4006941434d45204c74642e01d8207468747470733a2f2f61636d652e6578616d706c65028101206f3132332046616b652053747265657404a1008182a100a300d8255031fb5abf023e4992aa4e95f9c1503bfa016941434d45204c74642e026e526f616452756e6e657220322e3081a200d8255031fb5abf023e4992aa4e95f9c1503bfa01a10281820644abcdef00037822687474703a2f2f6578616d706c652e636f6d2f6578616d706c652d70726f66696c65";

#[test]
fn a_published_example_is_refused_for_what_it_is() {
    let bytes = unhex(VERAISON);
    is_refused(
        &bytes,
        "corim.tags[0].comid.triples.reference-triples[0].ref-env.class: key 0",
        "vendor (1)",
    );
    // The same frame around files of ours is read.
    let mut value = decode(&bytes);
    let ours = inner(item(at(inner(&mut decode(&written())), 1), 0)).clone();
    *item(at(inner(&mut value), 1), 0) = Value::Tag(505, Box::new(ours));
    is_refused(&encode(&value), "corim.profile", "");
    remove(inner(&mut value), 3);
    let read = unsigned(&encode(&value)).unwrap().manifest;
    assert_eq!(read.references, manifest().references[..1]);
    assert_eq!(read.id, "foo");
}

//! `docs/spec/cgpath.cddl` against real bytes: it accepts what this project writes, and refuses what the
//! decoders refuse.
//!
//! The bytes are the committed corpus of the fuzz targets, which the project's own writers made, and evidence
//! of a guest.
//! Promise: a reader that is not ours (`cddl-cat`) reads the file. It knows neither tags nor anchored
//! expressions, so the rules are handed to it with both written out (see [`schema`]).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use cddl_cat::{cbor::validate_cbor, context::BasicContext, flatten::flatten_from_str};
use cgpath_evidence::{
    Checkpoint, Evidence, EvidenceDelta, Record, SealedCheckpoint, TenantBundle, proof::PartitionProof, wire,
};
use ciborium::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const CDDL: &str = include_str!("../../docs/spec/cgpath.cddl");

/// A decoder of this crate: whether it takes the bytes.
type Takes = fn(&[u8]) -> bool;

/// Folders of the corpus, what is in each, and how many items at least.
const CORPUS: &[(&str, &str, Takes, usize)] = &[
    ("evidence_cbor", "evidence", takes_evidence, 2),
    (
        "evidence_part",
        "part",
        |bytes| EvidenceDelta::from_cbor(bytes).is_ok(),
        3,
    ),
    (
        "record_cbor",
        "record",
        |bytes| Record::from_cbor(bytes).is_ok(),
        11,
    ),
    (
        "tenant_cbor",
        "tenant-bundle",
        |bytes| TenantBundle::from_cbor(bytes).is_ok(),
        3,
    ),
    (
        "partition_proof",
        "proof",
        |bytes| wire::from_slice::<PartitionProof>(bytes, "proof", bytes.len()).is_ok(),
        3,
    ),
];

fn takes_evidence(bytes: &[u8]) -> bool {
    Evidence::from_cbor(bytes).is_ok()
}

fn takes_checkpoint(bytes: &[u8]) -> bool {
    let read = wire::from_slice::<Checkpoint>(bytes, "checkpoint", bytes.len());
    read.is_ok_and(|checkpoint| checkpoint.version == 1)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The items of a folder that are to be accepted, by name.
fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(root().join("fuzz/corpus").join(folder)).unwrap();
    let mut items: Vec<(String, Vec<u8>)> = files
        .map(Result::unwrap)
        .map(|file| (file.file_name().into_string().unwrap(), file.path()))
        .filter(|(name, _)| !name.starts_with("bad-"))
        .map(|(name, path)| (format!("{folder}/{name}"), std::fs::read(path).unwrap()))
        .collect();
    items.sort();
    items
}

fn decode(bytes: &[u8]) -> Value {
    let mut rest = bytes;
    let value = ciborium::from_reader(&mut rest).unwrap();
    assert!(rest.is_empty(), "bytes follow the item");
    value
}

fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

/// The rules as the other reader takes them: `#6.N(T)` is `[N, T]`, as [`untagged`] has it in the value; an
/// expression is of the whole text, as RFC 8610 section 3.8.3 says.
fn schema(cddl: &str) -> BasicContext {
    let mut parts = cddl.split(".regexp \"");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (expression, rest) = part.split_once('"').unwrap();
        text += &format!(".regexp \"^{expression}$\"{rest}");
    }
    while let Some(at) = text.find("#6.") {
        let open = at + text[at..].find('(').unwrap();
        let mut depth = 0;
        let close = text[open..].find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let close = open + close.unwrap();
        let item = format!("[{}, {}]", &text[at + 3..open], &text[open + 1..close]);
        text.replace_range(at..=close, &item);
    }
    BasicContext::new(flatten_from_str(&text).unwrap())
}

/// The value with `[N, item]` in place of each tagged item, in the byte strings of a manifest too.
fn untagged(value: Value) -> Value {
    let within = |bytes: Vec<u8>| Value::Bytes(encode(&untagged(decode(&bytes))));
    match value {
        Value::Tag(number, item) => {
            let item = match (number, *item) {
                (505 | 506, Value::Bytes(bytes)) => within(bytes),
                (18, Value::Array(mut sign1)) => {
                    if let Value::Bytes(payload) = sign1[2].clone() {
                        sign1[2] = within(payload);
                    }
                    Value::Array(sign1)
                }
                (_, other) => untagged(other),
            };
            Value::Array(vec![Value::from(number), item])
        }
        Value::Array(items) => Value::Array(items.into_iter().map(untagged).collect()),
        Value::Map(pairs) => {
            let pairs = pairs.into_iter().map(|(key, value)| (key, untagged(value)));
            Value::Map(pairs.collect())
        }
        other => other,
    }
}

fn check(rules: &BasicContext, rule: &str, value: &Value) -> Result<(), String> {
    let rule = rules.rules.get(rule).unwrap();
    validate_cbor(rule, value, rules).map_err(|error| error.to_string())
}

/// What a value is made of, whatever its numbers and strings.
fn shape(value: &Value) -> String {
    match value {
        Value::Map(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(key, value)| format!("{key:?}:{}", shape(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let shapes: BTreeSet<String> = items.iter().map(shape).collect();
            format!("[{}]", shapes.into_iter().collect::<Vec<_>>().join(","))
        }
        Value::Integer(_) => "int".to_owned(),
        Value::Bytes(_) => "bytes".to_owned(),
        Value::Text(_) => "text".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Each value that differs from `value` in one place: a key less, an unknown key, an item more or less,
/// another type, null, a number one higher, below zero or beyond 32 bits, a string one byte longer.
///
/// `at` is where the value stands. Mutants of a second value of one shape at one place show nothing new:
/// `seen` has those that there were.
fn mutants(value: &Value, at: &str, seen: &mut BTreeSet<String>) -> Vec<Value> {
    if !seen.insert(format!("{at} {}", shape(value))) {
        return Vec::new();
    }
    let mut all = vec![Value::Float(1.5), Value::Null];
    match value {
        Value::Map(pairs) => {
            for (number, (key, value)) in pairs.iter().enumerate() {
                let mut less = pairs.clone();
                less.remove(number);
                all.push(Value::Map(less));
                for inner in mutants(value, &format!("{at}/{key:?}"), seen) {
                    let mut other = pairs.clone();
                    other[number].1 = inner;
                    all.push(Value::Map(other));
                }
            }
            let mut more = pairs.clone();
            more.push((Value::from(99), Value::from(0)));
            all.push(Value::Map(more));
            all.push(Value::Array(vec![]));
        }
        Value::Array(items) => {
            // In a list each item stands at one place; in a tuple each at its own.
            let is_list = items.iter().all(Value::is_map) || items.iter().all(Value::is_array);
            for (number, item) in items.iter().enumerate() {
                let place = if is_list {
                    String::new()
                } else {
                    number.to_string()
                };
                for inner in mutants(item, &format!("{at}/[{place}]"), seen) {
                    let mut other = items.clone();
                    other[number] = inner;
                    all.push(Value::Array(other));
                }
            }
            if let [less @ .., _] = &items[..] {
                all.push(Value::Array(less.to_vec()));
            }
            all.push(Value::Array([&items[..], &[Value::Null]].concat()));
            all.push(Value::Map(vec![]));
        }
        Value::Integer(number) => {
            let number = i128::from(*number);
            let others = [number + 1, -1 - number, i128::from(u64::MAX)];
            all.extend(others.map(|other| Value::Integer(other.try_into().unwrap())));
            all.push(Value::Text("1".to_owned()));
        }
        Value::Bytes(bytes) => {
            all.push(Value::Bytes([bytes, &[0][..]].concat()));
            all.push(Value::Text(String::new()));
        }
        Value::Text(text) => {
            all.push(Value::Text(format!("{text}0")));
            all.push(Value::Bytes(text.as_bytes().to_vec()));
        }
        _ => all.push(Value::from(1)),
    }
    all
}

/// Holds rules and decoder against each other, over all mutants; how many both took and how many both
/// refused.
fn compare(
    rules: &BasicContext,
    rule: &str,
    takes: Takes,
    (name, bytes): (&str, &[u8]),
    seen: &mut BTreeSet<String>,
) -> (usize, usize) {
    let value = decode(bytes);
    let (mut taken, mut refused) = (0, 0);
    for mutant in mutants(&value, "", seen) {
        let checked = check(rules, rule, &mutant);
        let bytes = encode(&mutant);
        match (takes(&bytes), &checked) {
            (true, Ok(())) => taken += 1,
            (false, Err(_)) => refused += 1,
            (is_taken, _) => panic!(
                "{name}: the decoder {} what {rule} {}: {}",
                if is_taken { "takes" } else { "refuses" },
                checked.err().unwrap_or_else(|| "accepts".to_owned()),
                shown(&value, &mutant),
            ),
        }
    }
    (taken, refused)
}

/// Where two values differ first.
fn shown(one: &Value, other: &Value) -> String {
    match (one, other) {
        (Value::Map(a), Value::Map(b)) if a.len() == b.len() => {
            let differs = a.iter().zip(b).find(|(a, b)| a != b);
            differs.map_or_else(String::new, |(a, b)| format!("{:?}: {}", a.0, shown(&a.1, &b.1)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let differs = a.iter().zip(b).enumerate().find(|(_, (a, b))| a != b);
            differs.map_or_else(String::new, |(at, (a, b))| format!("[{at}]: {}", shown(a, b)))
        }
        _ => format!("{other:.200?} in place of {one:.200?}"),
    }
}

#[test]
fn every_real_item_is_accepted() {
    let rules = schema(CDDL);
    for (folder, rule, takes, least) in CORPUS {
        let items = corpus(folder);
        assert!(items.len() >= *least, "{folder}: {} items", items.len());
        for (name, bytes) in items {
            assert!(takes(&bytes), "{name}: its own decoder refuses it");
            let checked = check(&rules, rule, &decode(&bytes));
            assert_eq!(checked, Ok(()), "{name}");
        }
    }
    let guests = std::fs::read(root().join("foreign-verifiers/evidence/rsa.cbor")).unwrap();
    assert!(takes_evidence(&guests));
    assert_eq!(check(&rules, "evidence", &decode(&guests)), Ok(()));
    // It is of a collector that knew of no handover.
    for file in Evidence::from_cbor(&guests).unwrap().checkpoints {
        let checkpoint = SealedCheckpoint::from_file(&file).unwrap().checkpoint;
        assert_eq!(checkpoint.collectors, None);
    }
    let files = corpus("checkpoint_file");
    assert!(files.len() >= 2);
    for (name, file) in files {
        assert!(SealedCheckpoint::from_file(&file).is_ok(), "{name}");
        assert_eq!(check(&rules, "checkpoint-file", &decode(&file)), Ok(()), "{name}");
    }
    let manifests = corpus("policy_corim");
    assert!(manifests.len() >= 3);
    for (name, manifest) in manifests {
        let checked = check(&rules, "corim", &untagged(decode(&manifest)));
        assert_eq!(checked, Ok(()), "{name}");
    }
}

#[test]
fn what_differs_in_one_place_is_refused_where_the_decoder_refuses_it() {
    let rules = schema(CDDL);
    // A decoder of evidence takes any bytes for a checkpoint's file: the appraisal says what is wrong with
    // it.
    let lax = CDDL.replace(
        "checkpoint-bytes = bstr .cbor checkpoint-file",
        "checkpoint-bytes = bstr",
    );
    assert_ne!(lax, CDDL);
    let lax = schema(&lax);
    for (folder, rule, takes, _) in CORPUS {
        let (mut taken, mut refused) = (0, 0);
        let mut seen = BTreeSet::new();
        for (name, bytes) in corpus(folder) {
            let (t, r) = compare(&lax, rule, *takes, (&name, &bytes), &mut seen);
            taken += t;
            refused += r;
        }
        println!("{rule}: {taken} mutants are accepted by both, {refused} by neither");
        assert!(taken > 0 && refused > 100, "{rule}: {taken}, {refused}");
    }
    // Nor does a decoder of checkpoints look at the key: one that is none verifies nothing.
    let lax = CDDL.replace("? 17: bstr .size 33", "? 17: bstr");
    assert_ne!(lax, CDDL);
    let lax = schema(&lax);
    let (mut taken, mut refused) = (0, 0);
    let mut seen = BTreeSet::new();
    for (name, file) in corpus("checkpoint_file") {
        let Value::Array(sign1) = decode(&file) else {
            panic!("{name}: no COSE_Sign1")
        };
        let payload = sign1[2].as_bytes().unwrap();
        let (t, r) = compare(&lax, "checkpoint", takes_checkpoint, (&name, payload), &mut seen);
        taken += t;
        refused += r;
        // The wrapper: what the decoder refuses is refused here. It takes other header parameters, and leaves
        // the length of a signature to the check of it.
        let wrapped = mutants(&Value::Array(sign1.clone()), "", &mut BTreeSet::new());
        let is_read = |mutant: &&Value| SealedCheckpoint::from_file(&encode(mutant)).is_err();
        for mutant in wrapped.iter().filter(is_read) {
            // The other reader stops behind the first item of a byte string.
            if mutant
                .as_array()
                .is_some_and(|items| has_more(&items[..], &sign1))
            {
                continue;
            }
            assert!(
                check(&rules, "checkpoint-file", mutant).is_err(),
                "{name}: {mutant:?}"
            );
        }
    }
    println!("checkpoint: {taken} mutants are accepted by both, {refused} by neither");
    assert!(taken > 0 && refused > 50, "{taken}, {refused}");
}

/// Whether a byte string that holds CBOR has a byte behind it.
fn has_more(mutant: &[Value], sign1: &[Value]) -> bool {
    let longer = |at: usize| {
        let bytes = |items: &[Value]| items.get(at).and_then(Value::as_bytes).cloned();
        bytes(sign1).map(|bytes| [&bytes[..], &[0]].concat()) == bytes(mutant)
    };
    longer(0) || longer(2)
}

#[test]
fn a_manifest_with_an_unknown_key_or_without_a_needed_one_is_refused() {
    let rules = schema(CDDL);
    let manifests = corpus("policy_corim");
    let (_, whole) = manifests
        .iter()
        .find(|(name, _)| name.ends_with("/whole"))
        .unwrap();
    let Value::Array(tagged) = untagged(decode(whole)) else {
        panic!("no tag 501")
    };
    let Value::Map(map) = &tagged[1] else {
        panic!("no map")
    };
    let corim = |map: &[(Value, Value)]| {
        let value = Value::Array(vec![tagged[0].clone(), Value::Map(map.to_vec())]);
        check(&rules, "corim", &value)
    };
    assert_eq!(corim(map), Ok(()));
    for (at, (key, _)) in map.iter().enumerate() {
        let mut less = map.clone();
        less.remove(at);
        assert!(corim(&less).is_err(), "without {key:?}");
    }
    assert!(corim(&[&map[..], &[(Value::from(6), Value::from(0))]].concat()).is_err());
    // Each tag's own map: an unknown key, and each key that it has with a value of no type that is used.
    let tags = map[1].1.as_array().unwrap();
    assert!(tags.len() >= 3);
    for (at, tag) in tags.iter().enumerate() {
        let parts = tag.as_array().unwrap();
        let Value::Map(inner) = decode(parts[1].as_bytes().unwrap()) else {
            panic!("no map")
        };
        let with = |inner: Vec<(Value, Value)>| {
            let mut other = map.clone();
            let mut tags = tags.clone();
            let bytes = Value::Bytes(encode(&Value::Map(inner)));
            tags[at] = Value::Array(vec![parts[0].clone(), bytes]);
            other[1].1 = Value::Array(tags);
            corim(&other)
        };
        assert_eq!(with(inner.clone()), Ok(()));
        assert!(with([&inner[..], &[(Value::from(99), Value::from(0))]].concat()).is_err());
        for (at, (key, _)) in inner.iter().enumerate() {
            let mut other = inner.clone();
            other[at].1 = Value::Float(1.5);
            assert!(with(other).is_err(), "{key:?}");
        }
    }
}

#[test]
fn no_rule_of_the_file_is_left_alone() {
    let heads = CDDL.lines().filter_map(|line| {
        let (name, rest) = line.split_once(" = ").or_else(|| line.split_once(" ="))?;
        let is_name = !name.starts_with([' ', ';', '"']) && !rest.starts_with('>');
        is_name.then(|| name.trim())
    });
    let names: Vec<&str> = heads.collect();
    assert!(names.len() > 30, "{names:?}");
    let code: String = CDDL
        .lines()
        .map(|line| format!("{}\n", line.split(';').next().unwrap()))
        .collect();
    let word = |c: char| c.is_alphanumeric() || c == '-';
    for name in names {
        let uses = code
            .split(|c: char| !word(c))
            .filter(|found| *found == name)
            .count();
        let is_whole = ["corim", "evidence", "part", "tenant-bundle"].contains(&name);
        assert!(uses > 1 || is_whole, "`{name}` is used nowhere");
    }
}

//! No error repeats more of untrusted input than `cgpath_evidence::text::MAX_FOREIGN` bytes, whatever the
//! decoder.
//!
//! A run of one letter is put into each decoder's seeds at every few bytes, and into places that only whole
//! structures have; then the letters in the error are counted.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use cgpath_appraisal::Collateral;
use cgpath_appraisal::ear::AttestationResult;
use cgpath_evidence::list::{Decoder, Format, Templates};
use cgpath_evidence::proof::PartitionProof;
use cgpath_evidence::td::{QuoteBody, TdReport, log};
use cgpath_evidence::text::MAX_FOREIGN;
use cgpath_evidence::{
    Evidence, EvidenceDelta, Head, Record, SealedCheckpoint, TenantBundle, boot::EventLog, ima_policy, tpm,
    wire,
};
use cgpath_policy::{NodePolicy, Reference, corim};

/// What is put in: a letter that our own texts hardly have.
const LETTER: u8 = b'Z';
const LONG: usize = 70_000;
/// Places in each seed.
const PLACES: usize = 400;

/// Holds an error's text to the bound.
fn hold(what: &str, text: &str) {
    let letters = text.bytes().filter(|b| *b == LETTER).count();
    assert!(
        letters <= MAX_FOREIGN && text.len() <= 2_000,
        "{what}: an error of {} bytes repeats {letters}: {:.300}",
        text.len(),
        text
    );
}

type Decode = fn(&[u8]) -> Vec<String>;

fn error<T, E: std::fmt::Display>(result: Result<T, E>) -> Vec<String> {
    result.err().map(|e| e.to_string()).into_iter().collect()
}

fn list(format: Format, bytes: &[u8]) -> Vec<String> {
    let mut decoder = Decoder::new(format);
    decoder.feed(bytes);
    decoder.end();
    let mut errors = Vec::new();
    loop {
        match decoder.next_entry() {
            Ok(Some(entry)) => {
                errors.extend(error(entry.fields(Templates::builtin())));
                errors.extend(error(entry.to_ascii(Templates::builtin())));
            }
            Ok(None) => return errors,
            Err(e) => {
                errors.push(e.to_string());
                return errors;
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Each target of `fuzz` that gives an error, with what it says.
const DECODERS: &[(&str, Decode)] = &[
    ("list_any", |b| list(Format::Auto, b)),
    ("list_binary", |b| list(Format::Binary(None), b)),
    ("list_ascii", |b| list(Format::Ascii, b)),
    (
        "list_entry",
        |b| match cgpath_evidence::list::ListEntry::from_canonical(0, b) {
            Ok(entry) => error(entry.fields(Templates::builtin())),
            Err(e) => vec![e.to_string()],
        },
    ),
    ("evidence_cbor", |b| {
        [error(Evidence::from_cbor(b)), error(Head::read(b))].concat()
    }),
    ("evidence_json", |b| error(Evidence::from_json(b))),
    ("evidence_part", |b| {
        [error(EvidenceDelta::from_cbor(b)), error(Head::read(b))].concat()
    }),
    ("record_cbor", |b| error(Record::from_cbor(b))),
    ("checkpoint_file", |b| error(SealedCheckpoint::from_file(b))),
    ("tenant_cbor", |b| error(TenantBundle::from_cbor(b))),
    ("partition_proof", |b| {
        error(wire::from_slice::<PartitionProof>(b, "proof", 1 << 20))
    }),
    ("ear_token", |b| {
        let key = p256::ecdsa::SigningKey::from_slice(&[1; 32]).unwrap();
        let token = text(b);
        [
            error(AttestationResult::pods_named(&token)),
            error(AttestationResult::read(&token, &[*key.verifying_key()])),
        ]
        .concat()
    }),
    ("tpm_attest", |b| error(tpm::Attest::parse(b))),
    ("tpm_signature", |b| error(tpm::Signature::parse(b))),
    ("tpm_public", |b| match tpm::Public::parse_file(b) {
        Ok(public) => error(public.verifying_key()),
        Err(e) => vec![e.to_string()],
    }),
    ("tpm_pcr_selection", |b| error(tpm::PcrSelection::parse(b))),
    ("tpm_pcr_blob", |b| error(tpm::PcrBlob::parse(b))),
    ("td_quote", |b| {
        [error(QuoteBody::parse(b)), error(TdReport::parse(b))].concat()
    }),
    ("td_register_log", |b| match log::read(b) {
        Ok(extensions) => extensions.flat_map(error).collect(),
        Err(e) => vec![e.to_string()],
    }),
    ("td_ccel", |b| error(EventLog::parse_ccel(b))),
    ("td_collateral", |b| error(Collateral::from_json(b))),
    ("boot_log", |b| error(EventLog::parse(b))),
    ("policy_node", |b| {
        let loaded = cgpath_policy::Policy::load("file", b, |_| Err("it is not there".to_owned()));
        [error(NodePolicy::from_yaml("file", b)), error(loaded)].concat()
    }),
    ("policy_reference", |b| {
        [
            error(Reference::from_json("file", b)),
            error(cgpath_policy::keylime::read("file", b, &[])),
        ]
        .concat()
    }),
    ("policy_corim", |b| {
        error(corim::read(b, corim::Trust::DangerousNone, 1_800_000_000))
    }),
    ("ima_policy", |b| error(ima_policy::parse(&text(b)))),
];

/// Targets that answer with no error of their own.
const SILENT: &[&str] = &["partition_key", "cgroup_path"];

#[test]
fn every_decoder_that_is_fuzzed_is_here() {
    for target in fuzz::all() {
        let name = target.name;
        let elsewhere =
            name.starts_with("collector_") || name.starts_with("answer_") || name == "serve_request";
        let is_here = DECODERS.iter().any(|(known, _)| *known == name) || SILENT.contains(&name);
        assert!(is_here || elsewhere, "{name} is not held to the bound");
    }
}

#[test]
fn a_run_of_letters_anywhere_in_a_seed_is_not_repeated() {
    let run = [LETTER; 2_000];
    for (name, decode) in DECODERS {
        let target = fuzz::all().into_iter().find(|t| t.name == *name).unwrap();
        let (mut errors, mut tried) = (0, 0);
        for (seed, bytes) in (target.seeds)() {
            for at in (0..=bytes.len()).step_by(bytes.len().div_ceil(PLACES).max(1)) {
                let with = [&bytes[..at], &run, &bytes[at..]].concat();
                for said in decode(&with) {
                    hold(&format!("{name}, {seed} at {at}"), &said);
                    errors += 1;
                }
                tried += 1;
            }
        }
        assert!(errors > 0, "{name}: {tried} inputs and no error");
    }
}

/// A list of one entry of `ima-ngv2` or `ima-ng` with this before its digest, in both forms.
fn lists_with(prefix: &[u8]) -> Vec<(Format, Vec<u8>)> {
    let field = [prefix, b":\0", &[7; 32]].concat();
    let mut data = Vec::new();
    for field in [&field[..], b"/bin/true\0"] {
        data.extend(u32::try_from(field.len()).unwrap().to_le_bytes());
        data.extend(field);
    }
    let mut binary = 10u32.to_le_bytes().to_vec();
    binary.extend(cgpath_evidence::Bank::Sha1.hash(&[&data]).bytes());
    binary.extend(6u32.to_le_bytes());
    binary.extend(b"ima-ng");
    binary.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    binary.extend(&data);
    let line = [
        b"10 ",
        &[b'0'; 40][..],
        b" ima-ng ",
        prefix,
        b":",
        &[b'7'; 64],
        b" /bin/true\n",
    ]
    .concat();
    vec![(Format::Binary(None), binary), (Format::Ascii, line)]
}

#[test]
fn a_list_with_a_long_name_gives_a_short_error_that_says_how_long_it_was() {
    for prefix in [vec![LETTER; LONG], [&[LETTER; LONG][..], b":sha256"].concat()] {
        for (format, bytes) in lists_with(&prefix) {
            let said = list(format, &bytes);
            assert!(!said.is_empty());
            for said in &said {
                hold("a list", said);
            }
            let named = said.iter().any(|said| said.contains("bytes, sha256 "));
            assert!(named, "what was cut is named: {said:?}");
        }
    }
}

#[test]
fn texts_of_whole_structures_are_not_repeated() {
    let long = text(&[LETTER; LONG]);
    let cbor_text = |long: &str| {
        let mut bytes = vec![0x7a];
        bytes.extend(u32::try_from(long.len()).unwrap().to_be_bytes());
        bytes.extend(long.as_bytes());
        bytes
    };
    // `corim-map`: an unknown key of text; a profile; an id that is not the end of it.
    let key = [&[0xd9, 0x01, 0xf5, 0xa1][..], &cbor_text(&long), &[0]].concat();
    let profile = [
        &[0xd9, 0x01, 0xf5, 0xa2, 0, 0x61, b'x', 3, 0xd8, 0x20][..],
        &cbor_text(&long),
    ]
    .concat();
    for bytes in [key, profile] {
        let said = error(corim::read(&bytes, corim::Trust::DangerousNone, 0));
        assert_eq!(said.len(), 1);
        hold("a CoRIM", &said[0]);
    }
    for json in [
        format!("{{\"{long}\": 1}}"),
        format!("{{\"version\": \"{long}\"}}"),
        format!("{{\"x, expected {long}\": 1}}"),
        format!("{{\"{long}\": 1, \"{long}\": 1}}"),
        format!("{{\"version\": 1, \"source\": {{\"kind\": \"{long}\"}}}}"),
    ] {
        let bytes = json.as_bytes();
        let said = [
            error(Evidence::from_json(bytes)),
            error(Reference::from_json("file", bytes)),
            error(cgpath_policy::keylime::read("file", bytes, &[])),
            error(NodePolicy::from_yaml("file", bytes)),
        ]
        .concat();
        assert!(said.len() >= 3, "{said:?}");
        for said in said {
            hold("JSON", &said);
        }
    }
    let yaml = text(&{
        let target = fuzz::all().into_iter().find(|t| t.name == "policy_node").unwrap();
        (target.seeds)()[0].1.clone()
    });
    for (from, to) in [
        ("node:", format!("{long}: 1\nnode:")),
        ("templates:", format!("excludes: [\"({long}\"]\ntemplates:")),
        ("templates:", format!("runtimes: [\"{long}\"]\ntemplates:")),
    ] {
        assert!(yaml.contains(from), "{yaml}");
        for said in error(NodePolicy::from_yaml(
            "file",
            yaml.replacen(from, &to, 1).as_bytes(),
        )) {
            hold("a policy", &said);
        }
    }
    for rule in [
        format!("{long} func=BPRM_CHECK"),
        format!("measure {long}"),
        format!("measure func={long}"),
    ] {
        for said in error(ima_policy::parse(&rule)) {
            hold("a rule", &said);
        }
    }
}

#[cfg(feature = "service")]
#[test]
fn the_service_repeats_no_more_of_a_request() {
    let (token, node, _) = cgpath_service::fuzzing::Service::GIVEN;
    let token = text(token.as_bytes());
    let long = text(&[LETTER; 6_000]);
    let get = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        )
    };
    let mut requests: Vec<String> = [
        format!("/v1/nodes/{long}/verdict"),
        format!("/v1/nodes/{long}/ear"),
        format!("/nodes/{long}"),
        format!("/v1/nodes/{long}/pods/{long}"),
        format!("/v1/nodes/{node}/pods/{long}"),
        format!("/v1/nodes/{node}/history?{long}=1"),
        format!("/v1/nodes/{node}/history?limit={long}"),
        format!("/v1/nodes/{node}/history?x,%20expected%20{long}=1"),
        format!("/v1/revocations?since={long}"),
        format!("/v1/revocations?limit={long}"),
        format!("/v1/nodes/{node}/ear?audience={long}"),
        format!("/{long}"),
    ]
    .iter()
    .map(|path| get(path))
    .collect();
    requests.push(format!(
        "POST /v1/nodes/{long}/nonce HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ));
    requests.push(format!(
        "POST /v1/nodes/{long}/evidence HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ));
    requests.push(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{long}\r\n\r\n"));
    requests.push(format!("{long} / HTTP/1.1\r\nHost: x\r\n\r\n"));
    requests.push(format!(
        "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {long}\r\nConnection: close\r\n\r\n"
    ));
    for request in requests {
        let answer = text(&fuzz::targets::answered(request.as_bytes()));
        let what: String = request.chars().take(60).collect();
        assert!(answer.starts_with("HTTP/1.1 4"), "{what}: {answer:.200}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        hold(&what, body);
    }
}

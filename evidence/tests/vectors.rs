//! Public data that this project did not write, at `../shared/vectors` beside the repository: it must come
//! out right.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/vectors.rs"]
mod published;

use cgpath_evidence::boot::{EventLog, RegisterSet};
use cgpath_evidence::list::{Decoder, Form, Layout, ListBank, ListEntry, Listed, Templates};
use cgpath_evidence::replay::{Fill, Replay, covered_prefix};
use cgpath_evidence::td::{QuoteBody, TdReport, Version};
use cgpath_evidence::tpm::{Attest, PcrBlob, Public, Signature, VerifyingKey, composite};
use cgpath_evidence::{Bank, Digest, Error, PartitionKey, cgroup};
use published::vector as read;

fn decode(bytes: &[u8]) -> cgpath_evidence::Result<(Vec<ListEntry>, Option<Form>)> {
    let mut decoder = Decoder::auto();
    decoder.feed(bytes);
    decoder.end();
    let mut entries = Vec::new();
    while let Some(entry) = decoder.next_entry()? {
        entry.fields(Templates::builtin())?;
        entries.push(entry);
    }
    Ok((entries, decoder.form()))
}

#[test]
fn all_digests_of_the_cima_list_recompute_in_both_forms_and_its_pod_is_found() {
    let (Some(binary), Some(ascii)) = (
        read("cima/binary_ima-cgpath_sha384.bin"),
        read("cima/ascii_ima-cgpath_sha384"),
    ) else {
        return;
    };
    let (from_binary, form) = decode(&binary).unwrap();
    assert_eq!(
        form,
        Some(Form::Binary(Layout {
            digest_len: 48,
            ..Layout::DEFAULT
        }))
    );
    let (from_ascii, form) = decode(&ascii).unwrap();
    assert_eq!(form, Some(Form::Ascii));
    assert_eq!((from_binary.len(), from_ascii.len()), (77, 77));

    let pod = PartitionKey::parse("f52130f4-c5be-423e-8070-daaca055a5ad").unwrap();
    let mut replay = Replay::default();
    for (b, a) in from_binary.iter().zip(&from_ascii) {
        assert_eq!(b.record(), a.record());
        assert_eq!(b.template_name(), b"ima-cgpath");
        assert_eq!(replay.push(b), Listed::Matches(ListBank::Bank(Bank::Sha384)));
        let found = cgroup::attribute(b.cgroup_path().unwrap());
        assert_eq!(found.key, pod);
        assert_eq!(found.container.unwrap().runtime, cgroup::Runtime::Containerd);
        assert!(!cgroup::Runtimes::default().suspect_dep(b.dep().unwrap()));
        assert_eq!(b.file_digest().unwrap().algorithm.name(), "sha384");
    }
    // The kernel prints the PCR in two columns, the sample's author did not.
    let lines = ascii.split(|b| *b == b'\n');
    for (entry, line) in from_binary.iter().zip(lines) {
        assert_eq!(
            entry.to_ascii(Templates::builtin()).unwrap().trim_ascii_start(),
            line
        );
    }
    // Computed with Python's hashlib from the same 77 digests.
    let imr2 =
        "4c98d10b4591f02436dc7bf04302345c1c2d5ef153360ba6a7b932bdb133802354861a4494a8c7ce5367bc87713d14e9";
    let value = replay.value(2, Bank::Sha384, Fill::Hashed).unwrap();
    assert_eq!(hex::encode(value.bytes()), imr2);
    assert_eq!(from_binary[0].file_name(), Some(&b"/pause"[..]));
}

#[test]
fn keylimes_lists_come_out_right_and_an_unknown_algorithm_is_a_clear_error() {
    if published::vectors().is_none() {
        return;
    }
    let sha1 = ListBank::Bank(Bank::Sha1);
    for (name, first, second, algorithm) in [
        ("sha1", Listed::Violation, Listed::Matches(sha1), "sha1"),
        ("sha256", Listed::Matches(sha1), Listed::Matches(sha1), "sha256"),
        ("sha384", Listed::Violation, Listed::Matches(sha1), "sha384"),
        ("sha512", Listed::Violation, Listed::Matches(sha1), "sha512"),
        (
            "sm3_256",
            Listed::Violation,
            Listed::Matches(ListBank::Sm3),
            "sm3_256",
        ),
    ] {
        let (entries, _) = decode(&read(&format!("keylime/ima-log-{name}")).unwrap()).unwrap();
        let found: Vec<Listed> = entries.iter().map(ListEntry::listed).collect();
        assert_eq!(found, [first, second], "{name}");
        assert_eq!(entries[1].file_name(), Some(&b"/data"[..]));
        assert_eq!(entries[1].file_digest().unwrap().algorithm.name(), algorithm);
    }
    let error = decode(&read("keylime/ima-log-unknown").unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("unknown hash algorithm `unknown`"),
        "{error}"
    );
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn the_quote_of_the_software_tpm_holds_together() {
    let Some(message) = read("tpm/q.msg") else { return };
    let attest = Attest::parse(&message).unwrap();
    assert_eq!(attest.to_bytes(), message);
    assert_eq!(attest.extra_data, b"abcdefghijklmnopqrst");
    assert_eq!(
        attest.pcr_select.iter().collect::<Vec<_>>(),
        (0..=10).map(|n| (0x0b, n)).collect::<Vec<_>>()
    );

    let blob = read("tpm/q.pcrs").unwrap();
    let pcrs = PcrBlob::parse(&blob).unwrap();
    assert_eq!(pcrs.select, attest.pcr_select);
    assert_eq!(PcrBlob::parse(&pcrs.to_bytes()).as_ref(), Ok(&pcrs));
    let digest = composite(Bank::Sha256, pcrs.values.iter().map(Vec::as_slice));
    assert_eq!(digest.bytes(), attest.pcr_digest);

    let file = read("tpm/ak.pub").unwrap();
    let ak = Public::parse_file(&file).unwrap();
    assert_eq!(ak.to_tpm2b(), file);
    assert_eq!(Public::parse_file(&ak.to_bytes()).as_ref(), Ok(&ak));
    assert!(ak.attributes.is_attestation_key());
    assert_eq!(ak.name().unwrap().len(), 34);

    let Signature::Rsassa {
        hash: 0x0b,
        signature,
    } = Signature::parse(&read("tpm/q.sig").unwrap()).unwrap()
    else {
        panic!("not RSASSA with SHA-256");
    };
    let VerifyingKey::Rsa(key) = ak.verifying_key().unwrap() else {
        panic!("not RSA")
    };
    let hashed = Bank::Sha256.hash(&[&message]);
    key.verify(
        rsa::Pkcs1v15Sign::new::<sha2::Sha256>(),
        hashed.bytes(),
        &signature,
    )
    .unwrap();

    // The storage key is none to attest with.
    let ek = Public::parse_file(&read("tpm/ek.pub").unwrap()).unwrap();
    assert!(!ek.attributes.is_attestation_key());

    let (entries, _) = decode(&read("tpm/log").unwrap()).unwrap();
    let list: Vec<cgpath_evidence::Entry> = entries.iter().map(ListEntry::to_entry).collect();
    let quoted = Digest::new(Bank::Sha256, &pcrs.values[10]).unwrap();
    assert_eq!(covered_prefix(&list, 10, Fill::Hashed, &quoted), Ok(3));
    // Where only the composite is known, each prefix is tried beside the other registers.
    let found = cgpath_evidence::replay::covered_prefix_by(&list, 10, Bank::Sha256, Fill::Hashed, |value| {
        let others = pcrs.values[..10].iter().map(Vec::as_slice);
        composite(Bank::Sha256, others.chain([value])).bytes() == attest.pcr_digest
    });
    assert_eq!(found, Ok(3));
}

#[test]
fn a_confidential_guests_boot_log_gives_the_events_that_others_read_from_it() {
    use base64::Engine as _;
    let (Some(log), Some(expected)) = (
        read("eventlog/CCEL_data_ovmf"),
        read("eventlog/CCEL_data_ovmf_out.json"),
    ) else {
        return;
    };
    let log = EventLog::parse_ccel(&log).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let expected = expected["uefi_event_logs"].as_array().unwrap();
    assert!(expected.len() > 10);
    let decode = |text: &serde_json::Value| {
        base64::engine::general_purpose::STANDARD
            .decode(text.as_str().unwrap())
            .unwrap()
    };
    // The other reader leaves out what extends nothing.
    let events = log.events().iter();
    assert_eq!(events.clone().count(), expected.len());
    for (event, expected) in events.zip(expected) {
        // In the log RTMR 0 is register 1.
        assert_eq!(u64::from(event.pcr) + 1, expected["index"].as_u64().unwrap());
        assert_eq!(event.kind.to_string(), expected["type_name"].as_str().unwrap());
        let digest = event.digest(Bank::Sha384).unwrap();
        assert_eq!(
            hex::encode(digest.bytes()),
            expected["digests"][0]["digest"].as_str().unwrap()
        );
        assert_eq!(event.data, decode(&expected["event"]));
        if event.data_is_measured(Bank::Sha384) == Some(true) {
            assert_eq!(expected["digest_matches_event"], true);
        }
    }
}

/// RTMR 0 to 2 after a firmware's log.
fn replayed(log: &EventLog<'_>) -> Vec<String> {
    let values = log.replay_all(Bank::Sha384).unwrap();
    values.iter().map(|value| hex::encode(value.bytes())).collect()
}

#[test]
fn a_real_report_agrees_with_its_log_in_rtmr_0_to_2_and_the_log_says_nothing_of_rtmr_3() {
    let (Some(report), Some(ccel)) = (read("tdx/tdreport.bin"), read("tdx/tdreport_ccel.bin")) else {
        return;
    };
    let report = TdReport::parse(&report).unwrap();
    let log = EventLog::parse_ccel(&ccel).unwrap();
    assert_eq!((log.set(), log.events().len()), (RegisterSet::Rtmr, 20));
    let stated: Vec<String> = report.rtmrs.iter().map(hex::encode).collect();
    assert_eq!(replayed(&log), stated[..3]);
    assert!(stated[0].starts_with("5aca07b1e885"), "{}", stated[0]);
    assert_eq!(report.rtmrs[3], [0; 48]);
    assert_eq!(hex::encode(report.attributes), "0000001000000000");
    assert_eq!(hex::encode(report.xfam), "e702060000000000");
    // Another domain's log.
    let other = read("eventlog/CCEL_data_ovmf").unwrap();
    assert_ne!(replayed(&EventLog::parse_ccel(&other).unwrap()), stated[..3]);
    // Both firmwares end regularly, each with its separators in registers of its own choice.
    for log in [&ccel, &other] {
        let log = EventLog::parse_ccel(log).unwrap();
        assert!(log.without_separator().is_empty());
    }
}

/// Nothing is found at an offset that code and test share wrongly: the report's own hashes are over its
/// parts.
#[test]
fn a_report_of_which_any_bit_of_what_it_states_is_another_is_refused() {
    let Some(report) = read("tdx/tdreport.bin") else {
        return;
    };
    for at in (256..495).chain(512..1024) {
        let mut other = report.clone();
        other[at] ^= 1 << (at % 8);
        let error = TdReport::parse(&other).unwrap_err();
        assert!(
            matches!(error, Error::Malformed { offset: 32, .. }),
            "{at}: {error}"
        );
    }
    assert!(matches!(
        TdReport::parse(&report[..1023]),
        Err(Error::Incomplete { .. })
    ));
}

#[test]
fn real_quotes_of_version_4_and_5_state_their_registers() {
    for (name, version, rtmrs, is_debug, is_15) in [
        (
            "tdx_quote",
            Version::V4,
            ["44c0197b3915", "0084452c0166", "d833feef2cd9"],
            false,
            false,
        ),
        (
            "tdx_quote_4.dat",
            Version::V4,
            ["e940da7c2712", "559cfcf42716", "000000000000"],
            true,
            false,
        ),
        (
            "tdx_quote_5.dat",
            Version::V5,
            ["9b529f3689e2", "ca5a979317ff", "000000000000"],
            false,
            true,
        ),
        (
            "tdx_quote_azure_paravisor.bin",
            Version::V4,
            ["000000000000"; 3],
            false,
            false,
        ),
    ] {
        let Some(bytes) = read(&format!("tdx/{name}")) else {
            return;
        };
        let quote = QuoteBody::parse(&bytes).unwrap();
        assert_eq!(quote.version, version, "{name}");
        let found: Vec<String> = quote.body.rtmrs.iter().map(|r| hex::encode(&r[..6])).collect();
        assert_eq!(found[..3], rtmrs, "{name}");
        assert_eq!(quote.body.rtmrs[3], [0; 48], "{name}");
        assert_eq!(quote.body.is_debug(), is_debug, "{name}");
        assert_eq!(quote.body.service.is_some(), is_15, "{name}");
        // Cut anywhere, it is incomplete.
        for len in 0..quote.len {
            let cut = QuoteBody::parse(&bytes[..len]);
            assert!(
                matches!(cut, Err(Error::Incomplete { .. })),
                "{name} at {len}: {cut:?}"
            );
        }
    }
}

#[test]
fn a_quote_under_another_version_or_with_lengths_that_do_not_fit_is_refused() {
    let (Some(four), Some(five)) = (read("tdx/tdx_quote_4.dat"), read("tdx/tdx_quote_5.dat")) else {
        return;
    };
    let refused = |bytes: &[u8]| QuoteBody::parse(bytes).unwrap_err();
    // Version 5 under the number of version 4, and the other way round; a later one.
    for (quote, version) in [(&five, 4), (&four, 5), (&four, 6), (&four, 3)] {
        let mut other = quote.clone();
        other[0] = version;
        refused(&other);
    }
    // Type of key and TEE; type and length of the body; lengths within the signature data.
    let lengths = 48 + 584 + 4;
    for (quote, at) in [
        (&four, 2),
        (&four, 4),
        (&five, 48),
        (&five, 50),
        (&four, lengths - 4),
        (&four, lengths + 128),
        (&four, lengths + 130),
        (&four, lengths + 134 + 448),
        (&four, lengths + 134 + 450 + 32),
    ] {
        for bit in [1, 0x80] {
            let mut other = quote.clone();
            other[at] ^= bit;
            let error = refused(&other);
            assert!(
                matches!(error, Error::Malformed { .. } | Error::Incomplete { .. }),
                "{at}: {error}"
            );
        }
    }
    // What follows is zeros or nothing.
    let len = QuoteBody::parse(&four).unwrap().len;
    let with = |byte| [&four[..len], &[byte; 64]].concat();
    assert_eq!(QuoteBody::parse(&with(0)).map(|quote| quote.len), Ok(len));
    assert!(matches!(refused(&with(1)), Error::Malformed { .. }));
}

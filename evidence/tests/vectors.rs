//! Public data that this project did not write, at `../shared/vectors` beside the repository: it must come
//! out right.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/vectors.rs"]
mod published;

use cgpath_evidence::boot::EventLog;
use cgpath_evidence::list::{Decoder, Form, Layout, ListBank, ListEntry, Listed, Templates};
use cgpath_evidence::replay::{Fill, Replay, covered_prefix};
use cgpath_evidence::tpm::{Attest, PcrBlob, Public, Signature, VerifyingKey, composite};
use cgpath_evidence::{Bank, Digest, PartitionKey, cgroup};
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
    let log = EventLog::parse(&log).unwrap();
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
        assert_eq!(u64::from(event.pcr), expected["index"].as_u64().unwrap());
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

//! The targets: each takes any bytes.

use cgpath_appraisal::Collateral;
use cgpath_appraisal::ear::AttestationResult;
use cgpath_evidence::boot::{self, EventLog, RegisterSet};
use cgpath_evidence::list::{Decoder, Format, ListEntry, Templates};
use cgpath_evidence::proof::{PartitionProof, SealedTree};
use cgpath_evidence::replay::Replay;
use cgpath_evidence::td::{QuoteBody, TdReport, log};
use cgpath_evidence::{
    Bank, Error, Evidence, EvidenceDelta, Head, PartitionKey, PodUid, Record, SealedCheckpoint, TenantBundle,
    cgroup, tpm, wire,
};
use cgpath_policy::{NodePolicy, Reference};

fn decode(format: Format, data: &[u8], chunk: usize) -> (Vec<ListEntry>, Option<Error>) {
    let mut decoder = Decoder::new(format);
    let mut entries = Vec::new();
    for part in data.chunks(chunk.max(1)).map(Some).chain([None]) {
        match part {
            Some(part) => decoder.feed(part),
            None => decoder.end(),
        }
        loop {
            match decoder.next_entry() {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => break,
                Err(error) => return (entries, Some(error)),
            }
        }
    }
    (entries, None)
}

fn list(format: Format, data: &[u8]) {
    let whole = decode(format, data, data.len());
    let chunk = data.len() % 61 + 1;
    assert!(
        decode(format, data, chunk) == whole,
        "chunks of {chunk} give something else"
    );
    let mut replay = Replay::default();
    for entry in &whole.0 {
        let listed = replay.push(entry);
        assert_eq!(listed, entry.listed());
        let again = ListEntry::from_canonical(entry.index(), entry.record()).expect("a record reads back");
        assert_eq!(again.record(), entry.record());
        if entry.fields(Templates::builtin()).is_ok()
            && let Ok(mut line) = entry.to_ascii(Templates::builtin())
        {
            line.push(b'\n');
            let (from_ascii, error) = decode(Format::Ascii, &line, line.len());
            assert_eq!(
                (from_ascii.len(), error),
                (1, None),
                "what was written as ASCII is read"
            );
        }
    }
    assert_eq!(replay.entries(), whole.0.len() as u64);
}

/// A measurement list in whatever form.
pub fn list_any(data: &[u8]) {
    list(Format::Auto, data);
}

/// A binary measurement list.
pub fn list_binary(data: &[u8]) {
    list(Format::Binary(None), data);
}

/// An ASCII measurement list.
pub fn list_ascii(data: &[u8]) {
    list(Format::Ascii, data);
}

/// One canonical record, as evidence carries it.
pub fn list_entry(data: &[u8]) {
    let Ok(entry) = ListEntry::from_canonical(0, data) else {
        return;
    };
    assert_eq!(entry.record(), data);
    let _ = entry.fields(Templates::builtin());
    let _ = (
        entry.file_name(),
        entry.file_digest(),
        entry.dep(),
        entry.cgroup_path(),
    );
    let mut replay = Replay::default();
    let listed = replay
        .push_entry(&entry.to_entry())
        .expect("what was read replays");
    assert_eq!(listed, Some(entry.listed()));
}

/// Evidence as CBOR.
pub fn evidence_cbor(data: &[u8]) {
    let head = Head::read(data);
    if let Ok(evidence) = Evidence::from_cbor(data) {
        assert_eq!(evidence.to_cbor(), data, "one value has one encoding");
        // A head has limits of its own.
        assert!(head.is_err() || head.is_ok_and(|head| head.quote == evidence.quote));
        let mut replay = Replay::default();
        let _ = evidence
            .list
            .iter()
            .try_for_each(|entry| replay.push_entry(entry).map(|_| ()));
    }
}

/// A delta as CBOR, alone and after what it may follow.
pub fn evidence_part(data: &[u8]) {
    let head = Head::read(data);
    if let Ok(delta) = EvidenceDelta::from_cbor(data) {
        assert_eq!(delta.to_cbor(), data, "one value has one encoding");
        assert!(head.is_err() || head.is_ok_and(|head| head.quote == delta.quote));
        assert!(EvidenceDelta::is_delta(data) && Evidence::from_cbor(data).is_err());
        let (list, from) = (delta.list.clone(), delta.from.entries as usize);
        let kept = crate::seeds::kept();
        if let Ok(whole) = delta.join(kept.clone()) {
            assert!(whole.list.ends_with(&list) && whole.list.len() == from + list.len());
            assert!(whole.checkpoints.starts_with(&kept.checkpoints));
            assert!(Evidence::from_cbor(&whole.to_cbor()).is_ok());
        }
    }
}

/// Evidence as JSON.
pub fn evidence_json(data: &[u8]) {
    if let Ok(evidence) = Evidence::from_json(data) {
        let text = evidence.to_json().expect("evidence has a JSON form");
        let again = Evidence::from_json(&text).expect("its JSON form reads back");
        assert_eq!(again, evidence);
        assert_eq!(
            Evidence::from_cbor(&again.to_cbor()),
            Ok(evidence),
            "both forms hold the same"
        );
    }
}

/// A tenant's bundle as CBOR.
pub fn tenant_cbor(data: &[u8]) {
    if let Ok(bundle) = TenantBundle::from_cbor(data) {
        assert_eq!(bundle.to_cbor(), data, "one value has one encoding");
        let tree = SealedTree {
            partitions: 3,
            root: [1; 32],
        };
        let _ = bundle.proof.check(PartitionKey::Pod(bundle.pod), &tree);
    }
}

/// A proof about a partition as CBOR.
pub fn partition_proof(data: &[u8]) {
    let Ok(proof) = wire::from_slice::<PartitionProof>(data, "proof", 1 << 20) else {
        return;
    };
    assert_eq!(wire::to_vec(&proof), data, "one value has one encoding");
    // Every size that a checkpoint can state: no number leads to a panic or a loop.
    for partitions in [0, 1, 2, 3, u64::MAX] {
        let tree = SealedTree {
            partitions,
            root: [1; 32],
        };
        for key in [PartitionKey::Host, PartitionKey::Pod(PodUid([1; 16]))] {
            assert!(
                proof.check(key, &tree).is_err(),
                "nobody finds a preimage of this root"
            );
        }
    }
}

/// An attestation result, signed by anybody.
pub fn ear_token(data: &[u8]) {
    let Ok(token) = core::str::from_utf8(data) else {
        return;
    };
    let _ = AttestationResult::pods_named(token);
    let _ = AttestationResult::read(token, &[*crate::seeds::key().verifying_key()]);
}

/// A record as CBOR.
pub fn record_cbor(data: &[u8]) {
    if let Ok(record) = Record::from_cbor(data) {
        assert_eq!(record.to_cbor(), data, "one value has one encoding");
    }
}

/// A checkpoint file.
pub fn checkpoint_file(data: &[u8]) {
    if let Ok(sealed) = SealedCheckpoint::from_file(data) {
        assert_eq!(sealed.file, data);
        if let Some(key) = &sealed.checkpoint.key {
            let _ = sealed.verify(key);
        }
    }
}

/// Text that names a partition, and the name of a checkpoint file.
pub fn partition_key(data: &[u8]) {
    let _ = cgpath_evidence::checkpoint::number_from_path(data);
    if let Some(uid) = PodUid::parse(data) {
        assert_eq!(PodUid::parse(uid.to_string().as_bytes()), Some(uid));
    }
    if let Ok(text) = core::str::from_utf8(data)
        && let Some(key) = PartitionKey::parse(text)
    {
        assert_eq!(key.to_string(), text, "a key has one printed form");
    }
}

/// A boot log: what is read can be asked for everything, and registers are ten.
pub fn boot_log(data: &[u8]) {
    let Ok(log) = EventLog::parse(data) else {
        return;
    };
    assert!(log.events().len() <= data.len() / 16);
    for bank in Bank::ALL {
        if let Ok(registers) = log.replay(bank) {
            assert_eq!(boot::boot_aggregate(&registers).bank(), bank);
            assert_eq!(registers.values().len(), boot::REGISTERS);
        }
        for line in log.command_lines() {
            let _ = line.is("quiet", bank);
        }
    }
    for event in log.events() {
        assert!(event.label().len() <= 3 * data.len());
        let _ = event.data_is_measured(Bank::Sha256);
    }
    assert!(log.without_separator().len() <= boot::FIRMWARE_REGISTERS);
    let registers = Bank::ALL
        .iter()
        .filter_map(|bank| log.replay(*bank).ok())
        .collect();
    let boot = boot::Boot {
        registers,
        log: Some(data.to_vec()),
        command_line: Some(b"quiet".to_vec()),
    };
    if let Ok(learned) = cgpath_refvals::learned_boot::from_boot(&boot) {
        assert!(learned.yaml().len() <= cgpath_policy::MAX_POLICY_LEN);
    }
}

/// A trust domain's quote, and a report: what our parser takes, the library that verifies it is given.
pub fn td_quote(data: &[u8]) {
    let _ = TdReport::parse(data);
    let Ok(quote) = QuoteBody::parse(data) else {
        return;
    };
    assert!(quote.len <= data.len() && data[quote.len..].iter().all(|b| *b == 0));
    let _ = quote.body.is_debug();
    let theirs = dcap_qvl::quote::Quote::parse(data).expect("what we read is a quote");
    let report = theirs.report.as_td10().expect("a trust domain's");
    assert_eq!(report.mr_td, quote.body.mrtd);
    assert_eq!(
        [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3],
        quote.body.rtmrs
    );
    assert_eq!(report.td_attributes, quote.body.attributes);
    assert_eq!(report.report_data, quote.body.report_data);
    let _ = theirs
        .raw_cert_chain()
        .map(dcap_qvl::intel::parse_pck_extension_from_pem);
}

/// The log of a trust domain's register.
pub fn td_register_log(data: &[u8]) {
    let Ok(extensions) = log::read(data) else {
        return;
    };
    let mut again = Vec::new();
    for extension in extensions {
        let Ok(extension) = extension else {
            assert!(log::replay(data, 3, &[0; 48]).is_err());
            return;
        };
        log::append(
            &mut again,
            extension.rtmr,
            extension.kind,
            &extension.digest,
            extension.data,
        );
        assert_eq!(again, data[..again.len()], "an extension has one form");
        let _ = extension.checkpoint();
    }
    assert_eq!(again.len(), data.len());
    let _ = (log::replay(data, 3, &[0; 48]), log::end_of(data, 0));
}

/// The firmware's log of RTMR 0 to 2.
pub fn td_ccel(data: &[u8]) {
    let Ok(log) = EventLog::parse_ccel(data) else {
        return;
    };
    assert_eq!(log.set(), RegisterSet::Rtmr);
    assert!(log.events().len() <= data.len() / 16);
    for bank in Bank::ALL {
        if let Ok(registers) = log.replay_all(bank) {
            assert_eq!(registers.len(), boot::BOOT_RTMRS);
        }
        for line in log.command_lines() {
            let _ = line.is("quiet", bank);
        }
    }
    for event in log.events() {
        assert!(event.label().len() <= 3 * data.len());
        let _ = event.data_is_measured(Bank::Sha384);
    }
    assert!(log.without_separator().len() <= boot::BOOT_RTMRS);
}

/// A file of collateral.
pub fn td_collateral(data: &[u8]) {
    if let Ok(collateral) = Collateral::from_json(data) {
        let (from, _) = collateral.window();
        assert!(collateral.issued() <= from);
    }
}

/// A quote's TPMS_ATTEST.
pub fn tpm_attest(data: &[u8]) {
    if let Ok(attest) = tpm::Attest::parse(data) {
        assert_eq!(attest.to_bytes(), data);
        assert!(attest.pcr_select.iter().count() <= tpm::MAX_BANKS * tpm::MAX_SELECT_LEN * 8);
    }
}

/// A TPMT_SIGNATURE.
pub fn tpm_signature(data: &[u8]) {
    if let Ok(signature) = tpm::Signature::parse(data) {
        assert_eq!(signature.to_bytes(), data);
        let _ = signature.p256();
    }
}

/// A TPMT_PUBLIC or TPM2B_PUBLIC.
pub fn tpm_public(data: &[u8]) {
    if let Ok(public) = tpm::Public::parse_file(data) {
        assert!(public.to_bytes() == data || public.to_tpm2b() == data);
        let _ = (public.name(), public.verifying_key());
    }
}

/// A TPML_PCR_SELECTION.
pub fn tpm_pcr_selection(data: &[u8]) {
    if let Ok(selection) = tpm::PcrSelection::parse(data) {
        assert_eq!(selection.to_bytes(), data);
    }
}

/// The registers beside a quote, as tpm2-tools writes them.
pub fn tpm_pcr_blob(data: &[u8]) {
    if let Ok(blob) = tpm::PcrBlob::parse(data) {
        assert_eq!(tpm::PcrBlob::parse(&blob.to_bytes()), Ok(blob));
    }
}

/// A cgroup path, and an ancestry.
pub fn cgroup_path(data: &[u8]) {
    let found = cgroup::attribute(data);
    assert!(found.container.is_none() || matches!(found.key, PartitionKey::Pod(_)));
    assert!(data.first() == Some(&b'/') || found.key == PartitionKey::Unattributed);
    // Whatever is added below a pod stays the pod's.
    if let PartitionKey::Pod(_) = found.key {
        let below = [data, b"/kubepods/pod00000000-0000-0000-0000-000000000000"].concat();
        assert_eq!(cgroup::attribute(&below).key, found.key);
    }
    let _ = cgroup::Runtimes::default().suspect_dep(data);
}

/// A node policy file.
pub fn policy_node(data: &[u8]) {
    let _ = NodePolicy::from_yaml("fuzz", data);
}

/// A file of reference values, or one of the index of images.
pub fn policy_reference(data: &[u8]) {
    let _ = Reference::from_json("fuzz", data);
    let _ = cgpath_policy::refs::Image::from_json("fuzz", data);
    let _ = cgpath_policy::refs::Images::from_json("fuzz", data);
}

/// A CoRIM, signed or not. What is read is written and read again as the same.
pub fn policy_corim(data: &[u8]) {
    use cgpath_policy::corim::{Trust, read, write};
    const NOW: u64 = 1_800_000_000;
    let Ok(first) = read(data, Trust::DangerousNone, NOW) else {
        return;
    };
    assert_eq!(first.signer, None, "nobody is believed without a key");
    let key = p256::ecdsa::SigningKey::from_slice(&[1; 32]).expect("a scalar");
    assert!(
        read(data, Trust::Key(key.verifying_key()), NOW).is_err(),
        "no seed is by this key"
    );
    let manifest = first.manifest;
    let names: Vec<String> = (0..manifest.references.len())
        .map(|n| format!("{n}.json"))
        .collect();
    for (name, reference) in names.iter().zip(&manifest.references) {
        let mut json = Vec::new();
        reference.write_json(&mut json).expect("memory can be written");
        assert_eq!(Reference::from_json(name, &json).as_ref(), Ok(reference));
    }
    let part = manifest.policy_part(&names);
    // Without owners it names no node, and tags with the same files become one.
    if let Ok((bytes, left_out)) = write(&manifest) {
        assert_eq!(left_out, Vec::<String>::new(), "what was read has a form");
        let again = read(&bytes, Trust::DangerousNone, NOW)
            .expect("what was written is read")
            .manifest;
        assert_eq!(again.boot, manifest.boot);
        assert_eq!(again.policy_part(&names).is_empty(), part.is_empty());
        assert_eq!(
            write(&again).map(|(bytes, _)| bytes),
            Ok(bytes),
            "one value has one encoding"
        );
    }
}

/// A file of IMA's rules.
pub fn ima_policy(data: &[u8]) {
    use cgpath_evidence::ima_policy;
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    let Ok(rules) = ima_policy::parse(text) else {
        return;
    };
    assert!(!rules.is_empty());
    // What is said to be missing is what makes it complete, where it comes first.
    let missing = ima_policy::missing(&rules);
    // Behind a parenthesis it says where the rule belongs.
    let lines = missing
        .iter()
        .map(|line| line.split(" (").next().unwrap_or_default());
    let whole: String = lines.flat_map(|line| [line, "\n"]).chain([text]).collect();
    let rules = ima_policy::parse(&whole).expect("the rules that are to be added are rules");
    assert_eq!(ima_policy::missing(&rules), Vec::<String>::new());
}

/// What the service answers to these bytes on a connection.
#[cfg(feature = "service")]
pub fn answered(data: &[u8]) -> Vec<u8> {
    use std::sync::{Mutex, OnceLock, PoisonError};
    static SERVICE: OnceLock<(tempfile::TempDir, Mutex<cgpath_service::fuzzing::Service>)> = OnceLock::new();
    let (_, service) = SERVICE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for the service");
        let service = cgpath_service::fuzzing::Service::new(folder.path());
        (folder, Mutex::new(service))
    });
    // One at a time; what panicked once is looked at all the same.
    let service = service.lock().unwrap_or_else(PoisonError::into_inner);
    service.answer(data)
}

/// Requests to the verifier's service, as they come out of TLS: heads, paths, queries, tokens, bodies.
#[cfg(feature = "service")]
pub fn serve_request(data: &[u8]) {
    let (token, _, secret) = cgpath_service::fuzzing::Service::GIVEN;
    let answer = answered(data);
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "an answer is HTTP"
    );
    assert!(
        !has(&answer, "HTTP/1.1 500"),
        "nothing that is sent is an internal error"
    );
    assert!(
        !has(&answer, secret) || has(data, secret) || has(data, token),
        "without the token the answer has no secret"
    );
}

/// A raw record from the ring buffer.
#[cfg(feature = "collector")]
pub fn collector_record(data: &[u8]) {
    use cgpathd::decode;
    let len = decode::record_len(data);
    if decode::decode(&bytes::Bytes::copy_from_slice(data)).is_ok() {
        let len = len.expect("a record that decodes has a length");
        assert!(len <= data.len(), "a record ends within its item");
    }
    let _ = decode::record_seq(data);
}

/// The frames of a spool, and where the last whole one ends.
#[cfg(feature = "collector")]
fn frames(data: &[u8]) -> (Vec<String>, u64) {
    use cgpathd::journal::{Frames, START};
    let rest = data.get(START as usize..).unwrap_or_default();
    let mut frames = Frames::new(rest, std::path::Path::new("fuzz"), data.len() as u64);
    let mut found = Vec::new();
    while let Ok(Some(frame)) = frames.next_frame() {
        // What the pipeline is given of it, be it a record that decodes or not.
        found.push(format!("{:?}", frame.into_fact()));
    }
    (found, frames.at())
}

/// A collector's spool.
#[cfg(feature = "collector")]
pub fn collector_spool(data: &[u8]) {
    let mut data = data.to_vec();
    // As it is, then with checksums that fit: else nothing behind them would ever be reached.
    for again in [true, false] {
        let (whole, end) = frames(&data);
        if whole.is_empty() {
            assert_eq!(end, cgpathd::journal::START);
        } else {
            let end = usize::try_from(end).expect("within the data");
            assert_eq!(
                frames(&data[..end]),
                (whole, end as u64),
                "what follows does not matter"
            );
        }
        if again {
            make_checksums_fit(&mut data);
        }
    }
}

/// Writes the checksum of each frame anew, as far as the lengths lead.
#[cfg(feature = "collector")]
fn make_checksums_fit(data: &mut [u8]) {
    // Length and checksum, then kind and payload, which the checksum is of.
    let mut rest = data
        .get_mut(cgpathd::journal::START as usize..)
        .unwrap_or_default();
    while let Some((head, behind)) = rest.split_at_mut_checked(8) {
        let n = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((sealed, next)) = behind.split_at_mut_checked(n.saturating_add(1)) else {
            return;
        };
        head[4..].copy_from_slice(&crc32fast::hash(sealed).to_le_bytes());
        rest = next;
    }
}

/// The collector's configuration file.
#[cfg(feature = "collector")]
pub fn collector_config(data: &[u8]) {
    use cgpathd::config::Config;
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    let read = |text: &str| Config::from_parts(std::path::Path::new("fuzz"), text, [], &[]);
    if let Ok(config) = read(text) {
        let _ = config.orders();
        let written = toml::to_string(&config).expect("a configuration can be written");
        assert_eq!(read(&written).expect("what was written is read"), config);
    }
    // The same text as a setting of the command line.
    let _ = Config::from_parts(std::path::Path::new("fuzz"), "", [], &[text.to_owned()]);
}

/// The verifier's answer to a collector that asks for a nonce.
#[cfg(feature = "collector")]
pub fn answer_nonce(data: &[u8]) {
    if let Ok((nonce, _)) = cgpathd::deliver::push::parse_nonce(data) {
        assert!((8..=64).contains(&nonce.len()));
    }
}

/// The verifier's answer to evidence, as far as the collector acts upon it.
#[cfg(feature = "collector")]
pub fn answer_verdict(data: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(data) else {
        return;
    };
    if let Some(verdict) = cgpathd::deliver::push::parse_verdict(&answer) {
        let pods = answer["pods"].as_array().map_or(0, Vec::len);
        assert!(verdict.charged.len() <= pods, "nobody is denied who is not named");
    }
}

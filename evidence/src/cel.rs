//! The measurement list, and the log of a trust domain's register, as a TCG Canonical Event Log, in CBOR and
//! in JSON.
//!
//! Source: TCG, *Canonical Event Log Format*, version 1.1: information model in section 4, encodings in
//! section 5. Records are numbered from 0 for each register; `digests` are what it was extended with, so a
//! violation has 0xff in every byte. Entries of the list are of the content type `ima_template`, extensions
//! of `pcclient_std`. Not here: reading such logs, the boot log.

use crate::{Bank, Digest, Entry, Error, Result, boot::EventType, list::ListEntry, td::log};
use minicbor::Encoder;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// `content_type` of a record with template name and data. CEL 1.1, table 2.
pub const IMA_TEMPLATE: u8 = 7;
/// `content_type` of a record with type and data of an event of the PC client profile. CEL 1.1, table 2.
pub const PCCLIENT_STD: u8 = 5;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CelRecord {
    /// Number among the records of its register, from 0.
    pub recnum: u64,
    /// The PCR; of a trust domain the register as its logs count: MRTD is 0, RTMR 0 is 1.
    pub pcr: u32,
    /// What it was extended with, by bank.
    pub digests: Vec<CelDigest>,
    /// What was measured.
    #[serde(flatten)]
    pub content: Content,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "content_type", content = "content", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Content {
    /// An entry of the list.
    ImaTemplate(ImaTemplate),
    /// An event.
    #[serde(rename = "pcclient_std")]
    PcClientStd(PcClientStd),
}

/// Type and data of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PcClientStd {
    /// TCG_EVENTTYPE: in JSON its name, or its number where the profile has none.
    #[serde(serialize_with = "named")]
    pub event_type: EventType,
    /// Its data, for which nothing but the digest vouches, and not always that.
    #[serde(with = "crate::serde_bytes_hex")]
    pub event_data: Vec<u8>,
}

fn named<S: Serializer>(kind: &EventType, s: S) -> core::result::Result<S::Ok, S::Error> {
    match kind.name() {
        Some(name) => s.serialize_str(name),
        None => s.serialize_u32(kind.0),
    }
}

/// One digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CelDigest {
    #[serde(rename = "hashAlg")]
    hash_alg: &'static str,
    #[serde(with = "crate::serde_bytes_hex")]
    digest: Vec<u8>,
    #[serde(skip)]
    bank: Bank,
}

/// Template name and data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImaTemplate {
    /// The template's name.
    pub template_name: String,
    /// Its data, as the kernel hashed it.
    #[serde(with = "crate::serde_bytes_hex")]
    pub template_data: Vec<u8>,
}

/// The list's records, with digests in these banks.
///
/// # Errors
/// [`Error::Malformed`] with the entry's index in the text: for a redacted entry, whose content nobody knows,
/// and for one that cannot be read.
pub fn records(list: &[Entry], banks: &[Bank]) -> Result<Vec<CelRecord>> {
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    let mut records = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let Entry::Full(record) = entry else {
            let why = format!("entry {index} is redacted: it has no content to export");
            return Err(Error::malformed(0, why));
        };
        let entry = ListEntry::from_canonical(index as u64, record.as_slice())?;
        let name = core::str::from_utf8(entry.template_name())
            .map_err(|_| Error::malformed(0, format!("entry {index}: the template's name is not text")))?;
        let digest = |bank: &Bank| {
            let digest = if entry.is_violation() {
                Digest::ones(*bank)
            } else {
                entry.template_digest(*bank)
            };
            CelDigest {
                hash_alg: bank.name(),
                digest: digest.bytes().to_vec(),
                bank: *bank,
            }
        };
        let recnum = next.entry(entry.pcr()).or_default();
        records.push(CelRecord {
            recnum: *recnum,
            pcr: entry.pcr(),
            digests: banks.iter().map(digest).collect(),
            content: Content::ImaTemplate(ImaTemplate {
                template_name: name.to_owned(),
                template_data: entry.data().to_vec(),
            }),
        });
        *recnum += 1;
    }
    Ok(records)
}

/// The records of a trust domain's register: every extension of its log, in order. They begin at what the
/// register held before, which is no record.
///
/// # Errors
/// Of the first event that cannot be read.
pub fn extensions(register_log: &[u8]) -> Result<Vec<CelRecord>> {
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    let mut records = Vec::new();
    for extension in log::read(register_log)? {
        let extension = extension?;
        let recnum = next.entry(extension.index()).or_default();
        records.push(CelRecord {
            recnum: *recnum,
            pcr: extension.index(),
            digests: vec![CelDigest {
                hash_alg: Bank::Sha384.name(),
                digest: extension.digest.to_vec(),
                bank: Bank::Sha384,
            }],
            content: Content::PcClientStd(PcClientStd {
                event_type: extension.kind,
                event_data: extension.data.to_vec(),
            }),
        });
        *recnum += 1;
    }
    Ok(records)
}

/// CEL-JSON: an array of records. CEL 1.1, section 5.2.
///
/// # Errors
/// [`Error::Malformed`] if the encoder refuses it.
pub fn to_json(records: &[CelRecord]) -> Result<Vec<u8>> {
    crate::json::to_vec(&records)
}

/// CEL-CBOR: an array of the maps `{0: recnum, 1: pcr, 3: [{0: hashAlg, 1: digest}], 9: content_type, 10: {0:
/// template_name, 1: template_data}}`; content of `pcclient_std` is `{0: event_type, 1: event_data}`. CEL
/// 1.1, section 5.2.
pub fn to_cbor(records: &[CelRecord]) -> Vec<u8> {
    let mut out = Vec::new();
    write(records, &mut Encoder::new(&mut out)).expect("encoding into memory cannot fail");
    out
}

fn write<W: minicbor::encode::Write>(
    records: &[CelRecord],
    e: &mut Encoder<W>,
) -> core::result::Result<(), minicbor::encode::Error<W::Error>> {
    e.array(records.len() as u64)?;
    for record in records {
        e.map(5)?
            .u8(0)?
            .u64(record.recnum)?
            .u8(1)?
            .u32(record.pcr)?
            .u8(3)?;
        e.array(record.digests.len() as u64)?;
        for digest in &record.digests {
            e.map(2)?
                .u8(0)?
                .u16(digest.bank.tpm_alg())?
                .u8(1)?
                .bytes(&digest.digest)?;
        }
        let (content_type, data) = match &record.content {
            Content::ImaTemplate(content) => (IMA_TEMPLATE, &content.template_data),
            Content::PcClientStd(content) => (PCCLIENT_STD, &content.event_data),
        };
        e.u8(9)?.u8(content_type)?.u8(10)?.map(2)?.u8(0)?;
        match &record.content {
            Content::ImaTemplate(content) => e.str(&content.template_name)?,
            Content::PcClientStd(content) => e.u32(content.event_type.0)?,
        };
        e.u8(1)?.bytes(data)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::tests::ima_ng;
    use crate::replay::{Fill, Replay};

    fn list() -> Vec<Entry> {
        let mut list: Vec<Entry> = [(10, "/bin/a"), (11, "/bin/b"), (10, "/bin/c")]
            .map(|(pcr, path)| ima_ng(pcr, path, b"content").to_entry())
            .into();
        let Entry::Full(record) = &mut list[2] else {
            panic!()
        };
        record[4..24].fill(0);
        list
    }

    #[test]
    fn a_log_replays_to_the_registers_of_the_list_and_is_numbered_by_register() {
        let list = list();
        let records = records(&list, &Bank::ALL).unwrap();
        assert_eq!(
            records.iter().map(|r| (r.pcr, r.recnum)).collect::<Vec<_>>(),
            [(10, 0), (11, 0), (10, 1)]
        );
        let json = String::from_utf8(to_json(&records).unwrap()).unwrap();
        let content =
            r#"],"content_type":"ima_template","content":{"template_name":"ima-ng","template_data":""#;
        assert!(json.contains(content), "{json}");
        let mut replay = Replay::default();
        list.iter().for_each(|entry| {
            replay.push_entry(entry).unwrap();
        });
        for (n, bank) in Bank::ALL.into_iter().enumerate() {
            for pcr in [10, 11] {
                let value = records
                    .iter()
                    .filter(|r| r.pcr == pcr)
                    .fold(Digest::zero(bank), |value, record| {
                        value.extend(&Digest::new(bank, &record.digests[n].digest).unwrap())
                    });
                assert_eq!(replay.value(pcr, bank, Fill::Hashed), Some(value));
            }
        }
    }

    #[test]
    fn a_registers_log_replays_to_the_register_and_is_numbered_by_it() {
        let mut bytes = Vec::new();
        log::append_checkpoint(&mut bytes, 3, 0, &[1; 48]);
        log::append(&mut bytes, 2, EventType(0x1234), &[2; 48], b"another register");
        log::append(&mut bytes, 3, EventType::IPL, &[3; 48], b"");
        let records = extensions(&bytes).unwrap();
        let numbers: Vec<_> = records.iter().map(|r| (r.pcr, r.recnum)).collect();
        assert_eq!(numbers, [(4, 0), (3, 0), (4, 1)]);
        let of_three = records.iter().filter(|record| record.pcr == 4);
        let value = of_three.fold(Digest::zero(Bank::Sha384), |value, record| {
            value.extend(&Digest::new(Bank::Sha384, &record.digests[0].digest).unwrap())
        });
        let replayed = log::replay(&bytes, 3, &[0; 48]).unwrap();
        assert_eq!(value.bytes(), replayed);
        let json = String::from_utf8(to_json(&records).unwrap()).unwrap();
        let content =
            r#"],"content_type":"pcclient_std","content":{"event_type":"EV_EVENT_TAG","event_data":""#;
        assert!(json.contains(content), "{json}");
        assert!(
            json.contains("4660"),
            "a type without a name is its number: {json}"
        );
        bytes.pop();
        assert!(extensions(&bytes).is_err());
    }

    #[test]
    fn a_redacted_entry_has_nothing_to_export() {
        let mut list = list();
        list[1] = Entry::Opaque {
            pcr: 10,
            digests: vec![],
            hash: None,
        };
        let error = records(&list, &[Bank::Sha256]).unwrap_err().to_string();
        assert!(error.contains("entry 1 is redacted"), "{error}");
    }
}

//! Lists made by hand: what must decode, and what must not.

#![allow(missing_docs, reason = "tests")]

use super::*;

/// A canonical record.
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

/// An `ima-ng` entry of a file with this content, listed with its right SHA-1 digest.
pub(crate) fn ima_ng(pcr: u32, name: &str, content: &[u8]) -> ListEntry {
    let hash = [b"sha256:\0", Bank::Sha256.hash(&[content]).bytes()].concat();
    let name = [name.as_bytes(), &[0]].concat();
    let data = fields(ByteOrder::Little, &[&hash, &name]);
    entry(pcr, Bank::Sha1.hash(&[&data]).bytes(), b"ima-ng", &data)
}

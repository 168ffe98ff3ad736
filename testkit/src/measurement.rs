//! Entries of IMA's list, before they are written out.

use cgpath_evidence::{Bank, Digest, Entry};

/// One entry of the node's list, before it is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    /// The register.
    pub pcr: u32,
    /// The template's name.
    pub template: String,
    /// The template's data.
    pub data: Vec<u8>,
    /// Zero digest in the list, ones in the register.
    pub violation: bool,
}

impl Measurement {
    /// An `ima-ng` entry: `d-ng|n-ng`. Source: security/integrity/ima/ima_template_lib.c.
    pub fn ima_ng(path: &[u8], digest: &Digest) -> Measurement {
        let mut data = Vec::new();
        field(&mut data, &d_ng(digest));
        field(&mut data, &n_ng(path));
        Measurement {
            pcr: 10,
            template: "ima-ng".into(),
            data,
            violation: false,
        }
    }

    /// An `ima-cgpath` entry: `dep|cg-path|d-ng|n-ng`.
    pub fn ima_cgpath(dep: &str, cgroup: &str, path: &[u8], digest: &Digest) -> Measurement {
        let mut data = Vec::new();
        field(&mut data, &n_ng(dep.as_bytes()));
        field(&mut data, &n_ng(cgroup.as_bytes()));
        field(&mut data, &d_ng(digest));
        field(&mut data, &n_ng(path));
        Measurement {
            pcr: 10,
            template: "ima-cgpath".into(),
            data,
            violation: false,
        }
    }

    /// A violation, as `ima-ng` shows it.
    pub fn violation(path: &[u8]) -> Measurement {
        let zero = Digest::zero(Bank::Sha256);
        Measurement {
            violation: true,
            ..Measurement::ima_ng(path, &zero)
        }
    }

    /// The template digest in `bank`.
    pub fn digest(&self, bank: Bank) -> Digest {
        if self.violation {
            Digest::zero(bank)
        } else {
            bank.hash(&[&self.data])
        }
    }

    /// What the register is extended with in `bank`.
    pub fn extended(&self, bank: Bank) -> Digest {
        if self.violation {
            Digest::ones(bank)
        } else {
            self.digest(bank)
        }
    }

    /// [`Measurement::bytes`], as evidence has them.
    pub fn to_entry(&self) -> Entry {
        Entry::Full(self.bytes())
    }

    /// The entry as a list with SHA-1 digests has it, little-endian. Source: security/integrity/ima/ima_fs.c,
    /// `ima_measurements_show`.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.pcr.to_le_bytes());
        out.extend(self.digest(Bank::Sha1).bytes());
        out.extend(u32::try_from(self.template.len()).unwrap().to_le_bytes());
        out.extend(self.template.as_bytes());
        out.extend(u32::try_from(self.data.len()).unwrap().to_le_bytes());
        out.extend(&self.data);
        out
    }
}

fn d_ng(digest: &Digest) -> Vec<u8> {
    let mut out = format!("{}:\0", digest.bank()).into_bytes();
    out.extend(digest.bytes());
    out
}

/// Text of `dep` or `cg-path` as the patched kernel escapes it.
pub(crate) fn tag(text: &[u8]) -> String {
    let mut out = String::new();
    for &byte in text {
        if byte.is_ascii_graphic() && byte != b':' && byte != b'\\' {
            out.push(byte.into());
        } else {
            out.push_str(&format!("\\{byte:03o}"));
        }
    }
    out
}

fn n_ng(name: &[u8]) -> Vec<u8> {
    let mut out = cgpath_evidence::list::as_listed(name).into_owned();
    out.push(0);
    out
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend(bytes);
}

//! A node made of a software TPM and a list that grows with its registers.

use super::AGENT;
use super::services::Keylime;
use crate::common::swtpm::Swtpm;
use cgpath_evidence::Bank;
use cgpath_testkit::{Authority, Measurement};
use cgpathd::config::{Sink, SinkKind};
use cgpathd::deliver::sink::keylime::{Agent, Boot};
use cgpathd::sources::boot_facts::BootFacts;
use cgpathd::tpm::{KeyKind, Tpm, TpmAccess, TpmError, TpmOptions};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::str::FromStr as _;
use std::sync::Arc;
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::handles::{NvIndexTpmHandle, PcrHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{Digest, DigestValues, MaxNvBuffer, NvPublicBuilder};
use tss_esapi::{Context, TctiNameConf};

/// Opens the TPM each time: a software TPM takes one connection, and the test extends registers in between.
#[derive(Clone)]
pub struct Reopened(pub TpmOptions);

impl TpmAccess for Reopened {
    async fn with<T, F>(&self, mut work: F) -> Result<T, TpmError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tpm) -> Result<T, TpmError> + Send + 'static,
    {
        let options = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut Tpm::open(&options)?));
        done.await.unwrap()
    }
}

/// A node whose list and PCR 10 grow together.
pub struct Node {
    pub swtpm: Swtpm,
    pub options: TpmOptions,
    pub list: tempfile::NamedTempFile,
    /// What a policy that knows all files says.
    pub digests: BTreeMap<String, Vec<String>>,
}

impl Node {
    pub fn bare(key: KeyKind) -> Node {
        let swtpm = Swtpm::start();
        Node {
            options: swtpm.options(key),
            swtpm,
            list: tempfile::NamedTempFile::new().unwrap(),
            digests: BTreeMap::new(),
        }
    }

    pub fn boot(key: KeyKind) -> Node {
        let mut node = Node::bare(key);
        for name in ["boot_aggregate", "/usr/bin/a", "/usr/bin/b"] {
            node.measure(name);
        }
        node
    }

    /// What the kernel does when `name` is executed.
    pub fn measure(&mut self, name: &str) {
        let content = Bank::Sha256.hash(&[name.as_bytes()]);
        self.list_entry(name, &content);
        let digests = self.digests.entry(name.to_owned()).or_default();
        digests.push(hex::encode(content.bytes()));
    }

    /// An `ima-ng` entry, in the list and in the register.
    pub fn list_entry(&mut self, name: &str, content: &cgpath_evidence::Digest) {
        let entry = Measurement::ima_ng(name.as_bytes(), content);
        self.list.write_all(&entry.bytes()).unwrap();
        self.extend(PcrHandle::Pcr10, &entry.data);
    }

    /// Extends both banks with what is measured.
    pub fn extend(&self, register: PcrHandle, measured: &[u8]) {
        let mut values = DigestValues::new();
        for (bank, algorithm) in [
            (Bank::Sha1, HashingAlgorithm::Sha1),
            (Bank::Sha256, HashingAlgorithm::Sha256),
        ] {
            let digest = bank.hash(&[measured]).bytes().to_vec();
            values.set(algorithm, Digest::try_from(digest).unwrap());
        }
        self.context()
            .execute_with_nullauth_session(|c| c.pcr_extend(register, values))
            .unwrap();
    }

    pub fn tpm(&self) -> Reopened {
        Reopened(self.options.clone())
    }

    pub fn agent(&self, keylime: &Keylime) -> Agent<Reopened> {
        self.agent_with(keylime, self.tpm(), None)
    }

    pub fn agent_with(&self, keylime: &Keylime, tpm: Reopened, log: Option<Vec<u8>>) -> Agent<Reopened> {
        let boot = Boot {
            time: "2025-04-02T12:12:51Z".into(),
            facts: Arc::new(BootFacts {
                log,
                ccel: None,
                command_line: None,
            }),
        };
        Agent::new(&sink(keylime), AGENT, self.list.path(), boot, tpm).unwrap()
    }

    /// Puts a certificate of the endorsement key where a TPM's maker does, with some bytes behind it; gives
    /// it.
    pub async fn certify_endorsement(&self) -> Vec<u8> {
        let endorsement = self.tpm().with(|tpm| tpm.endorsement()).await.unwrap();
        assert_eq!(endorsement.certificate, None);
        let modulus = &endorsement.public[endorsement.public.len() - 256..];
        let der = Authority::new().endorse(modulus);
        let index = NvIndexTpmHandle::new(0x01c0_0002).unwrap();
        let attributes = NvIndexAttributesBuilder::new()
            .with_owner_write(true)
            .with_owner_read(true)
            .with_auth_read(true)
            .with_no_da(true)
            .build()
            .unwrap();
        let bytes = [&der[..], &[0xff; 40]].concat();
        let public = NvPublicBuilder::new()
            .with_nv_index(index)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes)
            .with_data_area_size(bytes.len())
            .build()
            .unwrap();
        self.context()
            .execute_with_nullauth_session(|c| {
                let handle = c.nv_define_space(Provision::Owner, None, public)?;
                for (n, some) in bytes.chunks(256).enumerate() {
                    let buffer = MaxNvBuffer::try_from(some.to_vec())?;
                    c.nv_write(NvAuth::Owner, handle, buffer, (n * 256) as u16)?;
                }
                Ok::<(), tss_esapi::Error>(())
            })
            .unwrap();
        der
    }

    fn context(&self) -> Context {
        Context::new(TctiNameConf::from_str(&self.options.tcti).unwrap()).unwrap()
    }
}

/// The sink of such a node.
pub fn sink(keylime: &Keylime) -> Sink {
    Sink {
        ca: keylime.path("ca.pem"),
        registrar: keylime.registrar_url(),
        timeout: 180,
        spool: 1,
        keep: 1,
        whole_every: 1,
        ..crate::common::sink::sink("keylime", SinkKind::KeylimePush, &keylime.verifier_url())
    }
}

//! A trust domain made of software: its registers, its key, and quotes over both by a [`Platform`].
//!
//! Promise: what [`TrustDomain::quote`] gives is what a real one's collector would send, under a root of the
//! test's. Not here: what must follow from an interference.

mod platform;

pub use platform::Platform;

use crate::FirmwareLog;
use cgpath_evidence::boot::EventType;
use cgpath_evidence::td::{
    Binding, ListChain, Origin, PROVIDER_TDX, Register, TdBody, checkpoint_digest, extend, log,
    prove_possession, public_node_key,
};
use cgpath_evidence::{Bank, Entry, SealedCheckpoint, TdEvidence, TdQuote};
use p256::ecdsa::SigningKey;
use sha2::{Digest as _, Sha256};

/// See the module.
#[derive(Debug, Clone)]
pub struct TrustDomain {
    /// Where it runs.
    pub platform: Platform,
    /// The node's key.
    pub key: SigningKey,
    /// What a quote states; registers run on here, report data are filled in.
    pub body: TdBody,
    /// The register that checkpoints extend.
    pub rtmr: u8,
    /// What it held before checkpoint 0.
    pub origin: Register,
    /// Its log.
    pub log: Vec<u8>,
    /// What the firmware measured; registers are RTMR.
    pub firmware: FirmwareLog,
    /// CLOCK_BOOTTIME, ns: a second passes with each seal.
    pub boottime: u64,
    /// Lines of the policy's `tdx:`, indented by two.
    pub policy: String,
}

/// What is outside of a trust domain that another program runs, for quotes of version 4.
#[derive(Debug, Clone)]
pub struct Outside {
    /// Header and TD report of a quote, 632 bytes; registers and report data are to be filled in.
    pub head: Vec<u8>,
    /// The attestation key, a scalar of P-256.
    pub key: Vec<u8>,
    /// What stands behind a quote's signature.
    pub tail: Vec<u8>,
    /// Lines of the policy's `tdx:`, indented by two.
    pub policy: String,
    /// A file of collateral.
    pub collateral: String,
    /// The platform's id (PPID).
    pub platform: [u8; 16],
    /// What the firmware extended: RTMR, and the digest.
    pub measured: Vec<(u8, Register)>,
    /// Its log as the kernel shows it; empty: there is none.
    pub ccel: Vec<u8>,
}

impl Outside {
    /// Of a domain on a platform of its own whose registers are all zero at its boot, with collateral that
    /// was issued then, in unix seconds.
    pub fn of_zeros(issued: u64) -> Outside {
        let mut domain = in_guest();
        domain.body.rtmrs = [[0; 48]; 4];
        // No firmware wrote a log there: there is nothing to hold RTMR 0 to 2 against.
        let policy = domain.policy_of_domain() + "  dangerous-boot-not-judged: true\n";
        Outside {
            measured: Vec::new(),
            ccel: Vec::new(),
            ..Outside::of(&domain, policy, issued)
        }
    }

    /// The same of one whose firmware is to extend RTMR 0 to 2 and has a log; the policy pins them.
    pub fn measured(issued: u64) -> Outside {
        let domain = in_guest();
        Outside::of(&domain, domain.policy_lines(), issued)
    }

    fn of(domain: &TrustDomain, policy: String, issued: u64) -> Outside {
        let platform = &domain.platform;
        let collateral = platform.collateral_json(issued, |_, _| ());
        Outside {
            head: [platform::header(4), domain.report([0; 64])].concat(),
            key: platform.attestation_key().to_bytes().to_vec(),
            tail: platform.behind_signature(),
            policy,
            collateral: String::from_utf8(collateral).unwrap(),
            platform: platform.id,
            measured: domain.measured().collect(),
            ccel: domain.firmware.ccel(),
        }
    }
}

/// A domain that a guest is to be: nothing says what it was built of.
fn in_guest() -> TrustDomain {
    let mut domain = TrustDomain::new(Platform::new("a test's root", "a guest's host"));
    domain.body.mrtd = [0; 48];
    domain
}

/// What the firmware of a trust domain measures.
fn firmware() -> FirmwareLog {
    let mut log = FirmwareLog {
        events: Vec::new(),
        command_line: String::new(),
    };
    let blob = |text: &str| {
        (
            0,
            EventType(0x8000_000a),
            text.as_bytes().to_vec(),
            b"fv".to_vec(),
        )
    };
    log.events.push(blob("firmware volume"));
    for rtmr in [0, 1] {
        log.events
            .push((rtmr, EventType::SEPARATOR, vec![0; 4], vec![0; 4]));
    }
    log.events
        .push((1, EventType::APPLICATION, b"image 1".to_vec(), vec![0; 40]));
    log.add_command_line(FirmwareLog::COMMAND_LINE);
    if let Some(line) = log.events.last_mut() {
        line.0 = 2;
    }
    log
}

impl TrustDomain {
    /// A domain that has booted on this platform and extends RTMR 3.
    pub fn new(platform: Platform) -> TrustDomain {
        let mut domain = TrustDomain {
            platform,
            key: SigningKey::from_slice(&Sha256::digest(b"node's key 1")).unwrap(),
            body: TdBody {
                tee_tcb_svn: [3, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                mrseam: [0x5e; 48],
                mrsignerseam: [0; 48],
                seam_attributes: [0; 8],
                attributes: [0, 0, 0, 0x10, 0, 0, 0, 0],
                xfam: [0xe7, 2, 6, 0, 0, 0, 0, 0],
                mrtd: [0x3d; 48],
                owner: [[0; 48]; 3],
                rtmrs: [[0; 48]; 4],
                report_data: [0; 64],
                service: None,
            },
            rtmr: 3,
            origin: [0; 48],
            log: Vec::new(),
            firmware: firmware(),
            boottime: 0,
            policy: String::new(),
        };
        domain.boot();
        domain.policy = domain.policy_lines();
        domain
    }

    /// Registers as the firmware leaves them. The node's key stays.
    pub fn boot(&mut self) {
        self.body.rtmrs = [[0; 48]; 4];
        let measured: Vec<_> = self.measured().collect();
        for (rtmr, digest) in measured {
            let value = &mut self.body.rtmrs[usize::from(rtmr)];
            *value = extend(value, &digest);
        }
        self.log.clear();
        self.boottime = 10_000_000_000;
        self.origin = self.body.rtmrs[usize::from(self.rtmr)];
    }

    /// What the firmware extends, in order: RTMR, and the digest.
    fn measured(&self) -> impl Iterator<Item = (u8, Register)> {
        let events = self.firmware.events.iter();
        let extending = events.filter(|(_, kind, ..)| *kind != EventType::NO_ACTION);
        extending.map(|(rtmr, _, measured, _)| {
            let digest = Bank::Sha384.hash(&[measured]);
            (u8::try_from(*rtmr).unwrap(), digest.bytes().try_into().unwrap())
        })
    }

    /// What a checkpoint over this list states; `is_first` of checkpoint 0.
    pub fn binding(&self, list: impl Iterator<Item = Entry>, is_first: bool) -> Binding {
        let mut chain = ListChain::default();
        for entry in list {
            let Entry::Full(bytes) = entry else {
                panic!("a node's own entries are whole")
            };
            chain.push(&bytes);
        }
        Binding {
            list: chain.value(),
            sealed_ns: self.boottime,
            origin: is_first.then(|| Origin {
                register: self.rtmr,
                value: self.origin,
                node_key: public_node_key(&self.key),
            }),
        }
    }

    /// A checkpoint extends the register.
    pub fn extend(&mut self, sealed: &SealedCheckpoint) {
        let digest = checkpoint_digest(&sealed.file);
        log::append_checkpoint(&mut self.log, self.rtmr, sealed.checkpoint.number, &digest);
        self.write(&digest);
        self.boottime += 1_000_000_000;
    }

    /// The register is extended, and its log says nothing of it.
    pub fn write(&mut self, digest: &Register) {
        let value = &mut self.body.rtmrs[usize::from(self.rtmr)];
        *value = extend(value, digest);
    }

    /// CoCo's attestation agent extends the register and logs it.
    pub fn agent(&mut self, text: &str) {
        let len = u32::try_from(text.len()).unwrap();
        let data = [
            &0x4141_454c_u32.to_le_bytes(),
            &len.to_le_bytes(),
            text.as_bytes(),
        ]
        .concat();
        let digest: Register = Bank::Sha384.hash(&[&data]).bytes().try_into().unwrap();
        log::append(&mut self.log, self.rtmr, EventType::EVENT_TAG, &digest, &data);
        self.write(&digest);
    }

    /// A quote for this nonce, which speaks for this checkpoint and this attestation key.
    pub fn quote(&self, nonce: &[u8], last: &SealedCheckpoint, ak_name: &[u8]) -> TdQuote {
        let mut quote = TdQuote {
            provider: PROVIDER_TDX.to_owned(),
            outblob: Vec::new(),
            nonce: nonce.to_vec(),
            checkpoint: checkpoint_digest(&last.file),
            node_key: public_node_key(&self.key),
            possession: [0; 64],
        };
        let report_data = quote.report_data(ak_name);
        quote.possession = prove_possession(&self.key, &report_data);
        quote.outblob = self.platform.quote(&self.report(report_data));
        quote
    }

    /// The TD report with these report data.
    pub fn report(&self, report_data: [u8; 64]) -> Vec<u8> {
        let body = &self.body;
        let mut out = body.tee_tcb_svn.to_vec();
        out.extend(body.mrseam);
        out.extend(body.mrsignerseam);
        for eight in [body.seam_attributes, body.attributes, body.xfam] {
            out.extend(eight);
        }
        out.extend(body.mrtd);
        out.extend(body.owner.concat());
        out.extend(body.rtmrs.concat());
        out.extend(report_data);
        if let Some((svn, service)) = body.service {
            out.extend(svn);
            out.extend(service);
        }
        out
    }

    /// What goes along with a quote.
    pub fn evidence(&self) -> TdEvidence {
        TdEvidence {
            register_log: self.log.clone(),
            ccel: Some(self.firmware.ccel()),
            auxblob: None,
        }
    }

    /// Lines of `tdx:` under which an honest run is trusted.
    pub fn policy_lines(&self) -> String {
        let mut lines = self.policy_of_domain() + "  boot:\n    registers:\n";
        for (n, value) in self.body.rtmrs.iter().take(3).enumerate() {
            lines += &format!("      {n}: [{}]\n", sha384(value));
        }
        lines
    }

    /// The lines of those that say which domain and platform it is.
    fn policy_of_domain(&self) -> String {
        format!(
            "  mrtd: [{}]\n  attributes: ['{}']\n  xfam: ['{}']\n  dangerous-root: '{}'\n",
            sha384(&self.body.mrtd),
            hex::encode(self.body.attributes),
            hex::encode(self.body.xfam),
            hex::encode(self.platform.root()),
        )
    }
}

fn sha384(register: &Register) -> String {
    format!("'sha384:{}'", hex::encode(register))
}

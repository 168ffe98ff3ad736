//! Inputs of a trust domain's decoders.

use super::{Seeds, key, seeds};
use cgpath_evidence::boot::EventType;
use cgpath_evidence::td::{
    Binding, Origin, PROVIDER_TDX, checkpoint_digest, log, prove_possession, public_node_key,
};
use cgpath_evidence::{Bank, Evidence, Quotes, TdEvidence, TdQuote};
use sha2::{Digest as _, Sha384};

fn number(n: usize) -> [u8; 4] {
    super::word(false, n)
}

/// Bytes that are not all the same.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7) as u8).collect()
}

/// A quote of this version over a body of this kind and length, which nobody signed.
fn quote(version: u16, kind: u16, body: usize) -> Vec<u8> {
    let mut out = version.to_le_bytes().to_vec();
    out.extend(2_u16.to_le_bytes());
    out.extend(0x81_u32.to_le_bytes());
    out.extend(pattern(40));
    if version == 5 {
        out.extend(kind.to_le_bytes());
        out.extend(number(body));
    }
    out.extend(pattern(body));
    let chain = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let mut inner = pattern(384 + 64);
    inner.extend(32_u16.to_le_bytes());
    inner.extend(pattern(32));
    inner.extend(5_u16.to_le_bytes());
    inner.extend(number(chain.len()));
    inner.extend(chain);
    let mut data = pattern(128);
    data.extend(6_u16.to_le_bytes());
    data.extend(number(inner.len()));
    data.extend(inner);
    out.extend(number(data.len()));
    out.extend(data);
    out
}

/// A TDREPORT whose hashes are those of its parts.
fn report() -> Vec<u8> {
    let mut report = pattern(1024);
    report[..4].copy_from_slice(&[0x81, 0, 0, 0]);
    let (tcb, info) = (Sha384::digest(&report[256..495]), Sha384::digest(&report[512..]));
    report[32..80].copy_from_slice(&tcb);
    report[80..128].copy_from_slice(&info);
    report
}

/// Quotes of each version, with zeros behind them, with a length that is false; and a report.
pub fn td_quote() -> Seeds {
    let four = quote(4, 0, 584);
    let padded = [&four[..], &[0; 64]].concat();
    let mut long = four.clone();
    long[48 + 584] ^= 1;
    let mut five = quote(5, 3, 648);
    five[0] = 4;
    seeds([
        ("v4", four),
        ("v5-1.0", quote(5, 2, 584)),
        ("v5-1.5", quote(5, 3, 648)),
        ("v5-1.5-extended", quote(5, 4, 885)),
        ("v4-padded", padded),
        ("report", report()),
        ("bad-length", long),
        ("bad-v5-as-v4", five),
    ])
}

fn register_log() -> Vec<u8> {
    let mut bytes = Vec::new();
    log::append_checkpoint(&mut bytes, 3, 0, &checkpoint_digest(b"checkpoint 0"));
    log::append_checkpoint(&mut bytes, 3, 1, &checkpoint_digest(b"checkpoint 1"));
    let data = b"LEAA\x05\0\0\0hello";
    let digest: [u8; 48] = Sha384::digest(data).into();
    log::append(&mut bytes, 3, EventType::EVENT_TAG, &digest, data);
    bytes
}

/// Logs of a register.
pub fn td_register_log() -> Seeds {
    let good = register_log();
    let cut = good[..good.len() - 1].to_vec();
    seeds([("three", good), ("empty", Vec::new()), ("bad-cut", cut)])
}

fn ccel() -> Vec<u8> {
    let mut id = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    id.extend(number(1));
    id.extend(Bank::Sha384.tpm_alg().to_le_bytes());
    id.extend(48_u16.to_le_bytes());
    id.push(0);
    let mut out = [&number(1)[..], &number(3), &[0; 20], &number(id.len()), &id].concat();
    let mut event = |register: u32, kind: u32, data: &[u8]| {
        out.extend(register.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(number(1));
        out.extend(Bank::Sha384.tpm_alg().to_le_bytes());
        out.extend(Bank::Sha384.hash(&[data]).bytes());
        out.extend(number(data.len()));
        out.extend(data);
    };
    event(1, 4, &[0; 4]);
    event(2, 0x8000_0003, b"image");
    event(2, 4, &[0; 4]);
    // Google's: they extend nothing.
    event(u32::MAX, 3, b"vendor");
    event(5, 6, b"beyond");
    let line = [&0x8f3b_22ed_u32.to_le_bytes()[..], &number(6), b"quiet\0"].concat();
    event(3, 6, &line);
    out
}

/// A firmware's log.
pub fn td_ccel() -> Seeds {
    let good = ccel();
    let unused = [&good[..], &[0xff; 64]].concat();
    let cut = good[..good.len() - 1].to_vec();
    seeds([("good", good), ("unused", unused), ("bad-cut", cut)])
}

/// Collateral, with dates that are none in one of them.
pub fn td_collateral() -> Seeds {
    let signed = |issued: &str, fmspc: &str| {
        format!(
            "{{\"issueDate\":\"{issued}\",\"nextUpdate\":\"2026-04-15T00:00:00Z\",\"tcbEvaluationDataNumber\":18{fmspc}}}"
        )
    };
    let file = |issued: &str| {
        let json = serde_json::json!({
            "pck_crl_issuer_chain": "chain",
            "root_ca_crl": "00",
            "pck_crl": "01",
            "tcb_info_issuer_chain": "chain",
            "tcb_info": signed(issued, ",\"fmspc\":\"50806f000000\""),
            "tcb_info_signature": "02",
            "qe_identity_issuer_chain": "chain",
            "qe_identity": signed(issued, ""),
            "qe_identity_signature": "03",
        });
        json.to_string().into_bytes()
    };
    seeds([
        ("good.json", file("2026-03-16T00:00:00Z")),
        ("bad-date.json", file("yesterday")),
    ])
}

/// What a checkpoint states.
pub fn binding(is_first: bool) -> Binding {
    Binding {
        list: [7; 48],
        sealed_ns: 12_000_000_000,
        origin: is_first.then(|| Origin {
            register: 3,
            value: [0; 48],
            node_key: public_node_key(&key()),
        }),
    }
}

/// Evidence with a trust domain's quote beside a TPM's.
pub fn beside(evidence: Evidence) -> Evidence {
    let mut td = TdQuote {
        provider: PROVIDER_TDX.to_owned(),
        outblob: quote(4, 0, 584),
        nonce: b"nonce".to_vec(),
        checkpoint: checkpoint_digest(&evidence.checkpoints[1]),
        node_key: public_node_key(&key()),
        possession: [0; 64],
    };
    td.possession = prove_possession(&key(), &td.report_data(&[]));
    Evidence {
        quote: Quotes {
            td: Some(td),
            ..evidence.quote
        },
        td: Some(TdEvidence {
            register_log: register_log(),
            ccel: Some(ccel()),
            auxblob: Some(b"aux".to_vec()),
        }),
        ..evidence
    }
}

/// Evidence with a trust domain's quote in place of a TPM's.
pub fn evidence(evidence: Evidence) -> Evidence {
    let both = beside(evidence);
    Evidence {
        quote: Quotes {
            tpm: None,
            ..both.quote
        },
        ..both
    }
}

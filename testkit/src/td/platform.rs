//! A platform that quotes trust domains under certificates and collateral of a test's own making.
//!
//! Promise: structures, chains and signatures are as Intel's are, so that a verifier takes them where its
//! root is [`Platform::root`] and nowhere else; all of it is deterministic. Not here: what a quote states
//! (see `domain`).

use cgpath_appraisal::Collateral;
use cgpath_appraisal::text::utc;
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The object identifier of Intel's extension in PCK certificates.
const SGX: [u64; 7] = [1, 2, 840, 113_741, 1, 13, 1];
/// Intel's quoting enclave names itself so in a quote's header.
const VENDOR: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
/// Who signed the quoting enclave.
const QE_SIGNER: [u8; 32] = [0xdc; 32];
const QE_PRODUCT: u16 = 2;
const PCE_SVN: u8 = 11;

/// A key as `rcgen` takes it.
struct Key {
    key: SigningKey,
    public: Vec<u8>,
}

impl Key {
    fn of(seed: &str, name: &str) -> Key {
        let scalar = Sha256::digest(format!("{seed} {name}"));
        let key = SigningKey::from_slice(&scalar).unwrap();
        let public = key.verifying_key().to_encoded_point(false).as_bytes().to_vec();
        Key { key, public }
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.key.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

/// `r` and `s`, as quotes and collateral have signatures.
fn raw(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(message);
    signature.to_vec()
}

/// DER, as far as Intel's extension needs it.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let header = match u8::try_from(len) {
        Ok(len) if len < 0x80 => vec![tag, len],
        _ => [&[tag, 0x82][..], &u16::try_from(len).unwrap().to_be_bytes()].concat(),
    };
    [header, content.to_vec()].concat()
}

fn oid(path: &[u8]) -> Vec<u8> {
    // 1.2.840.113741.1.13.1 and what is below it.
    let prefix = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
    der(6, &[&prefix, path].concat())
}

fn pair(path: &[u8], value: &[u8]) -> Vec<u8> {
    der(0x30, &[oid(path), value.to_vec()].concat())
}

fn octets(bytes: &[u8]) -> Vec<u8> {
    der(4, bytes)
}

/// See the module.
#[derive(Clone)]
pub struct Platform {
    root: Vec<u8>,
    chain: String,
    signers: String,
    root_crl: Vec<u8>,
    pck_crl: Vec<u8>,
    pck: SigningKey,
    signer: SigningKey,
    attestation: SigningKey,
    /// PPID.
    pub id: [u8; 16],
    /// Which kind of platform it is.
    pub fmspc: [u8; 6],
    /// Version of the quoting enclave. Collateral calls 4 up to date.
    pub qe_svn: u16,
}

impl core::fmt::Debug for Platform {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Platform")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn params(name: &str, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    params.use_authority_key_identifier_extension = true;
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    } else {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    }
    params
}

impl Platform {
    /// A platform of the test root that is named by `root`; `machine` tells one from another.
    pub fn new(root: &str, machine: &str) -> Platform {
        let id: [u8; 16] = Sha256::digest(machine)[..16].try_into().unwrap();
        let fmspc = [0xb0, 0xc0, 0x6f, 0, 0, 0];
        let root_key = Key::of(root, "root");
        let root_params = params("Test SGX Root CA", true);
        let root_cert = root_params.self_signed(&root_key).unwrap();
        let ca_key = Key::of(root, "platform CA");
        let ca_params = params("Intel SGX PCK Platform CA", true);
        let root_issuer = Issuer::from_params(&root_params, &root_key);
        let ca_cert = ca_params.signed_by(&ca_key, &root_issuer).unwrap();
        let ca_issuer = Issuer::from_params(&ca_params, &ca_key);
        let pck = Key::of(root, machine);
        let mut pck_params = params("Intel SGX PCK Certificate", false);
        pck_params
            .custom_extensions
            .push(CustomExtension::from_oid_content(&SGX, extension(&id, &fmspc)));
        let pck_cert = pck_params.signed_by(&pck, &ca_issuer).unwrap();
        let signer = Key::of(root, "TCB signing");
        let signer_cert = params("Intel SGX TCB Signing", false)
            .signed_by(&signer, &root_issuer)
            .unwrap();
        let pem = |certs: &[&Certificate]| certs.iter().map(|cert| cert.pem()).collect::<String>();
        Platform {
            root: root_cert.der().to_vec(),
            chain: pem(&[&pck_cert, &ca_cert, &root_cert]),
            signers: pem(&[&signer_cert, &root_cert]),
            root_crl: crl(&root_issuer),
            pck_crl: crl(&ca_issuer),
            pck: pck.key,
            signer: signer.key,
            attestation: Key::of(machine, "attestation").key,
            id,
            fmspc,
            qe_svn: 4,
        }
    }

    /// The root's certificate, DER.
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// Collateral that was issued then and holds for 30 days.
    pub fn collateral(&self, issued: u64) -> Collateral {
        self.collateral_with(issued, |_, _| ())
    }

    /// The same, with TCB info and QE identity changed before they are signed.
    pub fn collateral_with(&self, issued: u64, change: impl FnOnce(&mut Value, &mut Value)) -> Collateral {
        Collateral::from_json(&self.collateral_json(issued, change)).unwrap()
    }

    /// The file of it.
    pub fn collateral_json(&self, issued: u64, change: impl FnOnce(&mut Value, &mut Value)) -> Vec<u8> {
        let date = |seconds: u64| utc(seconds).replace(' ', "T") + "Z";
        let (from, until) = (date(issued), date(issued + 30 * 24 * 3600));
        let zeros = "00".repeat(48);
        let svn = |values: &[u8]| -> Vec<Value> {
            let all = values.iter().copied().chain(core::iter::repeat(0)).take(16);
            all.map(|svn| json!({"svn": svn})).collect()
        };
        let level = |tdx: &[u8], status: &str, advisories: &[&str]| {
            json!({
                "tcb": {
                    "sgxtcbcomponents": svn(&[2, 2]),
                    "pcesvn": PCE_SVN,
                    "tdxtcbcomponents": svn(tdx),
                },
                "tcbDate": "2026-06-01T00:00:00Z",
                "tcbStatus": status,
                "advisoryIDs": advisories,
            })
        };
        let mut info = json!({
            "id": "TDX",
            "version": 3,
            "issueDate": &from,
            "nextUpdate": &until,
            "fmspc": hex::encode(self.fmspc),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 20,
            "tdxModule": {"mrsigner": &zeros, "attributes": "0000000000000000",
            "attributesMask": "FFFFFFFFFFFFFFFF"},
            "tdxModuleIdentities": [],
            "tcbLevels": [
                level(&[3, 0, 5], "UpToDate", &[]),
                level(&[2, 0, 4], "OutOfDate", &["INTEL-SA-01036"]),
            ],
        });
        let mut identity = json!({
            "id": "TD_QE",
            "version": 2,
            "issueDate": &from,
            "nextUpdate": &until,
            "tcbEvaluationDataNumber": 20,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": hex::encode(QE_SIGNER),
            "isvprodid": QE_PRODUCT,
            "tcbLevels": [
                {"tcb": {"isvsvn": 4}, "tcbDate": "2026-06-01T00:00:00Z", "tcbStatus": "UpToDate"},
                {"tcb": {"isvsvn": 3}, "tcbDate": "2025-06-01T00:00:00Z", "tcbStatus": "OutOfDate",
                    "advisoryIDs": ["INTEL-SA-00615"]},
            ],
        });
        change(&mut info, &mut identity);
        let (info, identity) = (info.to_string(), identity.to_string());
        let signed = |text: &str| hex::encode(raw(&self.signer, text.as_bytes()));
        let file = json!({
            "pck_crl_issuer_chain": &self.chain,
            "root_ca_crl": hex::encode(&self.root_crl),
            "pck_crl": hex::encode(&self.pck_crl),
            "tcb_info_issuer_chain": &self.signers,
            "tcb_info_signature": signed(&info),
            "tcb_info": info,
            "qe_identity_issuer_chain": &self.signers,
            "qe_identity_signature": signed(&identity),
            "qe_identity": identity,
        });
        serde_json::to_vec(&file).unwrap()
    }

    /// A quote over this TD report, of version 4 for one of 584 bytes, else of version 5.
    pub fn quote(&self, report: &[u8]) -> Vec<u8> {
        let is_four = report.len() == 584;
        let mut signed = header(if is_four { 4 } else { 5 });
        if !is_four {
            signed.extend(3_u16.to_le_bytes());
            signed.extend(u32::try_from(report.len()).unwrap().to_le_bytes());
        }
        signed.extend(report);
        let mut data = raw(&self.attestation, &signed);
        data.extend(self.behind_signature());
        signed.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        signed.extend(data);
        signed
    }

    /// The key that signs quotes.
    pub(super) fn attestation_key(&self) -> &SigningKey {
        &self.attestation
    }

    /// What a quote has behind its signature: the attestation key, what the quoting enclave says of it, and
    /// the chain.
    pub(super) fn behind_signature(&self) -> Vec<u8> {
        let point = self.attestation.verifying_key().to_encoded_point(false);
        let key = &point.as_bytes()[1..];
        let auth = [0x5a; 32];
        let enclave = self.enclave(&Sha256::digest([key, &auth].concat()));
        let mut inner = enclave.clone();
        inner.extend(raw(&self.pck, &enclave));
        inner.extend(32_u16.to_le_bytes());
        inner.extend(auth);
        inner.extend(5_u16.to_le_bytes());
        inner.extend(u32::try_from(self.chain.len()).unwrap().to_le_bytes());
        inner.extend(self.chain.as_bytes());
        let mut data = key.to_vec();
        data.extend(6_u16.to_le_bytes());
        data.extend(u32::try_from(inner.len()).unwrap().to_le_bytes());
        data.extend(inner);
        data
    }

    /// The quoting enclave's report, whose report data begin with this hash.
    fn enclave(&self, hash: &[u8]) -> Vec<u8> {
        let mut report = vec![0; 48];
        report.extend([0x11]);
        report.extend([0; 15]);
        report.extend([0xee; 32]);
        report.extend([0; 32]);
        report.extend(QE_SIGNER);
        report.extend([0; 96]);
        report.extend(QE_PRODUCT.to_le_bytes());
        report.extend(self.qe_svn.to_le_bytes());
        report.extend([0; 60]);
        report.extend(hash);
        report.extend([0; 32]);
        report
    }
}

/// A quote's header of this version: ECDSA over P-256, TDX, Intel's quoting enclave.
pub(super) fn header(version: u16) -> Vec<u8> {
    let mut header = version.to_le_bytes().to_vec();
    header.extend(2_u16.to_le_bytes());
    header.extend(0x81_u32.to_le_bytes());
    header.extend([0; 4]);
    header.extend(VENDOR);
    header.extend([0; 20]);
    header
}

/// A list of revoked certificates with none in it.
fn crl(issuer: &Issuer<'_, &Key>) -> Vec<u8> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2025, 1, 1),
        next_update: date_time_ymd(2049, 12, 31),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().der().to_vec()
}

/// What Intel's extension says of a platform.
fn extension(id: &[u8; 16], fmspc: &[u8; 6]) -> Vec<u8> {
    let svn = [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tcb = Vec::new();
    for (n, value) in (1_u8..).zip(svn) {
        tcb.extend(pair(&[2, n], &der(2, &[value])));
    }
    tcb.extend(pair(&[2, 17], &der(2, &[PCE_SVN])));
    tcb.extend(pair(&[2, 18], &octets(&svn)));
    let all = [
        pair(&[1], &octets(id)),
        pair(&[2], &der(0x30, &tcb)),
        pair(&[3], &octets(&[0, 0])),
        pair(&[4], &octets(fmspc)),
        pair(&[5], &der(10, &[1])),
    ];
    der(0x30, &all.concat())
}

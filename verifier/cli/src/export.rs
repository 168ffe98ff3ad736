//! `cgpath export`: a node's evidence in the formats of other tools. Reads a file, writes a file or a folder.
//!
//! Promise: what cannot be said in a format is an error that names the entry, never left out. Not here: the
//! formats that are bytes alone (see `cgpath_evidence::cel`, `cgpath_evidence::eat`, `cgpath_evidence::tpm`).

use crate::input::{self, replace};
use crate::kept::Source;
use crate::output::{Failure, Output, Status, escape};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cgpath_evidence::{
    Bank, Digest, Entry, Evidence,
    boot::{EventLog, Registers},
    cel, eat,
    list::{ListEntry, Templates},
    quoted::{IMA_PCR as PCR, QuotedRegisters},
    replay::{Fill, Replay},
    tpm::{Attest, PcrBlob, Public, Signature, VerifyingKey},
};
use cgpath_service::files::read_bounded;
use clap::ValueEnum;
use std::fs;
use std::path::{Path, PathBuf};

/// A runtime policy, a key or a result is never longer than this many bytes.
const MAX_INPUT: u64 = 256 * 1024 * 1024;

/// The formats.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Our evidence as JSON, lossless
    Json,
    /// Our evidence as deterministic CBOR, of either form
    Cbor,
    /// The list as a TCG Canonical Event Log in CBOR
    CelCbor,
    /// The list as a TCG Canonical Event Log in JSON
    CelJson,
    /// The log of a trust domain's register as a TCG Canonical Event Log in CBOR
    TdCelCbor,
    /// The log of a trust domain's register as a TCG Canonical Event Log in JSON
    TdCelJson,
    /// The list as the kernel's ASCII form, with SHA-1 digests
    Ascii,
    /// A folder for `evmctl ima_measurement`: the list as the kernel's binary form, and the quoted registers
    Evmctl,
    /// The TPM evidence of Trustee (Confidential Containers): quote, registers and key as JSON
    Trustee,
    /// The TDX evidence of Trustee: a trust domain's quote, and its log with the checkpoints' extensions
    TrusteeTdx,
    /// A folder for `tpm2_checkquote`: message, signature, registers, key, and the command line
    Tpm2Tools,
    /// A request to Keylime's one-shot verification, `POST /v2.6/verify/evidence`
    Keylime,
    /// An Entity Attestation Token that carries the evidence: UCCS, or a CWT with --key
    Eat,
    /// The token, and with --ear the result, in a conceptual message wrapper in CBOR
    CmwCbor,
    /// The same in JSON
    CmwJson,
}

/// Writes a node's evidence in the format of another tool
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cgpath export evidence.cbor --format tpm2-tools -o quote/ && sh quote/check.sh
  cgpath export evidence.cbor --format evmctl -o list/ && sh list/check.sh
  cgpath export evidence.cbor --format cel-cbor -o log.cel
  cgpath export --store /var/lib/cgpath/store --node worker-1 --format cbor -o evidence.cbor
  cgpath export --store /var/lib/cgpath/store --node worker-1 --verdict 4711 --format cbor -o then.cbor
  cgpath export evidence.cbor --format keylime --runtime-policy policy.json -o request.json
  cgpath export evidence.cbor --format cmw-json --ear verdict.jwt -o evidence.cmw")]
pub struct Export {
    #[command(flatten)]
    source: Source,
    /// The format
    #[arg(long, value_name = "FORMAT")]
    format: Format,
    /// Where it goes: a file, or a folder that is made; `-` writes what is one file to standard output
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// keylime: the runtime policy to appraise by
    #[arg(long, value_name = "FILE")]
    runtime_policy: Option<PathBuf>,
    /// keylime: the node's endorsement key, TPM2B_PUBLIC; it is not part of our evidence
    #[arg(long, value_name = "FILE")]
    ek: Option<PathBuf>,
    /// eat, cmw-cbor, cmw-json: signs the token with this P-256 key in PEM
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// cmw-cbor, cmw-json: an attestation result to wrap along
    #[arg(long, value_name = "FILE")]
    ear: Option<PathBuf>,
}

fn failure(error: &cgpath_evidence::Error) -> Failure {
    Failure::decode("export", error)
}

/// The quote and what its registers were.
pub(crate) struct Quoted {
    attest: Attest,
    registers: QuotedRegisters,
    /// PCR 10 in each bank.
    pcrs: Vec<Digest>,
}

impl Export {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Input that cannot be read, or has no form in the format.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        self.check()?;
        let evidence = self.source.evidence()?;
        let bytes = match self.format {
            Format::Evmctl => {
                self.evmctl(&evidence)?;
                return self.written(out);
            }
            Format::Tpm2Tools => {
                self.tpm2_tools(&evidence)?;
                return self.written(out);
            }
            Format::Json => evidence.to_json().map_err(|e| failure(&e))?,
            Format::Cbor => evidence.to_cbor(),
            Format::CelCbor => cel::to_cbor(&cel(&evidence)?),
            Format::CelJson => cel::to_json(&cel(&evidence)?).map_err(|e| failure(&e))?,
            Format::TdCelCbor => cel::to_cbor(&td_cel(&evidence)?),
            Format::TdCelJson => cel::to_json(&td_cel(&evidence)?).map_err(|e| failure(&e))?,
            Format::Ascii => ascii(&evidence)?,
            Format::Trustee => trustee(&evidence)?,
            Format::TrusteeTdx => trustee_tdx(&evidence)?,
            Format::Keylime => self.keylime(&evidence)?,
            Format::Eat => self.token(&evidence)?.bytes,
            Format::CmwCbor => eat::cmw_cbor(&self.messages(&evidence)?),
            Format::CmwJson => eat::cmw_json(&self.messages(&evidence)?).to_string().into_bytes(),
        };
        if self.output == Path::new("-") {
            out.raw(&bytes)?;
            return Ok(Status::Clean);
        }
        replace(&self.output, &bytes)?;
        self.written(out)
    }

    fn written(&self, out: &mut Output) -> Result<Status, Failure> {
        if !out.json() {
            out.line(escape(self.output.as_os_str().as_encoded_bytes()))?;
        }
        Ok(Status::Clean)
    }

    /// Refuses an option that the format has no place for: what was left out unseen would be missed later.
    fn check(&self) -> Result<(), Failure> {
        let keylime = &[Format::Keylime][..];
        for (option, is_given, formats) in [
            ("--runtime-policy", self.runtime_policy.is_some(), keylime),
            ("--ek", self.ek.is_some(), keylime),
            (
                "--key",
                self.key.is_some(),
                &[Format::Eat, Format::CmwCbor, Format::CmwJson],
            ),
            ("--ear", self.ear.is_some(), &[Format::CmwCbor, Format::CmwJson]),
        ] {
            if is_given && !formats.contains(&self.format) {
                return Err(
                    Failure::new("usage", format!("{option} means nothing in this format"))
                        .hint("`cgpath export --help` says which formats take it"),
                );
            }
        }
        Ok(())
    }

    fn folder(&self, files: &[(&str, Vec<u8>)]) -> Result<(), Failure> {
        if self.output == Path::new("-") {
            return Err(
                Failure::new("usage", "this format is a folder, not standard output (`-`)")
                    .hint("name a folder: --output FOLDER"),
            );
        }
        fs::create_dir_all(&self.output).map_err(|e| Failure::file(&self.output, &e))?;
        files
            .iter()
            .try_for_each(|(name, bytes)| replace(&self.output.join(name), bytes))
    }

    fn token(&self, evidence: &Evidence) -> Result<eat::Message, Failure> {
        let claims = eat::claims(evidence).map_err(|e| failure(&e))?;
        match &self.key {
            None => Ok(eat::unsigned(&claims)),
            Some(path) => eat::signed(&claims, &input::signing_key(path)?).map_err(|e| failure(&e)),
        }
    }

    fn messages(&self, evidence: &Evidence) -> Result<Vec<eat::Message>, Failure> {
        let mut messages = vec![self.token(evidence)?];
        if let Some(path) = &self.ear {
            let token = String::from_utf8_lossy(&read(path)?).trim().to_owned();
            messages.push(eat::attestation_result(&token));
        }
        Ok(messages)
    }

    fn evmctl(&self, evidence: &Evidence) -> Result<(), Failure> {
        let (quoted, covered) = quoted(evidence)?;
        let mut files = vec![("binary_runtime_measurements", binary(evidence, covered)?)];
        let mut check = "#!/bin/sh\n\
            # Replays the list as the kernel did (0xff for a violation) and compares it with the quoted \
            registers.\n\
            cd \"$(dirname \"$0\")\" || exit 2\n\
            exec evmctl ima_measurement --ignore-violations"
            .to_owned();
        for pcr in &quoted.pcrs {
            let name = match pcr.bank() {
                Bank::Sha1 => "pcrs.sha1",
                Bank::Sha256 => "pcrs.sha256",
                Bank::Sha384 => "pcrs.sha384",
                Bank::Sha512 => "pcrs.sha512",
            };
            // Registers that are not quoted are as after a reset.
            let boot = quoted
                .registers
                .boot(pcr.bank())
                .map(Registers::values)
                .unwrap_or_default();
            let lines = (0..24).map(|n| {
                let value = match boot.get(n as usize) {
                    Some(value) => value.clone(),
                    None if n == PCR => pcr.clone(),
                    None => Digest::zero(pcr.bank()),
                };
                format!("PCR-{n:02}:{}\n", hex::encode(value.bytes()))
            });
            files.push((name, lines.collect::<String>().into_bytes()));
            check.push_str(&format!(" --pcrs {},{name}", pcr.bank()));
        }
        check.push_str(" binary_runtime_measurements\n");
        files.push(("check.sh", check.into_bytes()));
        self.folder(&files)
    }

    fn tpm2_tools(&self, evidence: &Evidence) -> Result<(), Failure> {
        let (quoted, _) = quoted(evidence)?;
        let quote = evidence.quote.tpm().map_err(|e| failure(&e))?;
        let nonce = hex::encode(&quoted.attest.extra_data);
        let check = format!(
            "#!/bin/sh\n\
             # Compare ak.pub with the key that you know of this node, and the nonce with the one that you \
             gave.\n\
             cd \"$(dirname \"$0\")\" || exit 2\n\
             exec tpm2_checkquote -u ak.pub -m quote.msg -s quote.sig -f quote.pcrs -g sha256 -q {nonce}\n"
        );
        self.folder(&[
            ("quote.msg", quote.attest.clone()),
            ("quote.sig", quote.signature.clone()),
            ("quote.pcrs", blob(&quoted).to_bytes()),
            ("ak.pub", public(evidence)?.to_tpm2b()),
            ("check.sh", check.into_bytes()),
        ])
    }

    fn keylime(&self, evidence: &Evidence) -> Result<Vec<u8>, Failure> {
        let (quoted, _) = quoted(evidence)?;
        // Keylime takes a nonce as text, or, where that does not match, as base64 of the bytes.
        let nonce = match core::str::from_utf8(&quoted.attest.extra_data) {
            Ok(text) => text.to_owned(),
            Err(_) => STANDARD.encode(&quoted.attest.extra_data),
        };
        let bank = quoted.pcrs.first().map_or(Bank::Sha256, Digest::bank);
        let policy = match &self.runtime_policy {
            Some(path) => String::from_utf8(read(path)?)
                .map_err(|_| Failure::new("export", "the runtime policy is not text"))?,
            None => String::new(),
        };
        let ak = STANDARD.encode(public(evidence)?.to_tpm2b());
        let ek = match &self.ek {
            Some(path) => STANDARD.encode(read(path)?),
            None => ak.clone(),
        };
        let quote = evidence.quote.tpm().map_err(|e| failure(&e))?;
        let parts = [&quote.attest, &quote.signature, &blob(&quoted).to_bytes()];
        let quote = parts.map(|part| STANDARD.encode(part)).join(":");
        let list = String::from_utf8(ascii(evidence)?).map_err(|e| {
            Failure::new("export", format!("the ASCII list is not UTF-8: {e}"))
                .hint("Keylime takes it as JSON text")
        })?;
        let request = serde_json::json!({"type": "tpm", "data": {
            "quote": format!("r{quote}"),
            "nonce": nonce,
            "hash_alg": bank.name(),
            "tpm_ak": ak,
            "tpm_ek": ek,
            "tpm_policy": format!("{{\"mask\":\"{:#x}\"}}", 1u32 << PCR),
            "runtime_policy": policy,
            "ima_measurement_list": list,
        }});
        serde_json::to_vec(&request).map_err(|e| Failure::new("encoding", e.to_string()))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = read_bounded(path, MAX_INPUT).map_err(|e| Failure::file(path, &e))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(Failure::new(
            "limit",
            format!("{}: longer than {MAX_INPUT} bytes", path.display()),
        ));
    }
    Ok(bytes)
}

fn public(evidence: &Evidence) -> Result<Public, Failure> {
    let quote = evidence.quote.tpm();
    quote
        .and_then(|quote| Public::parse(&quote.ak))
        .map_err(|e| failure(&e))
}

fn cel(evidence: &Evidence) -> Result<Vec<cel::CelRecord>, Failure> {
    let (_, registers) = attested(evidence)?;
    let mut all = vec![Bank::Sha1];
    all.extend(registers.banks().filter(|bank| *bank != Bank::Sha1));
    cel::records(&evidence.list, &all).map_err(|e| failure(&e))
}

fn td_cel(evidence: &Evidence) -> Result<Vec<cel::CelRecord>, Failure> {
    let td = evidence.td.as_ref().ok_or_else(|| {
        Failure::new("export", "there is no trust domain's register in the evidence")
            .hint("of the measurement list: --format cel-cbor")
    })?;
    cel::extensions(&td.register_log).map_err(|e| failure(&e))
}

/// The quote and the registers that it selects.
fn attested(evidence: &Evidence) -> Result<(Attest, QuotedRegisters), Failure> {
    let quote = evidence.quote.tpm();
    let attest = quote.and_then(|quote| Attest::parse(&quote.attest));
    let attest = attest.map_err(|e| failure(&e))?;
    let registers = QuotedRegisters::strict(&attest, evidence.registers())
        .map_err(|e| Failure::new("export", e.to_string()))?;
    Ok((attest, registers))
}

/// The quote, its registers, and how many entries it covers.
///
/// # Errors
/// A quote that cannot be read or selects other registers, a list that does not lead to it.
pub(crate) fn quoted(evidence: &Evidence) -> Result<(Quoted, usize), Failure> {
    let (attest, registers) = attested(evidence)?;
    let banks: Vec<Bank> = registers.banks().collect();
    let mut replay = Replay::new(banks.iter().map(|bank| (*bank, Fill::Hashed)));
    let mut found = None;
    for index in 0..=evidence.list.len() {
        if let Some(entry) = index.checked_sub(1).and_then(|i| evidence.list.get(i)) {
            replay
                .push_entry(entry)
                .map_err(|e| Failure::new("export", e.to_string()))?;
        }
        let values = banks.iter().map(|bank| replay.value(PCR, *bank, Fill::Hashed));
        let values: Vec<Digest> = values.collect::<Option<_>>().unwrap_or_default();
        if registers.is_with(&values) {
            found = Some((values, index));
        }
    }
    let (pcrs, covered) = found.ok_or_else(|| {
        Failure::new(
            "export",
            "no prefix of the list replays to the quoted PCR 10, so its value is not known",
        )
        .hint("`cgpath verify` says what is wrong with the evidence")
    })?;
    Ok((
        Quoted {
            attest,
            registers,
            pcrs,
        },
        covered,
    ))
}

/// What Trustee's TPM verifier takes: `tpm_quote` of TPMS_ATTEST and TPMT_SIGNATURE in base64 and the SHA-256
/// registers in hex, `ak_public` as SubjectPublicKeyInfo in base64. Source: confidential-containers/trustee,
/// deps/verifier/appraisal/src/tpm/mod.rs.
fn trustee(evidence: &Evidence) -> Result<Vec<u8>, Failure> {
    use rsa::pkcs8::EncodePublicKey as _;
    let (quoted, _) = quoted(evidence)?;
    let refused = |why: &str, hint: &str| Failure::new("export", why).hint(hint);
    let banks: Vec<Bank> = quoted.registers.banks().collect();
    if banks != [Bank::Sha256] || quoted.registers.boot(Bank::Sha256).is_none() {
        return Err(refused(
            "the quote is not over PCR 0 to 10 of the SHA-256 bank alone, which Trustee needs",
            "set tpm.bank = \"sha256\" in the collector's configuration",
        ));
    }
    let quote = evidence.quote.tpm().map_err(|e| failure(&e))?;
    let signature = Signature::parse(&quote.signature).map_err(|e| failure(&e))?;
    let key = public(evidence)?.verifying_key().map_err(|e| failure(&e))?;
    let (Signature::Rsassa { .. }, VerifyingKey::Rsa(key)) = (signature, key) else {
        return Err(refused(
            "the quote is not signed by RSASSA, the one scheme that Trustee's TPM verifier takes",
            "set tpm.key = \"rsa-2048\" in the collector's configuration, and enrol the new key",
        ));
    };
    let key = key
        .to_public_key_der()
        .map_err(|e| Failure::new("export", format!("the attestation key: {e}")))?;
    let registers = quoted.registers.values(&quoted.pcrs);
    let registers: Vec<String> = registers.iter().map(|value| hex::encode(value.bytes())).collect();
    let value = serde_json::json!({
        "ak_public": STANDARD.encode(key.as_bytes()),
        "tpm_quote": {
            "message": STANDARD.encode(&quote.attest),
            "pcrs": registers,
            "signature": STANDARD.encode(&quote.signature),
        },
    });
    serde_json::to_vec(&value).map_err(|e| Failure::new("encoding", e.to_string()))
}

/// What Trustee's TDX verifier takes: `quote`, and `cc_eventlog`, which is the firmware's log with what was
/// extended at run time behind it, both in base64. Source: confidential-containers/trustee,
/// deps/verifier/src/tdx/mod.rs; guest-components, attestation-agent/attester/src/tdx/mod.rs.
fn trustee_tdx(evidence: &Evidence) -> Result<Vec<u8>, Failure> {
    let quote = evidence.quote.td.as_ref();
    let quote = quote.ok_or_else(|| {
        Failure::new("export", "there is no trust domain's quote in the evidence")
            .hint("of a TPM's quote: --format trustee")
    })?;
    let td = evidence.td.as_ref();
    let ccel = td.and_then(|td| td.ccel.as_deref()).unwrap_or_default();
    let used = if ccel.is_empty() {
        0
    } else {
        EventLog::parse_ccel(ccel).map_err(|e| failure(&e))?.used()
    };
    let register = td.map_or(&[][..], |td| &td.register_log);
    // Without the firmware's log there is no Spec ID, and what remains is no log to others.
    let log = (used > 0).then(|| STANDARD.encode([ccel.get(..used).unwrap_or_default(), register].concat()));
    let value = serde_json::json!({ "cc_eventlog": log, "quote": STANDARD.encode(&quote.outblob) });
    serde_json::to_vec(&value).map_err(|e| Failure::new("encoding", e.to_string()))
}

fn blob(quoted: &Quoted) -> PcrBlob {
    PcrBlob {
        select: quoted.attest.pcr_select.clone(),
        values: quoted
            .registers
            .values(&quoted.pcrs)
            .iter()
            .map(|pcr| pcr.bytes().to_vec())
            .collect(),
    }
}

/// The list's entries with SHA-1 digests, as `binary_runtime_measurements` has them, whatever bank evidence
/// was made of.
fn sha1_entries(list: &[Entry]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut records = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let Entry::Full(record) = entry else {
            return Err(Failure::new(
                "export",
                format!("entry {index} is redacted: it has no content to export"),
            ));
        };
        let entry = ListEntry::from_canonical(index as u64, record.as_slice()).map_err(|e| failure(&e))?;
        let digest = if entry.is_violation() {
            Digest::zero(Bank::Sha1)
        } else {
            entry.template_digest(Bank::Sha1)
        };
        let behind = record.get(4 + entry.listed_digest().len()..).unwrap_or_default();
        records.push([&entry.pcr().to_le_bytes()[..], digest.bytes(), behind].concat());
    }
    Ok(records)
}

fn binary(evidence: &Evidence, covered: usize) -> Result<Vec<u8>, Failure> {
    Ok(sha1_entries(evidence.list.get(..covered).unwrap_or_default())?.concat())
}

fn ascii(evidence: &Evidence) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    for (index, record) in sha1_entries(&evidence.list)?.iter().enumerate() {
        let entry = ListEntry::from_canonical(index as u64, record.as_slice()).map_err(|e| failure(&e))?;
        let line = entry.to_ascii(Templates::builtin()).map_err(|e| {
            Failure::new(
                "export",
                format!("entry {index}: {}", escape(e.to_string().as_bytes())),
            )
            .hint("a name with such bytes would break or forge a line: use --format evmctl, which is binary")
        })?;
        out.extend(line);
        out.push(b'\n');
    }
    Ok(out)
}

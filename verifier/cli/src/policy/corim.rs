//! `cgpath policy to-corim` and `from-corim`: concise reference integrity manifests out and in.

use super::refused;
use crate::input;
use crate::output::{Colour, Failure, Output, Status, count, escape};
use cgpath_policy::corim::{self, MAX_CORIM_LEN, Manifest, Trust};
use cgpath_policy::{Reference, reference::MAX_REFERENCE_LEN};
use cgpath_service::files::read_bounded;
use cgpath_service::policy_files::load;
use clap::Args;
use p256::{ecdsa::VerifyingKey, pkcs8::DecodePublicKey};
use serde::Serialize;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file beside the reference values that names whose they are.
const PART: &str = "policy-part.yaml";

#[derive(Args)]
pub struct ToCorim {
    /// A node's policy (YAML), or files of reference values (JSON)
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// What the manifest is called, unique among its maker's; by default after the node or the first file
    #[arg(long)]
    id: Option<String>,
    /// Signs it with this P-256 key in PEM
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
    /// Who signs: a name that is written beside the signature
    #[arg(long, value_name = "NAME", default_value = "ima-cgpath", requires = "key")]
    signer: String,
    /// Where to write it; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args)]
pub struct FromCorim {
    /// The CoRIM: signed (tag 18) or unsigned (tag 501)
    corim: PathBuf,
    /// The signer's P-256 public key in PEM: the signature must be by it
    #[arg(
        long,
        value_name = "PEM",
        required_unless_present = "dangerous_no_signature",
        conflicts_with = "dangerous_no_signature"
    )]
    key: Option<PathBuf>,
    /// Takes an unsigned manifest, and a signed one without checking it: who can change the file changes the
    /// policy
    #[arg(long)]
    dangerous_no_signature: bool,
    /// The folder for the reference values and the policy's part; made where it is not there
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
}

fn failure(file: &Path, error: &corim::Error) -> Failure {
    use corim::Error as E;
    let kind = match error {
        E::Incomplete { .. } => "incomplete",
        E::Limit { .. } => "limit",
        E::Unsupported { .. } => "unsupported",
        E::Signature(_) => "signature",
        E::NotValid { .. } => "expired",
        E::Empty(_) => "empty",
        _ => "malformed",
    };
    let name = escape(file.as_os_str().as_bytes());
    Failure::new(kind, format!("{name}: {}", escape(error.to_string().as_bytes())))
}

/// Reference values alone, which nobody is named for.
fn values(files: &[PathBuf], id: Option<String>) -> Result<Manifest, Failure> {
    let references = files
        .iter()
        .map(|path| super::reference(path))
        .collect::<Result<Vec<Reference>, _>>()?;
    let first = references
        .first()
        .map(|r| r.source.name.as_str())
        .unwrap_or_default();
    Ok(Manifest {
        id: id.unwrap_or_else(|| format!("urn:ima-cgpath:references:{first}")),
        references,
        ..Manifest::default()
    })
}

/// Whether a file begins as JSON does.
fn is_json(path: &Path) -> Result<bool, Failure> {
    let begin = read_bounded(path, 63).map_err(|e| Failure::file(path, &e))?;
    Ok(begin.trim_ascii_start().first() == Some(&b'{'))
}

impl ToCorim {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let key = self.key.as_deref().map(input::signing_key).transpose()?;
        let policies = self
            .input
            .iter()
            .map(|path| Ok(!is_json(path)?))
            .collect::<Result<Vec<bool>, Failure>>()?;
        let (manifest, mut left_out) = match (&self.input[..], policies.contains(&true)) {
            (files, false) => (values(files, self.id)?, Vec::new()),
            ([path], true) => {
                let policy = load(path)?;
                let id = self
                    .id
                    .unwrap_or_else(|| format!("urn:ima-cgpath:node:{}", policy.file.node));
                Manifest::of_policy(id, &policy)
            }
            _ => {
                let text =
                    "a node's policy names its reference files: give it alone, or files of reference values";
                return Err(Failure::new("usage", text));
            }
        };
        let (mut bytes, no_form) = corim::write(&manifest).map_err(|e| failure(&self.input[0], &e))?;
        left_out.extend(no_form);
        if let Some(key) = &key {
            bytes = corim::sign(&bytes, &self.signer, key).map_err(|e| failure(&self.output, &e))?;
        }
        if self.output == Path::new("-") {
            out.raw(&bytes)?;
            for what in &left_out {
                eprintln!("left out: {}", escape(what.as_bytes()));
            }
            return Ok(Status::Clean);
        }
        input::replace(&self.output, &bytes)?;
        let name = escape(self.output.as_os_str().as_bytes());
        if out.json() {
            #[derive(Serialize)]
            struct Written<'a> {
                output: &'a str,
                id: &'a str,
                signed: bool,
                references: usize,
                pods: usize,
                bytes: usize,
                left_out: &'a [String],
            }
            out.object(&Written {
                output: &name,
                id: &manifest.id,
                signed: key.is_some(),
                references: manifest.references.len(),
                pods: manifest.pods.len(),
                bytes: bytes.len(),
                left_out: &left_out,
            })?;
            return Ok(Status::Clean);
        }
        out.line(format_args!(
            "{name}: {}, {} sets of reference values, {} pods, {}",
            escape(manifest.id.as_bytes()),
            manifest.references.len(),
            manifest.pods.len(),
            if key.is_some() { "signed" } else { "not signed" }
        ))?;
        for what in &left_out {
            let text = out.paint(Colour::Yellow, "left out");
            out.line(format_args!("{text}: {}", escape(what.as_bytes())))?;
        }
        Ok(Status::Clean)
    }
}

impl FromCorim {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let key = self.key.as_deref().map(public_key).transpose()?;
        let trust = match &key {
            Some(key) => Trust::Key(key),
            None => Trust::DangerousNone,
        };
        let bytes =
            read_bounded(&self.corim, MAX_CORIM_LEN as u64).map_err(|e| Failure::file(&self.corim, &e))?;
        let read = corim::read(&bytes, trust, input::now()?).map_err(|e| {
            let failure = failure(&self.corim, &e);
            match e {
                corim::Error::Signature(_) => {
                    failure.hint("--key takes the signer's public key in PEM; `openssl pkey -pubout`")
                }
                _ => failure,
            }
        })?;
        let manifest = &read.manifest;
        fs::create_dir_all(&self.output).map_err(|e| Failure::file(&self.output, &e))?;
        let mut names = Vec::new();
        for (n, reference) in manifest.references.iter().enumerate() {
            let name = format!("{:03}-{}.json", n + 1, slug(&reference.source.name));
            let mut json = Vec::new();
            reference.write_json(&mut json)?;
            if json.len() > MAX_REFERENCE_LEN {
                let text = format!("{name}: {} bytes, the limit is {MAX_REFERENCE_LEN}", json.len());
                return Err(Failure::new("limit", text));
            }
            // What is written is what a policy would read.
            Reference::from_json(&name, &json).map_err(|e| refused(&e))?;
            input::replace(&self.output.join(&name), &json)?;
            names.push(name);
        }
        let part = manifest.policy_part(&names);
        if !part.is_empty() {
            input::replace(&self.output.join(PART), part.as_bytes())?;
        }
        let folder = escape(self.output.as_os_str().as_bytes());
        if out.json() {
            #[derive(Serialize)]
            struct Written<'a> {
                output: &'a str,
                id: &'a str,
                node: &'a Option<String>,
                signer: &'a Option<String>,
                references: &'a [String],
                policy_part: Option<&'static str>,
                notes: &'a [String],
            }
            out.object(&Written {
                output: &folder,
                id: &manifest.id,
                node: &manifest.node,
                signer: &read.signer,
                references: &names,
                policy_part: (!part.is_empty()).then_some(PART),
                notes: &read.notes,
            })?;
            return Ok(Status::Clean);
        }
        let signer = match &read.signer {
            Some(signer) => format!("signed as {:?}", escape(signer.as_bytes())),
            None => out.paint(Colour::Yellow, "no signature was checked"),
        };
        out.line(format_args!("{}: {signer}", escape(manifest.id.as_bytes())))?;
        for note in &read.notes {
            out.line(format_args!("  {}", escape(note.as_bytes())))?;
        }
        for (name, reference) in names.iter().zip(&manifest.references) {
            let learned = if reference.learned { ", learned" } else { "" };
            let paths = count(reference.files.len(), "path");
            out.line(format_args!("{folder}/{name}: {paths}{learned}"))?;
        }
        if part.is_empty() {
            out.line("it names no node and no pod: nothing but values")?;
        } else {
            out.line(format_args!(
                "{folder}/{PART}: whose they are, to follow the rest of a node's policy"
            ))?;
        }
        Ok(Status::Clean)
    }
}

/// What of a name can stand in a file's name.
fn slug(name: &str) -> String {
    let kept = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let slug: String = kept.take(64).collect();
    slug.trim_matches('-').to_owned()
}

fn public_key(path: &Path) -> Result<VerifyingKey, Failure> {
    let pem = read_bounded(path, 64 * 1024).map_err(|e| Failure::file(path, &e))?;
    let text = core::str::from_utf8(&pem).unwrap_or_default();
    VerifyingKey::from_public_key_pem(text).map_err(|e| {
        let name = escape(path.as_os_str().as_bytes());
        Failure::new("key", format!("{name}: not a P-256 public key in PEM: {e}"))
            .hint("make it with `openssl pkey -in key.pem -pubout`")
    })
}

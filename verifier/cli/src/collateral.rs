//! `cgpath collateral fetch`: what quotes of a kind of platform are verified with, from Intel's service or a
//! cache of it.
//!
//! Promise: signed parts are kept byte for byte as they came, and a file is written only if it reads as
//! collateral. Nothing is believed here: what was fetched holds by its own signatures, which an appraisal
//! checks. Not here: appraisal, which never asks a network.

use crate::input;
use crate::output::{Failure, Output, Status, escape};
use bytes::Bytes;
use cgpath_appraisal::text::{library_message, utc};
use cgpath_appraisal::{Collateral, MAX_COLLATERAL_LEN, PlatformKind};
use cgpath_net::{Endpoint, Tls};
use clap::{Args, Subcommand, ValueEnum};
use http_body_util::Empty;
use hyper::{HeaderMap, Request};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Intel's service.
const INTEL: &str = "https://api.trustedservices.intel.com";
/// Where Intel's root says that its list of revoked certificates is.
const ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";
/// The interface that both speak. Source: Intel's API documentation of the Provisioning Certification
/// Service, v4.
const SGX: &str = "sgx/certification/v4";
const TDX: &str = "tdx/certification/v4";
/// How long until one answer is there.
const PATIENCE: Duration = Duration::from_secs(60);

/// `cgpath collateral`.
#[derive(Subcommand)]
pub enum CollateralCommand {
    Fetch(Fetch),
}

impl CollateralCommand {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// A service that does not answer, and what is no collateral.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        match self {
            CollateralCommand::Fetch(fetch) => fetch.run(out),
        }
    }
}

/// Which of Intel's CAs certified a platform.
#[derive(Clone, Copy, ValueEnum)]
enum Pck {
    Platform,
    Processor,
}

impl Pck {
    fn name(self) -> &'static str {
        match self {
            Pck::Platform => "platform",
            Pck::Processor => "processor",
        }
    }
}

/// Fetches collateral for quotes of trust domains, a file for each kind of platform
#[derive(Args)]
#[command(
    after_help = "The file is FMSPC-DAY.json by the day of its issue, so that older ones stay: kept evidence \
                  is appraised with the collateral of its own time. It belongs into the folder `collateral` \
                  of a service's store, or goes to --collateral.\n\n\
                  Examples:\n  \
                  cgpath collateral fetch evidence.cbor -o /var/lib/cgpath/store/collateral\n  \
                  cgpath collateral fetch --fmspc b0c06f000000 --pck platform --url \
                  https://pccs.example:8081 --ca pccs.pem"
)]
pub struct Fetch {
    /// Evidence with a trust domain's quote, which names its platform's kind
    #[arg(
        value_name = "EVIDENCE",
        required_unless_present = "fmspc",
        conflicts_with = "fmspc"
    )]
    evidence: Option<PathBuf>,
    /// The kind of platform, 12 hex digits
    #[arg(long, value_name = "HEX", value_parser = fmspc, requires = "pck")]
    fmspc: Option<[u8; 6]>,
    /// Which CA certified such platforms
    #[arg(long, value_enum, requires = "fmspc")]
    pck: Option<Pck>,
    /// The service: Intel's, or one that caches it
    #[arg(long, value_name = "URL", default_value = INTEL)]
    url: String,
    /// Where the root's list of revoked certificates is, in DER, or in hex as caches have it
    #[arg(long, value_name = "URL", default_value = ROOT_CRL)]
    root_crl: String,
    /// CAs of the services' certificates (PEM)
    #[arg(long, value_name = "FILE", default_value = crate::SYSTEM_CA)]
    ca: PathBuf,
    /// The directory that the file goes to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

fn fmspc(text: &str) -> Result<[u8; 6], String> {
    let bytes = hex::decode(text).ok();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| "not 12 hex digits".to_owned())
}

/// A file of collateral.
#[derive(Serialize)]
struct File<'a> {
    pck_crl_issuer_chain: String,
    root_ca_crl: String,
    pck_crl: String,
    tcb_info_issuer_chain: String,
    tcb_info: &'a str,
    tcb_info_signature: &'a str,
    qe_identity_issuer_chain: String,
    qe_identity: &'a str,
    qe_identity_signature: &'a str,
}

/// What is signed, byte for byte, and its signature in hex.
#[derive(Deserialize)]
struct Signed<'a> {
    #[serde(borrow, alias = "tcbInfo", alias = "enclaveIdentity")]
    signed: &'a RawValue,
    signature: &'a str,
}

/// What was written.
#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    fmspc: String,
    /// From when until when it says that it holds, unix seconds.
    from: u64,
    until: u64,
    evaluation: u32,
}

/// One answer.
struct Answer {
    url: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn bad(&self, why: &str) -> Failure {
        Failure::new(
            "answer",
            format!("{}: {}", escape(self.url.as_bytes()), escape(why.as_bytes())),
        )
    }

    /// A chain of certificates, which comes in a header as a URL has it.
    fn chain(&self, names: &[&str]) -> Result<String, Failure> {
        let found = names.iter().find_map(|name| self.headers.get(*name));
        let found = found.ok_or_else(|| self.bad(&format!("no header {}", names.join(" or "))))?;
        let chain = from_url(found.as_bytes()).filter(|text| text.contains("BEGIN CERTIFICATE"));
        chain.ok_or_else(|| self.bad("a header that is no chain of certificates"))
    }

    fn signed(&self) -> Result<Signed<'_>, Failure> {
        serde_json::from_slice(&self.body).map_err(|e| self.bad(&library_message(&e)))
    }

    /// A list of revoked certificates as hex, whichever way it came.
    fn list(&self) -> String {
        let text = core::str::from_utf8(&self.body).map(str::trim);
        let is_hex = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.ok().filter(is_hex) {
            Some(text) => text.to_ascii_lowercase(),
            None => hex::encode(&self.body),
        }
    }
}

/// The text that a part of a URL stands for; `None` where it is none (RFC 3986, section 2.1).
fn from_url(bytes: &[u8]) -> Option<String> {
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            text.extend(hex::decode(digits).ok()?);
            rest = behind;
        } else {
            text.push(*first);
        }
    }
    String::from_utf8(text).ok()
}

impl Fetch {
    fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let kind = self.kind()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::new("io", e.to_string()))?;
        let (bytes, collateral) = runtime.block_on(self.fetch(kind))?;
        if collateral.fmspc() != kind.fmspc {
            let text = format!("TCB info of FMSPC {}", hex::encode(collateral.fmspc()));
            return Err(Failure::new("answer", text).hint("another service (--url)"));
        }
        let issued = utc(collateral.issued());
        let day = issued.split(' ').next().unwrap_or_default();
        let file = self
            .output
            .join(format!("{}-{day}.json", hex::encode(kind.fmspc)));
        input::replace(&file, &bytes)?;
        let (from, until) = collateral.window();
        if out.json() {
            out.object(&Written {
                file: &file,
                fmspc: hex::encode(kind.fmspc),
                from,
                until,
                evaluation: collateral.number(),
            })?;
        } else {
            let shown = escape(file.as_os_str().as_encoded_bytes());
            out.line(format_args!(
                "{shown}: from {} until {} UTC",
                utc(from),
                utc(until)
            ))?;
        }
        Ok(Status::Clean)
    }

    fn kind(&self) -> Result<PlatformKind, Failure> {
        if let (Some(fmspc), Some(pck)) = (self.fmspc, self.pck) {
            let ca = pck.name();
            return Ok(PlatformKind { fmspc, ca });
        }
        let evidence = input::evidence(self.evidence.as_deref().unwrap_or(Path::new("-")))?;
        let quote = evidence.quote.td.as_ref();
        let quote =
            quote.ok_or_else(|| Failure::new("evidence", "there is no trust domain's quote in it"))?;
        PlatformKind::of_quote(&quote.outblob)
            .map_err(|e| Failure::new("quote", escape(e.to_string().as_bytes())))
    }

    async fn fetch(&self, kind: PlatformKind) -> Result<(Vec<u8>, Collateral), Failure> {
        let base = self.url.trim_end_matches('/');
        let platform = hex::encode(kind.fmspc);
        let revoked = format!("{base}/{SGX}/pckcrl?ca={}&encoding=der", kind.ca);
        let revoked = self.get(&revoked).await?;
        let info = self.get(&format!("{base}/{TDX}/tcb?fmspc={platform}")).await?;
        let identity = self.get(&format!("{base}/{TDX}/qe/identity")).await?;
        let root = self.get(&self.root_crl).await?;
        let (signed_info, signed_identity) = (info.signed()?, identity.signed()?);
        let file = File {
            pck_crl_issuer_chain: revoked.chain(&["SGX-PCK-CRL-Issuer-Chain"])?,
            root_ca_crl: root.list(),
            pck_crl: revoked.list(),
            tcb_info_issuer_chain: info.chain(&["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"])?,
            tcb_info: signed_info.signed.get(),
            tcb_info_signature: signed_info.signature,
            qe_identity_issuer_chain: identity.chain(&["SGX-Enclave-Identity-Issuer-Chain"])?,
            qe_identity: signed_identity.signed.get(),
            qe_identity_signature: signed_identity.signature,
        };
        let bytes = serde_json::to_vec(&file).map_err(|e| Failure::new("encoding", e.to_string()))?;
        let collateral = Collateral::from_json(&bytes)
            .map_err(|e| Failure::new("answer", escape(e.to_string().as_bytes())))?;
        Ok((bytes, collateral))
    }

    async fn get(&self, url: &str) -> Result<Answer, Failure> {
        let failed = |why: String| Failure::new("service", escape(why.as_bytes()));
        let service = Endpoint::https(url, Tls::http1(&self.ca)).map_err(|e| failed(e.to_string()))?;
        let request = Request::get(service.path()).header("host", service.authority());
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|e| failed(e.to_string()))?;
        let asked = async {
            let mut connection = service.connect().await?;
            let response = connection.send_request(request).await;
            let response = response.map_err(|error| service.broken(error))?;
            let headers = response.headers().clone();
            let (status, body) = service.read(response, MAX_COLLATERAL_LEN).await?;
            Ok::<_, cgpath_net::NetError>((status, headers, body))
        };
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        let (status, headers, body) = asked
            .map_err(|_| failed(format!("{url}: no answer within {} s", PATIENCE.as_secs())))?
            .map_err(|e| failed(e.to_string()))?;
        if !status.is_success() {
            return Err(failed(format!("{url} answered {status}"))
                .hint("the platform's kind (--fmspc, --pck), and the service (--url)"));
        }
        Ok(Answer {
            url: url.to_owned(),
            headers,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_kept_byte_for_byte() {
        let text = r#"{"tcbInfo":{"b": 1,  "a":[2]},"signature":"00ff"}"#;
        let signed: Signed<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(signed.signed.get(), r#"{"b": 1,  "a":[2]}"#);
        assert_eq!(signed.signature, "00ff");
    }

    #[test]
    fn a_header_is_read_as_a_url_has_it_and_half_an_escape_is_refused() {
        assert_eq!(
            from_url(b"-----BEGIN%20X%0A+").as_deref(),
            Some("-----BEGIN X\n+")
        );
        for broken in [&b"%"[..], b"a%4", b"%zz", b"%ff"] {
            assert_eq!(from_url(broken), None, "{broken:?}");
        }
    }
}

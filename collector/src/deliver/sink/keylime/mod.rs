//! The node as an agent of Keylime in push mode: registered at its registrar, attesting to its verifier.
//!
//! Promises: the TPM is asked through the collector's own thread; only what was offered is given, whatever is
//! asked for; nothing waits on disk, since each quote is for a challenge. Keylime appraises the node as a
//! whole: what belongs to which pod is not stated. Not here: how long to wait and what is shown of it all
//! (see [`run`]).
//!
//! Source: Keylime 7.14.3, keylime/web/verifier/attestation_controller.py, which draws the exchange.

mod boot_time;
mod http;
mod log;
mod registrar;
mod run;
mod session;
pub mod wire;

pub use boot_time::Boot;
pub(super) use run::Live;

use crate::config::Sink;
use crate::sources::list::ListError;
use crate::tpm::{KeyKind, TpmAccess, TpmError};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cgpath_evidence::list::Unsafe;
use cgpath_net::NetError;
use http::{Ask, Service};
use hyper::Method;
use log::AsciiList;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::{
    Acknowledged, Capabilities, CertificationKey, Chosen, Collected, Document, Evidence, EvidenceRequested,
    JSON_API, LogCapabilities, LogData, QuoteCapabilities, QuoteData, Supported, SystemInfo,
};

/// The bank that is quoted: that of the key's own hash algorithm, since Keylime looks for the registers
/// there.
const BANK: &str = "sha256";
/// Registers that can be asked for. TPM 2.0 PC Client Platform TPM Profile, 4.6.2.
const REGISTERS: u8 = 24;

/// The kinds of evidence that can be had.
const QUOTE: &str = "tpm_quote";
const BOOT_LOG: &str = "uefi_log";
const LIST: &str = "ima_log";

/// Why there was no attestation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeylimeError {
    /// It cannot be reached, or the connection broke.
    #[error("{what} {source}")]
    Net {
        /// `registrar` or `verifier`.
        what: &'static str,
        /// Why not.
        source: NetError,
    },
    /// It took too long.
    #[error("the {what} did not answer within {seconds} s")]
    Timeout {
        /// `registrar` or `verifier`.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// It refused.
    #[error("the {what} answered {status}: {message}")]
    Refused {
        /// `registrar` or `verifier`.
        what: &'static str,
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
        /// Seconds before which it wants to hear nothing.
        retry_after: Option<u64>,
    },
    /// Its answer is not what it should be.
    #[error("the {what}'s answer cannot be understood: {why}")]
    Answer {
        /// `registrar` or `verifier`.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// The verifier does not take the key for this agent's.
    #[error(
        "the verifier does not know this agent with this key: was it added there (keylime_tenant -c add), \
         with the key that the registrar has, and is that an RSA key (tpm.key = \"rsa-2048\")? Keylime \
         7.14.3 opens sessions for no other"
    )]
    Stranger,
    /// It asks for what was not offered.
    #[error("the verifier asks for a {what} that was not offered: {asked}")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
        /// What it asked for.
        asked: String,
    },
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The collector is ending.
    #[error("the collector is ending")]
    Ending,
    /// The measurement list.
    #[error(transparent)]
    List(#[from] ListError),
    /// An entry has no ASCII form.
    #[error("{0}; it cannot be sent to Keylime")]
    Line(#[from] Unsafe),
    /// Lines are no UTF-8.
    #[error("a name in the list is no UTF-8 ({at} bytes after entry {after}); it cannot be sent to Keylime")]
    Text {
        /// The first entry that is kept.
        after: u64,
        /// Where behind it.
        at: usize,
    },
    /// More than one request can hold.
    #[error(
        "the list has more than {limit} MiB of lines from entry {offset} on: more than Keylime takes at once"
    )]
    TooLong {
        /// The first entry that is wanted.
        offset: u64,
        /// The limit.
        limit: usize,
    },
    /// The boot's time cannot be kept.
    #[error("{path}: {source}")]
    BootTime {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl KeylimeError {
    /// Whether another session may help, or says what is wrong: the token ended, or the agent was removed.
    fn is_session(&self) -> bool {
        matches!(
            self,
            KeylimeError::Refused {
                what: "verifier",
                status: 401 | 403 | 404,
                ..
            }
        )
    }

    /// Seconds before which it is of no use to try again.
    fn retry_after(&self) -> Option<u64> {
        match self {
            KeylimeError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The first entry of the list.
    pub offset: u64,
    /// Entries.
    pub entries: u64,
    /// Seconds before which the verifier takes no other attestation.
    pub next: Option<u64>,
}

/// One agent.
pub struct Agent<T> {
    id: String,
    registrar: Service,
    verifier: Service,
    tpm: T,
    boot: Boot,
    list: Option<AsciiList>,
    is_registered: bool,
    token: Option<String>,
}

impl<T: TpmAccess> Agent<T> {
    /// An agent as `sink` says, with the list at `list` (empty: the kernel's).
    ///
    /// # Errors
    /// [`KeylimeError::Net`].
    pub fn new(sink: &Sink, node: &str, list: &Path, boot: Boot, tpm: T) -> Result<Agent<T>, KeylimeError> {
        let (registrar, verifier) = services(sink)?;
        Ok(Agent {
            id: sink.agent_id(node).to_owned(),
            registrar,
            verifier,
            tpm,
            boot,
            list: Some(AsciiList::new(list.to_owned())),
            is_registered: false,
            token: None,
        })
    }

    /// Registers, opens a session and attests, each where it is needed.
    ///
    /// # Errors
    /// See [`KeylimeError`].
    pub async fn round(&mut self) -> Result<Sent, KeylimeError> {
        if !self.is_registered {
            registrar::register(&self.registrar, &self.id, &self.tpm).await?;
            self.is_registered = true;
        }
        // A token ends unannounced: then once more with another.
        if let Some(token) = self.token.take() {
            match self.attest(&token).await {
                Err(error) if error.is_session() => {
                    tracing::debug!(%error, "another session with Keylime's verifier is needed");
                }
                done => {
                    self.token = Some(token);
                    return done;
                }
            }
        }
        let token = match session::open(&self.verifier, &self.id, &self.tpm).await {
            Ok(token) => token,
            Err(error) => {
                // Perhaps the registrar does not know it any more, either.
                self.is_registered &= !matches!(error, KeylimeError::Stranger);
                return Err(error);
            }
        };
        let sent = self.attest(&token).await;
        self.token = Some(token);
        sent
    }

    /// Both phases of one attestation: what can be had, then what was chosen of it.
    async fn attest(&mut self, token: &str) -> Result<Sent, KeylimeError> {
        let entries = self.with_list(AsciiList::poll).await?;
        let (key, ak) = self.tpm.with(|tpm| Ok((tpm.key_kind(), tpm.ak_sized()))).await?;
        let capabilities = Document::new("attestation", self.capabilities(key, &ak, entries));
        let path = format!("/v3.0/agents/{}/attestations", self.id);
        let asked: Document<EvidenceRequested> = self
            .verifier
            .send(Ask {
                method: Method::POST,
                path: &path,
                media: JSON_API,
                token: Some(token),
                body: &capabilities,
            })
            .await?;
        let mut sent = Sent {
            offset: 0,
            entries: 0,
            next: None,
        };
        let requested = asked.data.attributes.evidence_requested;
        // Before the list is read, wherever it is asked for: a list may hold more than its quote covers, and
        // never less.
        let mut quote = match requested.iter().find(|one| one.evidence_type == QUOTE) {
            Some(one) => Some(self.quote(&one.chosen_parameters).await?),
            None => None,
        };
        let mut collected = Vec::new();
        for one in requested {
            let (kind, chosen) = (one.evidence_type, one.chosen_parameters);
            // One of each at most: else one answer could keep the node busy.
            if collected.iter().any(|evidence| kind_of(evidence) == kind) {
                return Err(KeylimeError::Unknown {
                    what: "second piece of evidence",
                    asked: kind,
                });
            }
            let evidence = match kind.as_str() {
                QUOTE => quote.take(),
                BOOT_LOG => self.boot_log(),
                LIST => {
                    sent.offset = chosen.starting_offset.unwrap_or(0);
                    let evidence;
                    (evidence, sent.entries) = self.list_since(&chosen).await?;
                    Some(evidence)
                }
                _ => None,
            };
            collected.push(evidence.ok_or(KeylimeError::Unknown {
                what: "kind of evidence",
                asked: kind,
            })?);
        }
        let evidence = Document::new(
            "attestation",
            Collected {
                evidence_collected: collected,
            },
        );
        let acknowledged: Acknowledged = self
            .verifier
            .send(Ask {
                method: Method::PATCH,
                path: &format!("{path}/latest"),
                media: JSON_API,
                token: Some(token),
                body: &evidence,
            })
            .await?;
        sent.next = acknowledged.meta.seconds_to_next_attestation;
        // An earlier offset may still be asked for, after a failure: then the list is read again.
        let offset = sent.offset;
        self.with_list(move |list| {
            list.forget(offset);
            Ok(())
        })
        .await?;
        Ok(sent)
    }

    fn capabilities(&self, key: KeyKind, ak: &[u8], entries: u64) -> Capabilities {
        let (algorithm, size, scheme) = match key {
            KeyKind::EccP256 => ("ecc", 256, "ecdsa"),
            KeyKind::Rsa2048 => ("rsa", 2048, "rsassa"),
        };
        let quote = Supported::Certification {
            evidence_type: QUOTE.into(),
            capabilities: QuoteCapabilities {
                component_version: "2.0".into(),
                hash_algorithms: vec![BANK.into()],
                signature_schemes: vec![scheme.into()],
                available_subjects: BTreeMap::from([(BANK.into(), (0..REGISTERS).collect())]),
                certification_keys: vec![CertificationKey {
                    key_class: "asymmetric".into(),
                    key_algorithm: algorithm.into(),
                    key_size: size,
                    server_identifier: "ak".into(),
                    local_identifier: "ak".into(),
                    public: encode(ak),
                }],
            },
        };
        let log = |kind: &str, version: Option<&str>, count, grows, format: &str| Supported::Log {
            evidence_type: kind.into(),
            capabilities: LogCapabilities {
                evidence_version: version.map(Into::into),
                entry_count: count,
                supports_partial_access: grows,
                appendable: grows,
                formats: vec![format.into()],
            },
        };
        let boot = self.boot.facts.log.as_ref();
        let boot = boot.map(|_| log(BOOT_LOG, Some("2.1"), None, false, "application/octet-stream"));
        let list = log(LIST, None, Some(entries), true, "text/plain");
        Capabilities {
            evidence_supported: [Some(quote), boot, Some(list)].into_iter().flatten().collect(),
            system_info: SystemInfo {
                boot_time: self.boot.time.clone(),
            },
        }
    }

    async fn quote(&self, chosen: &Chosen) -> Result<Evidence, KeylimeError> {
        let challenge = chosen.challenge.as_deref().unwrap_or_default();
        let challenge = decode(&self.verifier, challenge)?;
        let registers = selected(chosen)?;
        let (quote, blob) = self
            .tpm
            .with(move |tpm| tpm.quote_registers(&challenge, &registers))
            .await?;
        Ok(Evidence::Certification {
            evidence_type: QUOTE.into(),
            data: QuoteData {
                subject_data: encode(&blob.to_bytes()),
                message: encode(&quote.attest),
                signature: encode(&quote.signature),
            },
        })
    }

    fn boot_log(&self) -> Option<Evidence> {
        let log = self.boot.facts.log.as_deref()?;
        Some(Evidence::Log {
            evidence_type: BOOT_LOG.into(),
            data: LogData {
                entries: encode(log),
                entry_count: None,
            },
        })
    }

    async fn list_since(&mut self, chosen: &Chosen) -> Result<(Evidence, u64), KeylimeError> {
        let offset = chosen.starting_offset.unwrap_or(0);
        let format = chosen.format.as_deref().unwrap_or("text/plain");
        if format != "text/plain" {
            return Err(KeylimeError::Unknown {
                what: "format",
                asked: format.to_owned(),
            });
        }
        // Fewer than there are would not fit the quote.
        if let Some(most) = chosen.entry_count {
            return Err(KeylimeError::Unknown {
                what: "number of entries",
                asked: most.to_string(),
            });
        }
        let (entries, count) = self.with_list(move |list| list.since(offset)).await?;
        let data = LogData {
            entries,
            entry_count: Some(count),
        };
        let evidence = Evidence::Log {
            evidence_type: LIST.into(),
            data,
        };
        Ok((evidence, count))
    }

    /// Works on the list where blocking is allowed.
    async fn with_list<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut AsciiList) -> Result<R, KeylimeError> + Send + 'static,
    ) -> Result<R, KeylimeError> {
        let mut list = self.list.take().ok_or(KeylimeError::Ending)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut list);
            (list, result)
        });
        let (list, result) = done.await.map_err(|_| KeylimeError::Ending)?;
        self.list = Some(list);
        result
    }
}

/// Registrar and verifier of a sink.
///
/// # Errors
/// [`KeylimeError::Net`].
fn services(sink: &Sink) -> Result<(Service, Service), KeylimeError> {
    let timeout = Duration::from_secs(sink.timeout);
    Ok((
        Service::new("registrar", &sink.registrar, &sink.ca, timeout)?,
        Service::new("verifier", &sink.to, &sink.ca, timeout)?,
    ))
}

/// The registers that are asked for, rising; they may be none.
///
/// # Errors
/// [`KeylimeError::Unknown`] for whatever was not offered.
fn selected(chosen: &Chosen) -> Result<Vec<u8>, KeylimeError> {
    let mut registers = Vec::new();
    for (bank, numbers) in &chosen.selected_subjects {
        let Some(numbers) = numbers.as_ref().filter(|numbers| !numbers.is_empty()) else {
            continue;
        };
        if bank != BANK {
            return Err(KeylimeError::Unknown {
                what: "bank",
                asked: bank.clone(),
            });
        }
        for number in numbers {
            let register = u8::try_from(*number).ok().filter(|n| *n < REGISTERS);
            let register = register.ok_or_else(|| KeylimeError::Unknown {
                what: "register",
                asked: number.to_string(),
            })?;
            registers.push(register);
        }
    }
    let hash = chosen.hash_algorithm.as_deref().unwrap_or(BANK);
    if hash != BANK {
        return Err(KeylimeError::Unknown {
            what: "hash algorithm",
            asked: hash.to_owned(),
        });
    }
    registers.sort_unstable();
    registers.dedup();
    Ok(registers)
}

fn kind_of(evidence: &Evidence) -> &str {
    match evidence {
        Evidence::Certification { evidence_type, .. } | Evidence::Log { evidence_type, .. } => evidence_type,
    }
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn decode(service: &Service, text: &str) -> Result<Vec<u8>, KeylimeError> {
    STANDARD
        .decode(text)
        .map_err(|e| service.answer(format!("a challenge is no base64: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(json: &str) -> Result<Vec<u8>, String> {
        selected(&serde_json::from_str(json).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn registers_and_algorithms_that_were_not_offered_are_not_quoted() {
        let good =
            r#"{"hash_algorithm":"sha256","selected_subjects":{"sha256":[10,0,10],"sha1":null,"sha384":[]}}"#;
        assert_eq!(registers(good).unwrap(), [0, 10]);
        assert_eq!(registers("{}").unwrap(), [0u8; 0]);
        for (asked, what) in [
            (r#"{"selected_subjects":{"sha1":[10]}}"#, "bank"),
            (r#"{"selected_subjects":{"sha256":[24]}}"#, "register"),
            (r#"{"selected_subjects":{"sha256":[266]}}"#, "register"),
            (r#"{"hash_algorithm":"sha1"}"#, "hash algorithm"),
        ] {
            let error = registers(asked).unwrap_err();
            assert!(error.contains(&format!("asks for a {what}")), "{asked}: {error}");
        }
    }
}

//! `cgpath watch`: verdicts live from a service's streams, and for a pod its proofs, checked here.
//!
//! Promises: a connection that breaks is made again and begins after the last event, so that nothing kept is
//! left out; a proof is called checked only if the tenant's own policy, key and verifier say so, and over the
//! reader's own nonce only if the quoted one commits to it. Not here: the rules (see
//! `cgpath_appraisal::tenant`), and what a line means (see `watch::lines`).

mod checker;
mod lines;

use crate::input;
use crate::output::{Colour, Failure, Output, Status, escape};
use bytes::Bytes;
use cgpath_appraisal::text::{foreign, library_message, utc};
use cgpath_appraisal::{PinnedKey, TdContext};
use cgpath_evidence::PodUid;
use cgpath_net::{Endpoint, NetError, Tls};
use cgpath_service::nonce;
use checker::{Checker, Proof};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use lines::{Lines, Received};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The service says something at least each 15 s.
const SILENCE: Duration = Duration::from_secs(60);
/// How long until a connection stands and is answered.
const CONNECT: Duration = Duration::from_secs(20);
/// The longest pause between two tries.
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A nonce of our own that no round answered for so long is asked for again: the service may have
/// forgotten it.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Answers that are no streams are read no further.
const MAX_ANSWER: usize = 64 << 20;

/// Shows verdicts live, as the service reaches them
#[derive(clap::Args)]
#[command(
    after_help = "With --pod, --policy, --ak or --node-key, and --verifier each event's proof is checked \
                  here, as `cgpath verify --tenant` does; without them it is not, and each line says so. \
                  Files of --collateral are read anew for each proof. A round's nonce is \
                  the service's; with --own-nonce it commits to one that is drawn here, so that nobody's \
                  word is needed for when it was made: the node's next round answers it.\n\n\
                  A connection that breaks is made again, and standard error says why; with --json as an \
                  object whose kind is `again`.\n\n\
                  Exit codes: 0 what was shown last is trusted, 1 it is not (--count), 2 unusable input.\n\n\
                  Examples:\n  \
                  cgpath watch --url https://verifier.example:8443 --ca ca.pem\n  \
                  cgpath watch --url https://verifier.example:8443 --ca ca.pem --pod 1f0a… --policy web.yaml \
                  --ak 000b3f… --verifier verdict.pub.pem --json"
)]
pub struct Watch {
    /// The service
    #[arg(long, value_name = "URL")]
    url: String,
    /// The CA of its certificate (PEM): ca.pem of its directory
    #[arg(long, value_name = "FILE", default_value = crate::SYSTEM_CA)]
    ca: PathBuf,
    /// A read token
    #[arg(long, value_name = "TOKEN", env = "CGPATH_READ_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Of this node alone
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Of this pod alone, with its proofs; without --node on whichever node it is
    #[arg(long, value_name = "UID", value_parser = crate::prove::uid)]
    pod: Option<PodUid>,
    /// The pod's policy
    #[arg(long, value_name = "FILE", requires_all = ["pod", "node_keys", "verifiers"])]
    policy: Option<PathBuf>,
    /// The node's attestation key: a TPMT_PUBLIC, TPM2B_PUBLIC or PEM file, or the key's fingerprint
    #[arg(
        long,
        value_name = "FILE|FINGERPRINT",
        requires = "policy",
        group = "node_keys"
    )]
    ak: Option<String>,
    /// In its place the key of a node without a TPM, in a trust domain: SHA-256 of its SEC1 compressed point
    #[arg(long, value_name = "HEX", requires = "policy", group = "node_keys")]
    node_key: Option<String>,
    /// Collateral for quotes of trust domains: JSON as PCCS clients write it; may be given again
    #[arg(long, value_name = "FILE", requires = "node_key")]
    collateral: Vec<PathBuf>,
    /// A full verifier whose signed result is believed: its public key in PEM; may be given again
    #[arg(long = "verifier", value_name = "FILE", requires = "policy")]
    verifiers: Vec<PathBuf>,
    /// Draws a nonce, has it answered by the node, and again: only rounds that answered one count
    #[arg(long, requires = "policy")]
    own_nonce: bool,
    /// Ends after so many verdicts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("{authority} answered {status}: {said}")]
    Status {
        authority: String,
        status: StatusCode,
        said: String,
    },
    #[error("the service was silent for too long")]
    Silent,
    #[error("the service's answer cannot be understood: {0}")]
    Answer(String),
    #[error("the stream ended")]
    Ended,
    /// A proof failed, and the service went on from there: the next one is asked for from where we are.
    #[error("the bundle does not begin where the last good one ended")]
    Elsewhere,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    /// The event: the nonce that the node answered.
    id: &'a str,
    verdict: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<&'a Proof>,
}

struct Watcher<'a> {
    watch: &'a Watch,
    service: Endpoint,
    checker: Option<Checker>,
    last: Option<String>,
    own: Option<Own>,
    /// The node that has the pod.
    node: Option<String>,
    shown: u64,
    /// Of these, those that count.
    counted: u64,
    trusted: bool,
}

/// A nonce that was drawn here.
struct Own {
    nonce: [u8; nonce::LEN],
    /// When it was asked for last.
    asked: Option<Instant>,
}

impl Own {
    fn draw() -> Result<Own, Failure> {
        let drawn = nonce::random();
        Ok(Own {
            nonce: drawn.map_err(|e| Failure::new("io", format!("drawing a random number: {e}")))?,
            asked: None,
        })
    }
}

impl Watch {
    /// The node's key that is pinned.
    fn keys(&self) -> Result<(PinnedKey, TdContext), Failure> {
        if let Some(ak) = &self.ak {
            return Ok((input::attestation_key(ak)?, TdContext::default()));
        }
        // What cannot be read ends this at once. It is read anew for each proof.
        input::collateral(&self.collateral)?;
        let td = TdContext {
            node_key: self.node_key.as_deref().map(input::node_key).transpose()?,
            collateral: Vec::new(),
        };
        Ok((PinnedKey::NoTpm, td))
    }

    /// Runs the subcommand.
    ///
    /// # Errors
    /// Input that cannot be used, and a service that refuses.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let service = Endpoint::https(&self.url, Tls::http1(&self.ca))
            .map_err(|e| Failure::new("service", escape(e.to_string().as_bytes())))?;
        let checker = match (&self.policy, self.pod) {
            (Some(policy), Some(pod)) => {
                let key = self.keys()?;
                Some(Checker::new(policy, key, pod, &self.verifiers, &self.collateral)?)
            }
            _ => None,
        };
        let mut watcher = Watcher {
            watch: &self,
            service,
            checker,
            last: None,
            own: self.own_nonce.then(Own::draw).transpose()?,
            node: None,
            shown: 0,
            counted: 0,
            trusted: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::new("io", e.to_string()))?;
        runtime.block_on(watcher.run(out))
    }
}

impl Watcher<'_> {
    /// Until as many as wanted were shown.
    async fn run(&mut self, out: &mut Output) -> Result<Status, Failure> {
        let mut failures = 0_u32;
        loop {
            let before = self.shown;
            let broken = match self.stream(out).await? {
                None => return Ok(Status::clean_if(self.trusted)),
                Some(broken) => broken,
            };
            failures = if self.shown > before { 1 } else { failures + 1 };
            if matches!(broken, Broken::Elsewhere) && failures == 1 {
                continue;
            }
            let text = match &broken {
                // What it said is escaped already.
                Broken::Status { .. } => broken.to_string(),
                _ => escape(broken.to_string().as_bytes()),
            };
            if let Broken::Status { status, .. } = broken {
                let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
                // What was shown once may come back; what never was there is a mistake.
                if refused || (self.last.is_none() && status == StatusCode::NOT_FOUND) {
                    return Err(Failure::new("refused", text)
                        .hint("--token TOKEN, --node and --pod as GET /v1/nodes shows them"));
                }
            }
            if self.last.is_none() && failures >= 3 {
                // The second where the CA that was given has the service's CA's name.
                let is_unknown_ca = ["UnknownIssuer", "BadSignature"]
                    .iter()
                    .any(|word| text.contains(word));
                let failure = Failure::new("service", text);
                return Err(if is_unknown_ca {
                    failure.hint("--ca FILE: ca.pem of the verifier's directory")
                } else {
                    failure
                });
            }
            let pause = Duration::from_millis(250 << failures.min(10)).min(LAST_PAUSE);
            let text = format!("{text}; again in {pause:?}");
            if out.json() {
                Failure::new("again", text).print(true, false);
            } else {
                eprintln!("{text}");
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<Request<Full<Bytes>>, Broken> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.service.authority())
            .header(header::USER_AGENT, concat!("cgpath/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.watch.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(last) = &self.last {
            request = request.header("last-event-id", last);
        }
        request
            .body(Full::default())
            .map_err(|e| Broken::Answer(e.to_string()))
    }

    async fn get(
        &self,
        connection: &mut SendRequest<Full<Bytes>>,
        path: &str,
    ) -> Result<Response<Incoming>, Broken> {
        self.send(connection, Method::GET, path).await
    }

    async fn send(
        &self,
        connection: &mut SendRequest<Full<Bytes>>,
        method: Method,
        path: &str,
    ) -> Result<Response<Incoming>, Broken> {
        let answer = connection
            .send_request(self.request(method, path)?)
            .await
            .map_err(|e| self.service.broken(e))?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let said = Limited::new(answer.into_body(), 4096)
            .collect()
            .await
            .map(|b| b.to_bytes());
        let said = why(&said.unwrap_or_default());
        Err(Broken::Status {
            authority: self.service.authority().to_owned(),
            status,
            said,
        })
    }

    /// The node that has the pod, by its newest verdict.
    async fn node_of(
        &self,
        connection: &mut SendRequest<Full<Bytes>>,
        pod: PodUid,
    ) -> Result<String, Broken> {
        let answer = self.get(connection, "/v1/nodes").await?;
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| Broken::Answer(e.to_string()))?.to_bytes();
        let nodes: Vec<Value> =
            serde_json::from_slice(&body).map_err(|e| Broken::Answer(library_message(&e)))?;
        let uid = pod.to_string();
        // A reader who sees everything gets `last.verdict.pods`, a reader with a scope `pods`.
        let has = |node: &&Value| {
            let pods = node.pointer("/last/verdict/pods").or_else(|| node.get("pods"));
            let mut pods = pods.and_then(Value::as_array).into_iter().flatten();
            pods.any(|pod| pod["uid"] == uid)
        };
        let newest = nodes
            .iter()
            .filter(has)
            .min_by_key(|node| node["age"].as_u64().unwrap_or(u64::MAX));
        let name = newest.and_then(|node| node.get("name").or_else(|| node.get("node"))?.as_str());
        name.map(str::to_owned).ok_or_else(|| Broken::Status {
            authority: self.service.authority().to_owned(),
            status: StatusCode::NOT_FOUND,
            said: format!("no node has a pod {uid} that this token may see"),
        })
    }

    /// Asks for the nonce of our own to be answered.
    async fn ask(&mut self) -> Result<(), Broken> {
        let (Some(own), Some(node), Some(pod)) = (&self.own, &self.node, self.watch.pod) else {
            return Ok(());
        };
        let base = self.service.base();
        let nonce = hex::encode(own.nonce);
        let path = format!("{base}/v1/nodes/{node}/pods/{pod}/challenge?nonce={nonce}");
        let mut connection = self.service.connect().await?;
        self.send(&mut connection, Method::POST, &path).await?;
        if let Some(own) = &mut self.own {
            own.asked = Some(Instant::now());
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<Response<Incoming>, Broken> {
        let mut connection = self.service.connect().await?;
        let base = self.service.base().to_owned();
        let path = match (&self.watch.node, self.watch.pod) {
            (None, None) => format!("{base}/v1/stream"),
            (Some(node), None) => format!("{base}/v1/nodes/{node}/stream"),
            (node, Some(pod)) => {
                let node = match node {
                    Some(node) => node.clone(),
                    None => self.node_of(&mut connection, pod).await?,
                };
                // Before the stream begins: the service may be another one, which knows nothing of it.
                self.node = Some(node.clone());
                self.ask().await?;
                if connection.ready().await.is_err() {
                    connection = self.service.connect().await?;
                }
                let from = self.checker.as_ref().map_or(0, Checker::followed);
                format!("{base}/v1/nodes/{node}/pods/{pod}/stream?from={from}")
            }
        };
        self.get(&mut connection, &path).await
    }

    /// One connection: why it ended, or `None` where all that was wanted was shown.
    async fn stream(&mut self, out: &mut Output) -> Result<Option<Broken>, Failure> {
        let mut body = match tokio::time::timeout(CONNECT, self.open()).await {
            Err(_) => return Ok(Some(Broken::Silent)),
            Ok(Err(broken)) => return Ok(Some(broken)),
            Ok(Ok(answer)) => answer.into_body(),
        };
        let mut lines = Lines::default();
        loop {
            let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
                Err(_) => return Ok(Some(Broken::Silent)),
                Ok(None) => return Ok(Some(Broken::Ended)),
                Ok(Some(Err(error))) => return Ok(Some(self.service.broken(error).into())),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            let events = match lines.take(&data) {
                Ok(events) => events,
                Err(why) => return Ok(Some(Broken::Answer(why))),
            };
            for event in events {
                if let Err(broken) = self.event(event, out)? {
                    return Ok(Some(broken));
                }
                if self.watch.count == Some(self.counted) {
                    return Ok(None);
                }
                let is_due = |own: &Own| own.asked.is_none_or(|asked| asked.elapsed() > ASK_AGAIN);
                if self.own.as_ref().is_some_and(is_due) {
                    match tokio::time::timeout(CONNECT, self.ask()).await {
                        Err(_) => return Ok(Some(Broken::Silent)),
                        Ok(Err(broken)) => return Ok(Some(broken)),
                        Ok(Ok(())) => {}
                    }
                }
            }
        }
    }

    /// Shows one event.
    fn event(&mut self, event: Received, out: &mut Output) -> Result<Result<(), Broken>, Failure> {
        let mut verdict: Value = match serde_json::from_str(&event.data) {
            Ok(verdict) => verdict,
            Err(error) => return Ok(Err(Broken::Answer(library_message(&error)))),
        };
        let proof = if self.watch.pod.is_some() {
            let object = verdict.as_object_mut();
            let bundle = object.and_then(|event| event.remove("bundle"));
            let bundle = bundle.as_ref().and_then(Value::as_str);
            let unproven = verdict.get("unproven").and_then(Value::as_str);
            let proof = match &mut self.checker {
                None => Proof::unchecked("no --policy, no --ak or --node-key, and no --verifier were given"),
                Some(checker) => match checker.check(
                    bundle,
                    unproven,
                    &event.id,
                    self.own.as_ref().map(|own| &own.nonce[..]),
                )? {
                    Some(proof) => proof,
                    None => return Ok(Err(Broken::Elsewhere)),
                },
            };
            Some(proof)
        } else {
            None
        };
        let counts = self.own.is_none() || proof.as_ref().is_some_and(Proof::is_over_own_nonce);
        if counts {
            self.trusted = trusted(&verdict) && proof.as_ref().is_none_or(Proof::holds);
            self.counted += 1;
            if self.own.is_some() {
                self.own = Some(Own::draw()?);
            }
        }
        if out.json() {
            out.object(&Line {
                id: &event.id,
                verdict: &verdict,
                proof: proof.as_ref(),
            })?;
        } else {
            out.line(line(&verdict, proof.as_ref(), out))?;
        }
        out.flush()?;
        self.last = Some(event.id);
        self.shown += 1;
        Ok(Ok(()))
    }
}

/// What an answer that is an error says: the service's own text of it, else all of it.
fn why(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let error = value.as_ref().and_then(|value| value.get("error")?.as_str());
    error.map_or_else(|| foreign(body), foreign)
}

/// Whether all that an event speaks of is trusted.
fn trusted(verdict: &Value) -> bool {
    let state = |value: &Value| value["state"] == "trusted";
    if let Some(all) = verdict.get("trusted").and_then(Value::as_bool) {
        return all;
    }
    let pods = verdict
        .get("pods")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let pods = pods.chain(verdict.get("pod"));
    state(verdict) && pods.into_iter().all(state)
}

/// One event for people.
fn line(verdict: &Value, proof: Option<&Proof>, out: &Output) -> String {
    let text = |value: &Value| escape(value.as_str().unwrap_or_default().as_bytes());
    // As JSON has them, all in small letters.
    let shown = |word: &str| match word {
        "trusted" => out.paint(Colour::Green, word),
        "untrusted" | "unknown" => out.paint(Colour::Red, word),
        _ => word.to_owned(),
    };
    let time = utc(verdict["time"].as_u64().unwrap_or(0));
    let node = text(&verdict["node"]);
    let whole = verdict.get("verdict").unwrap_or(verdict);
    let state = verdict
        .pointer("/verdict/node/state")
        .unwrap_or(&verdict["state"]);
    if let Some(pod) = verdict.get("pod") {
        let name = pod.get("name").map(text).unwrap_or_default();
        let proof = proof.map(|proof| format!("; proof: {proof}")).unwrap_or_default();
        let findings = pod["findings"].as_array().into_iter().flatten();
        let failing = findings.filter(|finding| finding["severity"] == "fail");
        let failing: Vec<String> = failing
            .map(|finding| format!(" [{} {}]", text(&finding["rule"]), text(&finding["text"])))
            .collect();
        return format!(
            "{time}  {node} {}  pod {} {name}: {}{}{proof}",
            shown(&text(state)),
            text(&pod["uid"]),
            shown(&text(&pod["state"])),
            failing.concat()
        );
    }
    let pods = whole["pods"].as_array().into_iter().flatten();
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for pod in pods {
        *counts.entry(text(&pod["state"])).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(state, n)| format!("{n} {}", shown(state)))
        .collect();
    format!(
        "{time}  {node} {}; pods: {}",
        shown(&text(state)),
        counts.join(", ")
    )
}

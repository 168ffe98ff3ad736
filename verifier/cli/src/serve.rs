//! `cgpath serve`: hands out nonces, takes evidence, keeps verdicts, shows them.
//!
//! One HTTPS listener, one directory. Nodes push: the service connects to nobody but the webhooks that it was
//! given. Not here: enrolment (see `node`).

use crate::output::{Failure, Output, Status, escape};
use cgpath_service::api::Settings;
use cgpath_service::listener::TlsError;
use cgpath_service::reappraisal::ReappraisalError;
use cgpath_service::run::{self, RunError};
use cgpath_service::setup::{self, SetupError};
use cgpath_service::store::{self, Store, StoreError};
use cgpath_service::webhook::WebhookError;
use cgpath_service::{STALE_AFTER, ingest};
use clap::Args;
use serde::Serialize;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;

/// Where the service listens by default.
const LISTEN: &str = "127.0.0.1:8443";

/// Takes evidence from nodes over HTTPS, appraises it, and shows the verdicts
#[derive(Args)]
#[command(after_help = "Examples:
  cgpath serve --init /var/lib/cgpath/store --name verifier.example --name 192.0.2.7
  cgpath serve /var/lib/cgpath/store --listen 0.0.0.0:8443
  cgpath serve /var/lib/cgpath/store --add-name verifier.new.example

Requests:
  POST /v1/nodes/NAME/nonce       {\"nonce\": hex, \"expires\": unix seconds}
  POST /v1/nodes/NAME/evidence    body: evidence as CBOR; the verdict as JSON
  GET  /v1/nodes/NAME/verdict     the last verdict
  GET  /v1/nodes/NAME/ear         the same as a signed attestation result (EAR, a JWT; key: verdict.pub.pem)
  GET  /v1/nodes/NAME/history     ?limit=N&before=ID
  GET  /v1/nodes                  all nodes with their last verdicts
  GET  /v1/revocations            ?since=ID&limit=N: nodes and pods that turned untrusted, the oldest first
  GET  /v1/nodes/NAME/pods/UID    one pod
  GET  …/stream                   each verdict as a server-sent event: /v1/stream, /v1/nodes/NAME/stream, and with its
                                  proof /v1/nodes/NAME/pods/UID/stream (cgpath watch reads them)
  GET  /v1/openapi.json           all of this for programs (OpenAPI 3.1)
  GET  /metrics                   for Prometheus
  GET  /                          a page with the current verdicts, and from there one of each node and each pod
  GET  /healthz                   ok

Readers (--readers FILE): who sees some pods alone, by namespaces of the policy's pod names, or by UIDs
  readers:
  - name: shop team
    token-sha256: …               printf %s TOKEN | sha256sum
    namespaces: [shop]")]
pub struct Serve {
    /// The verifier's directory: certificates, keys, store
    #[arg(required_unless_present = "store")]
    dir: Option<PathBuf>,
    /// The same as DIR, as `cgpath node` and `cgpath report` take it
    #[arg(long, value_name = "DIR", env = "CGPATH_STORE")]
    store: Option<PathBuf>,
    /// Makes the directory: a CA, a server certificate, keys, an empty store; prints what nodes need; does
    /// not serve
    #[arg(long)]
    init: bool,
    /// A complete store that is there already is kept as it is, and that is no error
    #[arg(long, requires = "init")]
    keep: bool,
    /// By what names and addresses nodes reach this machine, beside localhost, 127.0.0.1 and ::1 [default:
    /// the host name]
    #[arg(long = "name", value_name = "HOST-OR-IP", requires = "init", num_args = 1.., value_delimiter = ',')]
    names: Vec<String>,
    /// Adds names to the server's certificate, which is made anew by the same CA; a service that runs shows
    /// it at once; does not serve
    #[arg(long = "add-name", value_name = "HOST-OR-IP", conflicts_with = "init", num_args = 1..,
        value_delimiter = ',')]
    added: Vec<String>,
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = LISTEN)]
    listen: String,
    /// Who may read verdicts: those that show this token; without one this machine alone (and each proxy that
    /// runs here)
    #[arg(long, value_name = "TOKEN", env = "CGPATH_READ_TOKEN", hide_env_values = true)]
    read_token: Option<String>,
    /// This machine needs a token, too: without --read-token and --readers one is made and kept in
    /// DIR/read.token. Behind a proxy every stranger is this machine
    #[arg(long)]
    read_token_always: bool,
    /// More who may read, each with a token and a scope (YAML); from then on nobody reads without a token
    #[arg(long, value_name = "FILE")]
    readers: Option<PathBuf>,
    /// Nodes must show a certificate of this CA (PEM) whose DNS name is the node's name; readers need none
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// How long a nonce can be answered
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64)
        .range(5..=86_400))]
    nonce_lifetime: u64,
    /// Longest evidence
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64)
        .range(1..=512))]
    max_evidence: u64,
    /// How long evidence may take to arrive
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64)
        .range(1..=900))]
    upload_timeout: u64,
    /// Verdicts kept of each node
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32)
        .range(1..))]
    keep_verdicts: u32,
    /// Evidence kept in total; the last of each node is kept in any case
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    keep_evidence: u64,
    /// Memory that keeps what is known of nodes, so that a round costs what is new; of nodes beyond it all
    /// is appraised at each round
    #[arg(long, value_name = "MIB", default_value_t = ingest::followers::MEMORY as u64 >> 20,
        value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    follow_memory: u64,
    /// Age from which a verdict is shown as stale
    #[arg(long, value_name = "SECONDS", default_value_t = STALE_AFTER)]
    stale_after: u64,
    /// How long an attestation result (EAR) counts, from its verdict on [default: as --stale-after]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    ear_lifetime: Option<u64>,
    /// Who is sent each change of a verdict, as a signed CloudEvent: https://HOST/PATH; can be repeated
    #[arg(long = "webhook", value_name = "URL")]
    webhooks: Vec<String>,
    /// The CAs that webhooks' certificates are of (PEM)
    #[arg(long, value_name = "FILE", default_value = crate::SYSTEM_CA)]
    webhook_ca: PathBuf,
    /// Events that may wait for a webhook; of more the oldest are dropped, and one event says so
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(store::KEEP_CHANGES)))]
    webhook_queue: u32,
    /// What is logged to standard error: error, warn, info, debug, trace
    #[arg(long, value_name = "FILTER", env = "CGPATH_LOG", default_value = "info")]
    log: String,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let text = escape(error.to_string().as_bytes());
        match error {
            StoreError::NoStore(_) => {
                Failure::new("no-store", text).hint("cgpath serve --init DIR makes one")
            }
            StoreError::Exists(_) => Failure::new("exists", text),
            StoreError::Stopped(ref name) => {
                let hint = format!("cgpath node reactivate {name}");
                Failure::new("stopped", text).hint(hint)
            }
            StoreError::UnknownNode(_) => {
                Failure::new("unknown-node", text).hint("cgpath node list shows all")
            }
            StoreError::NodeExists(_) => Failure::new("node-exists", text)
                .hint("--replace gives it a new key or policy and keeps its verdicts"),
            StoreError::Io { ref error, .. } if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Failure::new("io", text).hint("the store belongs to the user that made it")
            }
            _ => Failure::new("store", text),
        }
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Failure {
        let text = escape(error.to_string().as_bytes());
        match error {
            SetupError::Store(error) => error.into(),
            SetupError::Complete(ref dir) => {
                let dir = escape(dir.as_os_str().as_encoded_bytes());
                let hint = format!("cgpath serve {dir} --add-name NAME adds a name to its certificate");
                Failure::new("exists", text).hint(hint)
            }
            SetupError::Exists(_) => Failure::new("exists", text)
                .hint("name a new or an empty directory; what an interrupted --init left can be removed"),
            SetupError::Name(_) => {
                Failure::new("name", text).hint("--name verifier.example or --name 192.0.2.7")
            }
            _ => Failure::new("setup", text),
        }
    }
}

impl From<ReappraisalError> for Failure {
    fn from(error: ReappraisalError) -> Failure {
        match error {
            ReappraisalError::Store(error) => error.into(),
            ReappraisalError::Key(error) => error.into(),
            other => Failure::new("store", escape(other.to_string().as_bytes())),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        let text = escape(error.to_string().as_bytes());
        match error {
            RunError::Store(error) | RunError::Webhook(WebhookError::Store(error)) => error.into(),
            RunError::Setup(error) => error.into(),
            RunError::ShortToken => Failure::new("usage", text).hint("openssl rand -hex 16 makes one"),
            RunError::Readers(_) => Failure::new("readers", text).hint("cgpath serve --help shows one"),
            RunError::Tls(TlsError::ClientCa { .. }) => Failure::new("certificate", text)
                .hint("--client-ca takes the certificates of CAs in PEM form"),
            RunError::Tls(_) => Failure::new("certificate", text)
                .hint("restore server.pem and server.key, or make a new directory with --init"),
            RunError::Webhook(WebhookError::Endpoint(_)) => {
                Failure::new("webhook", text).hint("--webhook https://HOST/PATH --webhook-ca FILE")
            }
            RunError::Busy(_) => Failure::new("busy", text),
            RunError::Lock { path, error } => Failure::file(&path, &error),
            RunError::Address { .. } => Failure::new("usage", text).hint("--listen 0.0.0.0:8443"),
            RunError::Listen { .. } => Failure::new("io", text)
                .hint("--listen takes an address of this machine; with port 0 it takes a free port"),
            RunError::System { .. } => Failure::new("io", text),
        }
    }
}

impl Serve {
    /// Makes the directory, or serves until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// A directory, address or certificate that cannot be used.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let dir = self.dir.as_ref().or(self.store.as_ref()).cloned();
        let dir =
            dir.ok_or_else(|| Failure::new("usage", "no directory is given").hint("cgpath serve DIR"))?;
        if self.init {
            self.init(&dir, out)
        } else if !self.added.is_empty() {
            let names = setup::add_names(&Store::open(&dir)?, &self.added, OffsetDateTime::now_utc())?;
            if out.json() {
                out.object(&serde_json::json!({ "names": names }))?;
            } else {
                out.line(format_args!("The certificate is for {}", names.join(", ")))?;
            }
            Ok(Status::Clean)
        } else {
            self.serve(&dir, out)
        }
    }

    fn init(self, dir: &Path, out: &mut Output) -> Result<Status, Failure> {
        let names = setup::names(&self.names);
        match setup::init(dir, &names, OffsetDateTime::now_utc()) {
            Err(SetupError::Complete(dir)) if self.keep => {
                if out.json() {
                    out.object(&serde_json::json!({ "kept": dir.display().to_string() }))?;
                } else {
                    out.line(format_args!(
                        "kept: {} has a store",
                        escape(dir.as_os_str().as_encoded_bytes())
                    ))?;
                }
                return Ok(Status::Clean);
            }
            made => made?,
        }
        let dir = fs::canonicalize(dir).map_err(|e| Failure::file(dir, &e))?;
        let port = self.listen.rsplit(':').next().unwrap_or("8443");
        // The name by which others most likely reach this machine.
        let host = names
            .iter()
            .rev()
            .find(|n| *n != "localhost" && !n.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()))
            .or(names.first())
            .map_or("localhost", String::as_str);
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let url = format!("https://{host}:{port}");
        let ca = dir.join(setup::CA);
        let verdict_key = dir.join(setup::VERDICT_PUBLIC);
        if out.json() {
            #[derive(Serialize)]
            struct Made<'a> {
                dir: &'a Path,
                names: &'a [String],
                url: &'a str,
                ca: &'a Path,
                verdict_key: &'a Path,
            }
            out.object(&Made {
                dir: &dir,
                names: &names,
                url: &url,
                ca: &ca,
                verdict_key: &verdict_key,
            })?;
            return Ok(Status::Clean);
        }
        let show = |path: &Path| escape(path.as_os_str().as_encoded_bytes());
        out.line(format_args!("Made {} for {}", show(&dir), names.join(", ")))?;
        out.line("")?;
        out.line("On each node:")?;
        out.line(format_args!(
            "  1. copy {} there, as /etc/ima-cgpath/verifier-ca.pem",
            show(&ca)
        ))?;
        out.line("  2. put into /etc/ima-cgpath/cgpathd.toml:")?;
        out.line("")?;
        out.line("[verifier]")?;
        out.line(format_args!("url = \"{url}\""))?;
        out.line("ca = \"/etc/ima-cgpath/verifier-ca.pem\"")?;
        out.line("")?;
        out.line("Here:")?;
        out.line(format_args!(
            "  cgpath node add NAME --ak FILE --policy FILE --store {}",
            show(&dir)
        ))?;
        out.line(format_args!(
            "  cgpath serve {} --listen ADDRESS:{port}",
            show(&dir)
        ))?;
        out.line("")?;
        out.line(format_args!(
            "To check signed verdicts one needs {}",
            show(&verdict_key)
        ))?;
        Ok(Status::Clean)
    }

    fn serve(self, dir: &Path, out: &mut Output) -> Result<Status, Failure> {
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log)
            .map_err(|e| Failure::new("usage", format!("--log {}: {e}", escape(self.log.as_bytes()))))?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
        let mebibytes = |count: u64| usize::try_from(count << 20).unwrap_or(usize::MAX);
        let options = run::ServiceOptions {
            dir: dir.to_owned(),
            listen: self.listen,
            read_token: self.read_token,
            read_token_always: self.read_token_always,
            readers: self.readers,
            client_ca: self.client_ca,
            nonce_lifetime: self.nonce_lifetime,
            settings: Settings {
                // At most 512 MiB: fits any usize.
                max_evidence: mebibytes(self.max_evidence),
                upload: Duration::from_secs(self.upload_timeout),
                stale_after: self.stale_after,
                ear_lifetime: self.ear_lifetime.unwrap_or(self.stale_after),
                webhooks: self.webhooks,
            },
            keep: store::Limits {
                verdicts: self.keep_verdicts,
                evidence_bytes: self.keep_evidence.saturating_mul(1024 * 1024),
            },
            follow_memory: mebibytes(self.follow_memory),
            webhook_ca: self.webhook_ca,
            webhook_queue: self.webhook_queue,
        };
        run::serve(&options, |address| announce(address, out))?;
        Ok(Status::Clean)
    }
}

/// The one line on standard output: scripts wait for it.
fn announce(address: SocketAddr, out: &mut Output) -> Result<(), Failure> {
    let url = format!("https://{address}");
    if out.json() {
        #[derive(Serialize)]
        struct Listening<'a> {
            listening: SocketAddr,
            url: &'a str,
            pid: u32,
        }
        out.object(&Listening {
            listening: address,
            url: &url,
            pid: std::process::id(),
        })?;
    } else {
        out.line(format_args!("listening on {url}"))?;
    }
    out.flush()
}

//! The service without its listener, for the fuzz targets: the bytes of a connection in, the bytes of the
//! answers out.
//!
//! Promise: requests are read by the same HTTP code, routes and limits as those of a connection, after its
//! TLS. One node is enrolled and was judged; readers have tokens. Not here: what must hold of the answers
//! (see `fuzz`).

use crate::api::readers::Readers;
use crate::api::{self, Access, App, Settings};
use crate::clock;
use crate::ingest::Appraiser;
use crate::listener::{self, Connection, Peer, Shown};
use crate::nonce::{KEY_LEN, Nonces};
use crate::policy_files;
use crate::store::{self, Store};
use axum::{Extension, Router};
use cgpath_testkit::{Actor, KeyKind, Node, pod};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// What the reader with everything shows.
pub const TOKEN: &str = "0123456789-token-of-the-operator";
/// The name of the judged node.
pub const NODE: &str = cgpath_testkit::NODE;
/// A pod's name in its policy, which nobody learns without the token.
pub const SECRET: &str = "shop/unknown-to-strangers";

/// Answers are looked at up to here.
const MAX_ANSWER: u64 = 1 << 20;
/// A stream of events does not end: after so long without a byte it is taken as it is.
const SILENCE: Duration = Duration::from_millis(20);
/// Every other answer ends, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(180);
const STREAM: &[u8] = b"text/event-stream";
const LIFETIME: u64 = 1 << 32;

/// A service that keeps what it keeps in a folder.
pub struct Service {
    runtime: Runtime,
    app: Router,
}

impl Service {
    /// The token, the node's name and the secret.
    pub const GIVEN: (&'static str, &'static str, &'static str) = (TOKEN, NODE, SECRET);

    /// In `folder`, which must be empty.
    ///
    /// # Panics
    /// Where the folder cannot be written, or the honest node is refused.
    pub fn new(folder: &Path) -> Service {
        let path = folder.join("verifier");
        let begin = time::OffsetDateTime::now_utc();
        crate::setup::init(&path, &crate::setup::names(&[]), begin).expect("an empty folder");
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.join(name), bytes).expect("a folder to write to")
        };
        let yaml = node
            .policy_yaml()
            .replace("name: pod-1,", &format!("name: {SECRET},"));
        write("policy.yaml", yaml.as_bytes());
        let references = (1..=4).map(|n| format!("{}.json", pod(n)));
        for name in references.chain(["host.json".to_owned()]) {
            write(&name, &node.reference(&name).expect("the node's own file"));
        }
        let policy = folder.join("policy.yaml");
        let Ok(read) = policy_files::load(&policy) else {
            panic!("the node's own policy cannot be read");
        };
        let store = Arc::new(Store::open(&path).expect("a store"));
        let enrolled = store::Node {
            name: NODE.to_owned(),
            ak_name: hex::encode(cgpath_appraisal::key_name(&node.ak.public()).expect("a key")),
            ak_public: Some(node.ak.public()),
            policy,
            policy_source: None,
            node_key: None,
            policy_digest: read.digest().to_string(),
            added: 0,
            stopped: None,
        };
        store.add_node(&enrolled, false).expect("a new node");
        let limits = store::Limits {
            verdicts: 4,
            evidence_bytes: 1 << 24,
        };
        let appraiser = Arc::new(Appraiser::new(Arc::clone(&store), limits));
        let nonces = Nonces::new([7; KEY_LEN], LIFETIME);
        let (nonce, _) = nonces.make(NODE, clock::now(), None).expect("random numbers");
        let evidence = node.attest(&nonce).to_cbor();
        match appraiser.submit(&nonces, NODE, &evidence, clock::now()) {
            Ok(kept) => assert!(kept.trusted, "the honest node is not trusted: {}", kept.verdict),
            Err(refusal) => panic!("the honest node is refused: {refusal}"),
        }
        let settings = Settings {
            max_evidence: 1 << 16,
            upload: PATIENCE,
            stale_after: 1,
            ear_lifetime: 1,
            webhooks: Vec::new(),
        };
        let access = Access {
            readers: Readers::new(Some(TOKEN), None).expect("a token"),
            certificates: false,
        };
        let key = crate::setup::verdict_key(&path).expect("the key that was made");
        let app = Arc::new(App::new(store, nonces, appraiser, key, settings, access));
        let app = api::router(app)
            .layer(Extension(Peer(([192, 0, 2, 1], 5).into())))
            .layer(Extension(Shown::default()));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1);
        Service {
            runtime: runtime.build().expect("a runtime"),
            app,
        }
    }

    /// What is answered to these bytes on a connection of a stranger's address.
    ///
    /// # Panics
    /// When the service does.
    pub fn answer(&self, sent: &[u8]) -> Vec<u8> {
        let app = self.app.clone().layer(Extension(Connection::alone()));
        self.runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let mut http = listener::http();
            // The other side of the connection says that it has said all; real ones stay open.
            http.half_close(true);
            let connection = http.serve_connection(TokioIo::new(server), TowerToHyperService::new(app));
            let served = tokio::spawn(connection);
            let mut answered = Vec::new();
            let (mut reading, mut writing) = tokio::io::split(&mut client);
            let write = async {
                // Who closes early is not written to.
                let _ = writing.write_all(sent).await;
                let _ = writing.shutdown().await;
            };
            let read = async {
                let mut reading = (&mut reading).take(MAX_ANSWER);
                let mut patience = PATIENCE;
                while let Ok(Ok(n)) = tokio::time::timeout(patience, reading.read_buf(&mut answered)).await {
                    if n == 0 {
                        break;
                    }
                    if answered.windows(STREAM.len()).any(|window| window == STREAM) {
                        patience = SILENCE;
                    }
                }
            };
            tokio::join!(write, read);
            drop(client);
            // A stream of events is given up; what panicked did so before.
            served.abort();
            if let Err(error) = served.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
            answered
        })
    }
}

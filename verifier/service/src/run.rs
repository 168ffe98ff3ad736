//! One run of the service: a directory and an address, until SIGTERM or SIGINT.
//!
//! Promise: two services never work on one directory. Not here: how a directory is made (see `setup`), and
//! which requests there are (see `api`).

use crate::api::Settings;
use crate::api::readers::{Readers, ReadersError};
use crate::listener::{self, TlsError};
use crate::setup::{self, SetupError};
use crate::store::{Limits, Store, StoreError};
use crate::webhook::{Webhook, WebhookError};
use crate::{api, audit, clock, ingest, nonce, store};
use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};

/// Characters of the shortest token.
const SHORTEST_TOKEN: usize = 16;

/// How a service runs.
pub struct ServiceOptions {
    /// The directory, as [`setup::init`] makes it.
    pub dir: PathBuf,
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Shown by a reader of everything.
    pub read_token: Option<String>,
    /// Readers on this machine need a token, too: without one here and without [`ServiceOptions::readers`] it
    /// is made.
    pub read_token_always: bool,
    /// File of further readers.
    pub readers: Option<PathBuf>,
    /// File with the CAs (PEM) of the certificates that nodes must show.
    pub client_ca: Option<PathBuf>,
    /// Seconds that a nonce can be answered.
    pub nonce_lifetime: u64,
    /// How requests are answered.
    pub settings: Settings,
    /// What is kept.
    pub keep: Limits,
    /// Bytes for what is known of nodes between rounds.
    pub follow_memory: usize,
    /// File with the CAs (PEM) of webhooks.
    pub webhook_ca: PathBuf,
    /// Events that may wait for a webhook.
    pub webhook_queue: u32,
}

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The read token can be guessed.
    #[error("the read token is shorter than {SHORTEST_TOKEN} characters")]
    ShortToken,
    /// The file of readers.
    #[error(transparent)]
    Readers(#[from] ReadersError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys and certificates of the directory.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A webhook.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// A service runs on this directory.
    #[error("another cgpath serve runs on {}", .0.display())]
    Busy(PathBuf),
    /// The file that keeps others away.
    #[error("{}: {error}", path.display())]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No address.
    #[error("--listen {address}: {error}")]
    Address {
        /// As it was given.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The address is taken, or not this machine's.
    #[error("listening on {address}: {error}")]
    Listen {
        /// As it was given.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// Something else of the operating system.
    #[error("{what}: {error}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// Why it could not be had.
        error: io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |error| RunError::System { what, error }
}

/// Serves until SIGTERM or SIGINT; `listening` is called with the address once requests are taken.
///
/// # Errors
/// [`RunError`], and what `listening` gives.
pub fn serve<E: From<RunError>>(
    options: &ServiceOptions,
    listening: impl FnOnce(SocketAddr) -> Result<(), E>,
) -> Result<(), E> {
    let prepared = Prepared::new(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(system("starting threads"))?;
    let result = runtime.block_on(prepared.run(options, listening));
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

/// Everything but the listener.
struct Prepared {
    store: Arc<Store>,
    app: Arc<api::App>,
    tls: rustls::ServerConfig,
    shown: Arc<listener::certificate::Current>,
    webhooks: Vec<Webhook>,
    /// Held until the service ends, however it ends.
    _lock: fs::File,
}

impl Prepared {
    fn new(options: &ServiceOptions) -> Result<Prepared, RunError> {
        let dir = &options.dir;
        let readers = readers(options)?;
        let store = Arc::new(Store::open(dir)?);
        let lock = lock(dir)?;
        store.set_stale_after(options.settings.stale_after)?;
        let swept = store.sweep()?;
        if swept > 0 {
            tracing::info!(files = swept, "removed what an interruption left");
        }
        store.prune(&options.keep, clock::now(), None)?;
        store.sweep_policies(SystemTime::now())?;
        if setup::renew(&store, OffsetDateTime::now_utc())? {
            tracing::info!("the server's certificate was made anew");
        }
        let (certificate, key) = (dir.join(setup::SERVER), dir.join(setup::SERVER_KEY));
        let (tls, shown) = listener::config(&certificate, &key, options.client_ca.as_deref())?;
        let nonces = nonce::Nonces::new(setup::nonce_key(dir)?, options.nonce_lifetime);
        let access = api::Access {
            readers,
            certificates: options.client_ca.is_some(),
        };
        let webhooks = options.settings.webhooks.iter().map(|url| {
            let (key, store) = (setup::verdict_key(dir)?, Arc::clone(&store));
            Ok(Webhook::new(
                url,
                &options.webhook_ca,
                options.webhook_queue,
                key,
                store,
            )?)
        });
        let webhooks = webhooks.collect::<Result<Vec<_>, RunError>>()?;
        let appraiser =
            ingest::Appraiser::new(Arc::clone(&store), options.keep).with_memory(options.follow_memory);
        let app = Arc::new(api::App::new(
            Arc::clone(&store),
            nonces,
            Arc::new(appraiser),
            setup::verdict_key(dir)?,
            options.settings.clone(),
            access,
        ));
        Ok(Prepared {
            store,
            app,
            tls,
            shown,
            webhooks,
            _lock: lock,
        })
    }

    async fn run<E: From<RunError>>(
        self,
        options: &ServiceOptions,
        listening: impl FnOnce(SocketAddr) -> Result<(), E>,
    ) -> Result<(), E> {
        let limit = listener::connections().map_err(system("open files"))?;
        let listener = listen(&options.listen).await?;
        let address = listener.local_addr().map_err(system("listening"))?;
        let stop = stop_signal()?;
        tokio::spawn(self.shown.keep(Arc::clone(&self.store)));
        tokio::spawn(audit::run(Arc::clone(&self.store), self.app.kept.subscribe()));
        for webhook in self.webhooks {
            tokio::spawn(webhook.run(self.app.kept.subscribe()));
        }
        listening(address)?;
        let nodes = self.store.nodes().map_err(RunError::from)?.len();
        tracing::info!(%address, dir = %options.dir.display(), nodes, limit, "serving");
        listener::serve(listener, self.tls, api::router(self.app), limit, stop).await;
        tracing::info!("ended");
        Ok(())
    }
}

/// Who may read, with the token that is made where one is needed and none is given.
fn readers(options: &ServiceOptions) -> Result<Readers, RunError> {
    let is_short = |token: &String| token.len() < SHORTEST_TOKEN;
    if options.read_token.as_ref().is_some_and(is_short) {
        return Err(RunError::ShortToken);
    }
    let dir = &options.dir;
    let nobody = options.read_token.is_none() && options.readers.is_none();
    let own = if options.read_token_always && nobody {
        // Into no directory that is none.
        drop(Store::open(dir)?);
        let file = dir.join(setup::READ_TOKEN);
        tracing::info!(file = %file.display(), "reading needs the token in this file");
        Some(setup::read_token(dir)?)
    } else {
        None
    };
    let token = options.read_token.as_deref().or(own.as_deref());
    Ok(Readers::new(token, options.readers.as_deref())?)
}

/// One service on a directory: two would sweep away each other's evidence.
fn lock(dir: &Path) -> Result<fs::File, RunError> {
    let path = dir.join("serve.lock");
    let file = match store::lock_file(&path) {
        Ok(file) => file,
        Err(error) => return Err(RunError::Lock { path, error }),
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(RunError::Busy(dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(RunError::Lock { path, error }),
    }
}

async fn listen(address: &str) -> Result<tokio::net::TcpListener, RunError> {
    let addresses: Vec<SocketAddr> = match address.to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            return Err(RunError::Address {
                address: address.to_owned(),
                error,
            });
        }
    };
    let bound = tokio::net::TcpListener::bind(&addresses[..]).await;
    bound.map_err(|error| RunError::Listen {
        address: address.to_owned(),
        error,
    })
}

/// Ends with the first SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>, RunError> {
    let handler = |kind| signal(kind).map_err(system("signals"));
    let (mut term, mut int) = (
        handler(SignalKind::terminate())?,
        handler(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: ending"),
            _ = int.recv() => tracing::info!("SIGINT: ending"),
        }
    })
}

//! The audit trail: each change of a verdict as one entry of systemd's journal, by its native protocol.
//!
//! Promises: at least once, also across `kill -9`: the store says up to which number was written, after it
//! was. Where there is no journal, the service's own log has the entries and says that there is none.

use crate::changes::Happened;
use crate::store::{Store, StoreError};
use cgpath_appraisal::State;
use libsystemd::logging::{Priority, journal_send};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// By what the store knows this outlet.
const OUTLET: &str = "journal";
/// `MESSAGE_ID` of each entry: `journalctl MESSAGE_ID=…` shows them all.
pub const MESSAGE_ID: &str = "6c1d83f0b54e4a0f9d2c7a51e8f3b964";
/// Entries at a time.
const BATCH: u32 = 100;
/// How long until the store is looked at though nobody said that there is something.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait after a failure of the store.
const PAUSE: Duration = Duration::from_secs(60);

fn word(state: Option<State>) -> &'static str {
    match state {
        Some(State::Trusted) => "trusted",
        Some(State::Untrusted) => "untrusted",
        Some(State::Unknown) => "unknown",
        Some(State::PredatesCollector) => "predates-collector",
        Some(State::Pending) => "pending",
        None => "none",
    }
}

/// The entry's text.
fn message(happened: &Happened) -> String {
    let change = &happened.change;
    let subject = match (&change.pod, &change.name) {
        (Some(uid), Some(name)) => format!("pod {name} ({uid}) on node {}", change.node),
        (Some(uid), None) => format!("pod {uid} on node {}", change.node),
        (None, _) => format!("node {}", change.node),
    };
    format!("{subject}: was {}, is {}", word(change.old), word(change.new))
}

/// Writes one entry.
fn write(happened: &Happened) -> Result<(), String> {
    let change = &happened.change;
    let priority = match change.new {
        Some(State::Untrusted | State::Unknown) => Priority::Warning,
        _ => Priority::Notice,
    };
    let pod = change.pod.map(|uid| uid.to_string());
    let (number, rules) = (change.number.to_string(), change.rules.join(" "));
    let fields = [
        ("MESSAGE_ID", MESSAGE_ID),
        ("SYSLOG_IDENTIFIER", "cgpath-audit"),
        ("CGPATH_EVENT", &happened.id),
        ("CGPATH_NUMBER", &number),
        ("CGPATH_NODE", &change.node),
        ("CGPATH_POD", pod.as_deref().unwrap_or_default()),
        ("CGPATH_POD_NAME", change.name.as_deref().unwrap_or_default()),
        ("CGPATH_OLD", word(change.old)),
        ("CGPATH_NEW", word(change.new)),
        ("CGPATH_RULES", &rules),
        ("CGPATH_CAUSE", &change.cause),
    ];
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
    journal_send(priority, &message(happened), fields).map_err(|e| e.to_string())
}

/// Writes what waits and what comes, for as long as the service runs.
pub async fn run(store: Arc<Store>, mut kept: broadcast::Receiver<Arc<str>>) {
    // Said once, and again after the journal was there in between.
    let mut absent = false;
    loop {
        let result = tokio::task::block_in_place(|| {
            let position = store.position(OUTLET)?;
            let waiting = store.changes(position.unwrap_or(0), BATCH)?;
            for happened in &waiting {
                match write(happened) {
                    Ok(()) => absent = false,
                    Err(error) => {
                        if !std::mem::replace(&mut absent, true) {
                            tracing::warn!(
                                error,
                                "the journal cannot be written: audit events go to this log alone"
                            );
                        }
                        let (id, number) = (&happened.id, happened.change.number);
                        match happened.change.new {
                            Some(State::Untrusted | State::Unknown) => {
                                tracing::warn!(target: "audit", id, number, "{}", message(happened));
                            }
                            _ => tracing::info!(target: "audit", id, number, "{}", message(happened)),
                        }
                    }
                }
            }
            if let Some(last) = waiting.last() {
                store.set_position(OUTLET, last.change.number)?;
            }
            Ok::<usize, StoreError>(waiting.len())
        });
        match result {
            Ok(0) => {
                let _ = tokio::time::timeout(LOOK, kept.recv()).await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "audit: the store cannot be read");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

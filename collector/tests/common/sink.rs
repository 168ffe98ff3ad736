//! A sink as tests want it: nothing but what the kind needs, a round each second, and time enough on a busy
//! machine.

use cgpathd::config::{Sink, SinkFormat, SinkKind};
use cgpathd::deliver::sink::Sinks;
use cgpathd::status::SinkStatus;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long anything may take before a test says that it does not come.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub fn sink(name: &str, kind: SinkKind, to: &str) -> Sink {
    Sink {
        name: name.into(),
        kind,
        to: to.into(),
        ca: "/none".into(),
        registrar: String::new(),
        agent: String::new(),
        client_certificate: Default::default(),
        client_key: Default::default(),
        format: SinkFormat::Evidence,
        nodes: vec![],
        pods: vec![],
        namespaces: vec![],
        labels: Default::default(),
        interval: 1,
        timeout: PATIENCE.as_secs(),
        spool: 8,
        keep: 16,
        whole_every: 64,
    }
}

/// Waits until `done`.
pub async fn until(sinks: &Sinks, done: impl Fn(&[SinkStatus]) -> bool) -> Vec<SinkStatus> {
    let started = Instant::now();
    loop {
        let status = sinks.status();
        if done(&status) {
            return status;
        }
        assert!(started.elapsed() < PATIENCE, "{status:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tells the sinks' tasks to stop and waits until none of them is left: each holds a receiver.
pub async fn stop(stop: watch::Sender<bool>, stopped: watch::Receiver<bool>) {
    drop(stopped);
    let _ = stop.send(true);
    tokio::time::timeout(PATIENCE, stop.closed())
        .await
        .expect("the tasks of the sinks do not end");
}

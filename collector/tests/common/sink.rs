//! A sink as tests want it: no waiting, and nothing but what the kind needs.

use collector::config::{Sink, SinkFormat, SinkKind};

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
        timeout: 3,
        spool: 8,
        keep: 16,
        whole_every: 64,
    }
}

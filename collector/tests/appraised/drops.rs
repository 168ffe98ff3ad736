//! What a sink was not sent, proven by what it was sent next.

use super::node::{Engine, config, files, sink, stop, until};
use cgpath_evidence::Evidence;
use cgpathd::config::{Sink, SinkKind};
use cgpathd::deliver::sink::Sinks;
use cgpathd::runtime::Names;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// The nonce that a message's own words give, by docs/spec/api.md, Sinks.
fn nonce_of(header: &serde_json::Value) -> Vec<u8> {
    let bound = &header["bound"];
    let number = |name: &str| bound[name].as_u64().unwrap().to_be_bytes();
    let mut hash = Sha256::new();
    hash.update("ima-cgpath sink round v1");
    hash.update(hex::decode(bound["salt"].as_str().unwrap()).unwrap());
    hash.update(number("first"));
    hash.update(number("dropped"));
    hash.update(bound["sink"].as_str().unwrap());
    hash.finalize().to_vec()
}

#[tokio::test]
async fn what_was_dropped_is_signed_with_the_next_message_and_can_not_be_changed_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("late");
    // Not a directory: nothing can be delivered.
    std::fs::write(&to, b"").unwrap();
    let late = Sink {
        spool: 1,
        whole_every: 1,
        ..sink("late", SinkKind::File, to.to_str().unwrap())
    };
    let names = Names::default();
    let engine = Engine::new(&names);
    // One round fits into the spool, two do not.
    engine.pad(300 << 10);
    let sinks = Sinks::open(&config(dir.path(), vec![late]), "n", &names).unwrap();
    let (running, stopped) = watch::channel(false);
    sinks.start("n", &engine, &stopped);
    until(&sinks, |all| all[0].dropped >= 2).await;
    std::fs::remove_file(&to).unwrap();
    until(&sinks, |all| all[0].delivered >= 2).await;
    stop(running, stopped).await;
    let arrived = files(&to);
    let counts: Vec<u64> = arrived
        .iter()
        .map(|arrived| {
            let nonce = nonce_of(&arrived.header);
            assert_eq!(nonce, arrived.nonce());
            let bound = &arrived.header["bound"];
            assert_eq!(bound["sink"], "late");
            assert_eq!(
                (&bound["first"], &bound["dropped"]),
                (&arrived.header["sequence"], &arrived.header["dropped"])
            );
            let evidence = Evidence::from_cbor(&arrived.payload).unwrap();
            assert!(engine.verdict(&evidence, &nonce).trusted);
            for (name, lie) in [("dropped", 0), ("dropped", 99), ("first", 7)] {
                let mut other = arrived.header.clone();
                other["bound"][name] = lie.into();
                if other != arrived.header {
                    assert!(!engine.verdict(&evidence, &nonce_of(&other)).trusted, "{name}");
                }
            }
            bound["dropped"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(counts[0], 0);
    assert!(counts[1] >= 2, "{counts:?}");
}

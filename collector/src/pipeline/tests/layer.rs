//! A file that was written below an overlay: sealed with what file it is, and no execution.

use super::*;
use cgpath_evidence::LayerFile;

#[test]
fn a_write_below_an_overlay_is_sealed_where_it_was_done_without_a_hash_and_is_no_execution() {
    let layer = LayerFile {
        dev: 8 << 20 | 1,
        ino: 78,
        generation: 7,
    };
    let through = Identity {
        generation: 9,
        layer: Some(layer),
        ..IDENTITY
    };
    let mut fuel = u64::MAX;
    let mut w = World::new();
    let mut run = Run::start(&mut w, &mut fuel).unwrap();
    run.settle(&mut w, &mut fuel).unwrap();
    script(&mut w, 0);
    let with = |mut event: decode::Event, kind: EventKind, identity: Identity| {
        if let Body::File(file) = &mut event.body {
            (file.kind, file.identity) = (kind, identity);
        }
        event
    };
    w.happen(|s| with(raw_exec(s, 10, 60, "/lib.so"), EventKind::Mapping, through));
    w.happen(|s| {
        with(
            raw_exec(s, 3, 61, "/layer/lib.so"),
            EventKind::LayerWrite,
            IDENTITY,
        )
    });
    let before = run.pipeline.executions;
    run.request(&mut w, 1, &mut fuel).unwrap();
    check_chain(&w);
    let of = |key: &PartitionKey, kind: EventKind| -> Record {
        let records = run.leaves.get(key).into_iter().flatten();
        let mut records = records.map(|leaf| Record::from_cbor(leaf).unwrap());
        records.find(|record| record.kind == kind).unwrap()
    };
    let uid = POD_A.strip_prefix("pod").unwrap();
    let mapped = of(&PartitionKey::parse(uid).unwrap(), EventKind::Mapping);
    assert_eq!(mapped.identity.as_deref(), Some(&through));
    let written = of(&PartitionKey::Host, EventKind::LayerWrite);
    assert_eq!(written.identity.as_deref(), Some(&IDENTITY));
    assert_eq!((written.hash, written.path), (None, b"/layer/lib.so".to_vec()));
    let executions = run.leaves.values().flatten();
    let executions = executions.filter(|leaf| Record::from_cbor(leaf).unwrap().is_execution());
    assert_eq!(run.pipeline.executions, executions.count() as u64);
    assert!(run.pipeline.executions > before, "the mapping counts");
}

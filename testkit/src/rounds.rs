//! What a node sends: what is new of it, and evidence of a boot with a given log.

use crate::{Actor, KeyKind, Measurement, Node, pod};
use cgpath_evidence::boot::{Boot, EventLog, boot_aggregate};
use cgpath_evidence::{Bank, Cursor, Evidence, EvidenceDelta, PartitionKey, PartitionLog};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// What of `evidence` comes after `from`, where `kept` ends.
pub fn delta_after(evidence: &Evidence, kept: &Evidence, from: Cursor) -> EvidenceDelta {
    let sealed: BTreeMap<PartitionKey, usize> = kept
        .partitions
        .iter()
        .map(|log| (log.key, log.records.len()))
        .collect();
    let Evidence {
        tier,
        node,
        boot_id,
        quote,
        list,
        checkpoints,
        partitions,
        pods,
        kernel,
        boot,
        unsealed,
        in_flight,
        td,
        ..
    } = evidence.clone();
    let number = from.checkpoint;
    EvidenceDelta {
        version: 1,
        tier,
        node,
        boot_id,
        quote,
        list: list.into_iter().skip(from.entries as usize).collect(),
        checkpoints: checkpoints
            .into_iter()
            .skip(from.checkpoint as usize + 1)
            .collect(),
        partitions: partitions
            .into_iter()
            .map(|log| PartitionLog {
                key: log.key,
                records: log
                    .records
                    .into_iter()
                    .skip(sealed.get(&log.key).copied().unwrap_or_default())
                    .collect(),
            })
            .filter(|log| !log.records.is_empty())
            .collect(),
        pods,
        kernel,
        boot: boot.map(|boot| Boot {
            log: None,
            command_line: None,
            ..boot
        }),
        from,
        unsealed,
        in_flight,
        td: td.and_then(|td| td.after(number).expect("a log that was made here")),
    }
}

/// A node that booted with this log, and its evidence: the quote covers the registers that the log gives in
/// these banks.
pub fn booted(log: &[u8], command_line: Option<&str>, banks: &[Bank], nonce: &[u8]) -> (Node, Evidence) {
    let parsed = EventLog::parse(log).unwrap();
    let registers: Vec<_> = banks.iter().map(|bank| parsed.replay(*bank).unwrap()).collect();
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.banks = banks.to_vec();
    let names: Vec<String> = banks.iter().map(Bank::to_string).collect();
    node.accept_banks = format!("[{}]", names.join(", "));
    node.list[0] = Measurement::ima_ng(b"boot_aggregate", &boot_aggregate(registers.last().unwrap()));
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    node.seal(Some(nonce));
    let lists: Vec<_> = banks.iter().map(|bank| node.pcr(*bank)).collect();
    let quote = node.quote_with(nonce, |attest| {
        let mut composite = Sha256::new();
        for (registers, list) in registers.iter().zip(&lists) {
            for value in registers.values() {
                composite.update(value.bytes());
            }
            composite.update(list.bytes());
        }
        attest.selection = banks.iter().map(|bank| (*bank, (0..=10).collect())).collect();
        attest.pcr_digest = composite.finalize().to_vec();
    });
    let mut evidence = node.evidence(quote);
    evidence.boot = Some(Boot {
        registers,
        log: Some(log.to_vec()),
        command_line: command_line.map(|command_line| command_line.as_bytes().to_vec()),
    });
    (node, evidence)
}

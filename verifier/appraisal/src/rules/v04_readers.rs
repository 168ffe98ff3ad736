//! V4, the part that needs records: the collector itself read each checkpoint but the last, whose record
//! comes with the next one; and it read no other file under such a name. What somebody else put there is
//! charged to him (see `v09_contents`).

use crate::inputs::kept::Lines;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::v04_chain::Chain;
use crate::rules::v05_join::{Joins, Owned};
use crate::rules::{Rule, v05_join};
use crate::text::foreign;
use cgpath_evidence::PartitionKey;
use cgpath_policy::Policy;

fn fail(text: String) -> Finding {
    Finding::fail(Rule::Chain, Subject::Node, text)
}

/// Looks at who read the files of checkpoints, as far as that is new.
pub(crate) fn step<'a>(
    chain: &mut Chain,
    joins: &Joins<'a>,
    lines: &Lines<'a>,
    policy: &Policy,
    findings: &mut Findings,
) {
    let collector = policy.file.accept.collector.as_bytes();
    let by_collector = |(key, record): &Owned<'_>| {
        *key == PartitionKey::Host
            && record
                .ancestry
                .first()
                .is_some_and(|process| process.exe == collector)
    };
    let last = chain.last().map(|last| last.number);
    for (n, index) in core::mem::take(&mut chain.unread) {
        match joins.adder(index) {
            None if last == Some(n) => chain.unread.push((n, index)),
            None => findings
                .push(fail(format!("no record says who read checkpoint {n} into the list")).at_index(index)),
            Some(reader) if !by_collector(reader) => findings.push(
                fail(format!(
                    "checkpoint {n} was not read into the list by the collector"
                ))
                .at_index(index)
                .at_seq(reader.1.seq)
                .found(format!(
                    "{} in {}",
                    foreign(
                        reader
                            .1
                            .ancestry
                            .first()
                            .map_or(&b"unknown"[..], |p| p.exe.as_slice())
                    ),
                    reader.0
                ))
                .expected(format!("{} in host", policy.file.accept.collector)),
            ),
            Some(_) => {}
        }
    }
    for (index, number, adder) in v05_join::named_like_checkpoints(joins, lines) {
        if index >= chain.boot_len() && !chain.is_anchor(index) && by_collector(adder) {
            let path = lines.get(index).and_then(|line| line.path.map(<[u8]>::to_vec));
            findings.push(
                fail(format!(
                    "the collector read a second file as checkpoint {number}: the chain is forked"
                ))
                .at_index(index)
                .at_path(&path.unwrap_or_default()),
            );
        }
    }
}

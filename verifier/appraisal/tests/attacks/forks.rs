//! A second file under the name of a checkpoint that stands in the list already.

use super::{Life, busy, conclude};
use cgpath_evidence::{SealedCheckpoint, checkpoint};
use cgpath_testkit::{Actor, COLLECTOR, sha256};

fn collector() -> Actor {
    Actor {
        cgroup: Some(b"/system.slice/cgpathd.service".to_vec()),
        ..Actor::host(COLLECTOR)
    }
}

/// Once `content` stands in the list under the name of checkpoint `number`, nobody trusts the node any more.
fn wrong(number: u64, content: &[u8]) -> Vec<String> {
    let mut life = Life::begin(busy());
    life.node.measure(
        &collector(),
        format!("{}{number}", checkpoint::DIRECTORY),
        &sha256(content),
    );
    (0..3)
        .flat_map(|_| life.round().trusted())
        .map(|who| format!("checkpoint {number}: {who}"))
        .collect()
}

#[test]
fn a_forked_chain_under_an_old_checkpoints_name_is_not_trusted_however_old_it_is() {
    let mut all = Vec::new();
    for number in 0..=2 {
        let life = Life::begin(busy());
        let mut other = life.node.checkpoints[number as usize].checkpoint.clone();
        other.records += 1;
        let forked = SealedCheckpoint::seal(other, &life.node.signing);
        all.extend(wrong(number, &forked.file));
    }
    conclude("forked-checkpoint", &all);
}

#[test]
fn a_module_under_an_old_checkpoints_name_is_not_trusted() {
    let all: Vec<String> = (0..=2).flat_map(|number| wrong(number, b"rootkit.ko")).collect();
    conclude("module-as-checkpoint", &all);
}

/// The same content read a second time is an entry that IMA does not list again, unless its own table was
/// emptied.
#[test]
fn a_checkpoint_that_stands_in_the_list_twice_is_a_fork() {
    let mut all = Vec::new();
    for number in 0..=2usize {
        let mut life = Life::begin(busy());
        let file = life.node.checkpoints[number].file.clone();
        let path = format!("{}{number}", checkpoint::DIRECTORY);
        let entry = cgpath_testkit::Measurement::ima_ng(path.as_bytes(), &sha256(&file));
        life.node.list.push(entry.clone());
        life.node.record_entry(&collector(), &path, &entry, 0);
        all.extend((0..2).flat_map(|_| life.round().trusted()));
    }
    conclude("checkpoint-twice", &all);
}

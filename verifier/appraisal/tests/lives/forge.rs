//! Checkpoints as the holder of their key makes them: each field, and how the file gets into the list.

use super::plan::{Forgery, Set, Who};
use super::world::{World, actor, upgrade};
use cgpath_evidence::{Checkpoint, Collectors, GuardMode, SealedCheckpoint, checkpoint};
use cgpath_testkit::{COLLECTOR, pod, sha256};
use p256::ecdsa::SigningKey;

/// What a number is set to, where it stood at `before` and is `now`.
fn number(now: u64, before: u64, set: Set) -> u64 {
    match set {
        Set::AsBefore => before,
        Set::More => now + 1,
        Set::Less => now.saturating_sub(1),
        Set::LessThanBefore => before.saturating_sub(1),
        Set::OneMoreThanBefore | Set::Least => before + 1,
    }
}

/// Changes a checkpoint; `least` is the shortest list that the one before it stands in.
fn change(c: &mut Checkpoint, before: &Checkpoint, least: u64, forgery: Forgery) {
    let of_list = |now: u64, before: u64, set: Set| match set {
        Set::Least => least,
        _ => number(now, before, set),
    };
    match forgery {
        Forgery::ListLen(set) => c.list_len = of_list(c.list_len, before.list_len, set),
        Forgery::SettledAt(set) => c.settled = of_list(c.settled, before.settled, set),
        Forgery::Frozen(set) => {
            c.list_len = of_list(c.list_len, before.list_len, set);
            c.settled = number(c.settled, before.settled, Set::AsBefore).min(c.list_len);
        }
        Forgery::Records(set) => c.records = number(c.records, before.records, set),
        Forgery::Executions(set) => c.executions = number(c.executions, before.executions, set),
        Forgery::LastSeq(set) => c.last_seq = number(c.last_seq, before.last_seq, set),
        Forgery::Partitions(set) => c.partitions = number(c.partitions, before.partitions, set),
        Forgery::Losses(kind, set) => {
            let (now, was) = (&mut c.losses, &before.losses);
            let (now, was) = match kind {
                0 => (&mut now.reserve, was.reserve),
                1 => (&mut now.recursion, was.recursion),
                2 => (&mut now.read, was.read),
                _ => (&mut now.spool, was.spool),
            };
            *now = number(*now, was, set);
        }
        Forgery::Starts(set) => c.starts = number(c.starts.into(), before.starts.into(), set) as u32,
        Forgery::BootLen(set) => c.boot_len = number(c.boot_len, before.boot_len, set),
        Forgery::Numbered(set) => c.number = number(c.number, before.number, set),
        Forgery::Blind => c.blind = true,
        Forgery::Bpf => c.bpf_object = [8; 32],
        Forgery::Placed => c.bpf_placed = Some([8; 32]),
        Forgery::Policy(is_there) => c.ima_policy = is_there.then_some([3; 32]),
        Forgery::Key => c.key = Some(vec![2; 33]),
        Forgery::Predating => c.predating = vec![pod(3)],
        Forgery::Hierarchy => c.hierarchy = "v1:pids".into(),
        Forgery::Protection(0) => c.protection = None,
        Forgery::Protection(level) => {
            let levels = [GuardMode::Off, GuardMode::Record, GuardMode::Deny];
            let guard = levels[usize::from(level) - 1];
            c.protection
                .iter_mut()
                .for_each(|protection| protection.guard = guard);
        }
        Forgery::Collectors(n) => {
            let another = sha256(b"a collector that nobody ran");
            let program = match n {
                1 => another.clone(),
                2 => upgrade(true),
                _ => sha256(COLLECTOR.as_bytes()),
            };
            let successor = match n {
                3 => Some(another),
                4 => Some(upgrade(true)),
                5 => Some(program.clone()),
                _ => None,
            };
            c.collectors = (n > 0).then_some(Collectors { program, successor });
        }
        Forgery::Previous => c.previous = [1; 32],
        Forgery::Boot => c.boot_id = [77; 16],
        Forgery::Root => c.partitions_root = [4; 32],
        Forgery::Nonce(is_there) => c.nonce_hash = is_there.then_some([5; 32]),
        _ => {}
    }
}

impl World {
    /// Seals all that waits; the checkpoint, and how it is read, as `forgery` says.
    pub fn seal(&mut self, nonce: Option<&[u8]>, forgery: Forgery) {
        let node = &mut self.node;
        let settled = node.settled();
        for (key, record) in node.waiting.drain(..) {
            node.sealed.entry(key).or_default().push(record);
        }
        let mut made = node.draft(nonce);
        if forgery != Forgery::No {
            made.settled = settled;
        }
        if let Some(before) = node.checkpoints.last() {
            let stands = |sealed: &SealedCheckpoint| {
                let path = format!("{}{}", checkpoint::DIRECTORY, sealed.checkpoint.number);
                let entry = node.entry(&actor(Who::Collector), path, &sha256(&sealed.file));
                node.list.iter().position(|listed| *listed == entry)
            };
            let least = stands(before).map_or(0, |index| index as u64 + 1);
            change(&mut made, &before.checkpoint.clone(), least, forgery);
        }
        let other = SigningKey::from_slice(&[9; 32]).unwrap();
        let key = if forgery == Forgery::OtherKey {
            &other
        } else {
            &node.signing
        };
        let sealed = SealedCheckpoint::seal(made, key);
        let path = format!("{}{}", checkpoint::DIRECTORY, sealed.checkpoint.number);
        let content = sha256(&sealed.file);
        let collector = actor(Who::Collector);
        let another = sha256(b"another checkpoint");
        match forgery {
            Forgery::Unread => {}
            Forgery::ReadBy(who) => node.measure(&actor(who), &path, &content),
            Forgery::ReadByNobody => {
                let entry = node.entry(&collector, &path, &content);
                node.list.push(entry);
            }
            Forgery::AndAnother(true) => node.measure(&collector, &path, &another),
            _ => {}
        }
        if !matches!(
            forgery,
            Forgery::Unread | Forgery::ReadBy(_) | Forgery::ReadByNobody
        ) {
            node.measure(&collector, &path, &content);
        }
        match forgery {
            Forgery::ReadTwice => node.measure(&collector, &path, &content),
            Forgery::AndAnother(false) => node.measure(&collector, &path, &another),
            _ => {}
        }
        node.checkpoints.push(sealed);
    }
}

//! Which pods and containers have a directory, and which of them the container runtime has named.
//!
//! Promises: each is named once a boot, and what was said first stands; nothing is named of which the kernel
//! side showed no directory, so that a runtime can neither make a partition up nor fill the journal; what it
//! said too early waits within bounds. Not here: how the runtime is asked (see [`crate::runtime`]).

use super::event::{Stated, Unnamed};
use cgpath_evidence::cgroup::attribute;
use cgpath_evidence::{Named, PartitionKey, PodUid};
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet, VecDeque};

/// Whose directories are gone and who are kept all the same: pods, and containers that were never named and
/// still can be, in the partition of their pod. Those that went first are forgotten first: a name that is so
/// late is of no use to anybody.
const KEPT_GONE: usize = 16_384;

/// Names that wait for a directory: the kernel side's record of it is on its way.
const MAX_WAITING: usize = 1024;
/// And bytes of them.
const MAX_WAITING_BYTES: usize = 1 << 20;

/// See [`Who::mark`].
type Mark = [u8; 16];

/// Who is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Pod(PodUid),
    /// By the pod that the directory is in: what the runtime says of another pod's container is of nobody.
    Container(PodUid, [u8; 32]),
}

impl Who {
    /// Whose own directory is at this path: a pod's, or that of one of its containers, right below it. A
    /// monitor's is a container's no more than a group that a container made.
    fn at(path: &[u8]) -> Option<Who> {
        let found = attribute(path);
        let PartitionKey::Pod(uid) = found.key else {
            return None;
        };
        let pods = parent(path)?;
        if attribute(pods).key != found.key {
            return Some(Who::Pod(uid));
        }
        if attribute(parent(pods)?).key == found.key {
            return None;
        }
        let own = found.container.filter(|own| !own.monitor)?;
        Some(Who::Container(uid, digits(&own.id)?))
    }

    /// What stands for it where it is only to be known again: half of a SHA-256, so that nobody makes two
    /// with the same.
    fn mark(&self) -> Mark {
        let hash = match self {
            Who::Pod(uid) => Sha256::new().chain_update(uid.0),
            Who::Container(uid, id) => Sha256::new().chain_update(uid.0).chain_update(id),
        };
        let mut mark = Mark::default();
        mark.copy_from_slice(&hash.finalize()[..size_of::<Mark>()]);
        mark
    }

    /// Whom this is said of.
    fn of(stated: &Stated) -> Option<Who> {
        Some(match &stated.named {
            Named::Pod(_) => Who::Pod(stated.uid),
            Named::Container(container) => Who::Container(stated.uid, digits(&container.id)?),
        })
    }
}

/// The path without its last name.
fn parent(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    path.get(..slash)
}

fn digits(id: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(id, &mut bytes).ok()?;
    Some(bytes)
}

/// One that has, or had, a directory.
#[derive(Debug)]
struct Known {
    /// The directory that was made last.
    directory: u64,
    is_there: bool,
    is_named: bool,
}

/// All of this boot.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Those that have a directory, and those of `gone`.
    known: HashMap<Who, Known>,
    /// Whose the directories are that are there.
    directories: HashMap<u64, Who>,
    /// Whose directory went, in the order in which they went: [`KEPT_GONE`] at most.
    gone: VecDeque<Who>,
    /// Who was named and is not among `known` any more. Each has a record in the journal, which is many times
    /// as long: what bounds the journal bounds this.
    named: HashSet<Mark>,
    waiting: Waiting,
    unnamed: Unnamed,
}

impl Names {
    /// A directory is at this path from now on. Gives what waited for it.
    pub(super) fn made(&mut self, id: u64, path: &[u8]) -> Option<Stated> {
        let who = Who::at(path);
        if self.directories.get(&id).copied() == who {
            // The scan found it, too.
            return None;
        }
        self.removed(id);
        let who = who?;
        self.directories.insert(id, who);
        let named = &mut self.named;
        let known = self.known.entry(who).or_insert_with(|| Known {
            directory: id,
            is_there: false,
            is_named: named.remove(&who.mark()),
        });
        known.directory = id;
        let was_there = std::mem::replace(&mut known.is_there, true);
        if known.is_named {
            return None;
        }
        if !was_there {
            self.unnamed.left += 1;
        }
        self.unnamed.seen += 1;
        self.waiting.take(who)
    }

    /// A directory was removed.
    pub(super) fn removed(&mut self, id: u64) {
        let Some(who) = self.directories.remove(&id) else {
            return;
        };
        let Some(known) = self.known.get_mut(&who).filter(|known| known.directory == id) else {
            return;
        };
        known.is_there = false;
        match (who, known.is_named) {
            // It has all that it can have. A pod has a place for the names of its containers, too.
            (Who::Container(..), true) => return self.forget(who),
            (_, true) => {}
            (_, false) => self.unnamed.left = self.unnamed.left.saturating_sub(1),
        }
        self.gone.push_back(who);
        if self.gone.len() > KEPT_GONE
            && let Some(first) = self.gone.pop_front()
        {
            self.forget(first);
        }
    }

    /// One whose directory is gone, and has not been made anew, is not known any more, but for that it has a
    /// name.
    fn forget(&mut self, who: Who) {
        let Some(known) = self.known.get(&who).filter(|known| !known.is_there) else {
            return;
        };
        if known.is_named {
            self.named.insert(who.mark());
        }
        self.known.remove(&who);
    }

    /// Of all this the first word on each one that has a directory and no name. What is of nobody yet waits,
    /// as far as there is room.
    pub(super) fn heard(&mut self, stated: Vec<Stated>) -> Vec<Stated> {
        let mut now = HashSet::new();
        let mut due = Vec::new();
        for stated in stated {
            if stated.named.fault().is_some() {
                continue;
            }
            let Some(who) = Who::of(&stated) else {
                continue;
            };
            match self.known.get(&who) {
                Some(known) if known.is_named => {}
                Some(_) => {
                    if now.insert(who) {
                        due.push(stated);
                    }
                }
                // Runtimes list containers long after their end.
                None if self.named.contains(&who.mark()) => {}
                None => self.waiting.add(who, stated),
            }
        }
        due
    }

    /// The directory of the pod in whose partition this is to be recorded; `None` if it is not to be: it is
    /// of nobody who is known, or not the first word.
    pub(super) fn place(&self, stated: &Stated) -> Option<u64> {
        let known = self.known.get(&Who::of(stated)?)?;
        let pod = self.known.get(&Who::Pod(stated.uid))?;
        (!known.is_named && stated.named.fault().is_none()).then_some(pod.directory)
    }

    /// It is recorded: from now on it stands.
    pub(super) fn recorded(&mut self, stated: &Stated) {
        let Some(who) = Who::of(stated) else { return };
        let Some(known) = self.known.get_mut(&who) else {
            return;
        };
        let was_named = std::mem::replace(&mut known.is_named, true);
        match (who, known.is_there) {
            (_, true) if !was_named => self.unnamed.left = self.unnamed.left.saturating_sub(1),
            (Who::Container(..), false) => self.forget(who),
            _ => {}
        }
    }

    /// Who waits for a name.
    pub(super) fn unnamed(&self) -> Unnamed {
        self.unnamed
    }
}

/// What was said of those that have no directory yet. Where there is no room, what was said first goes.
#[derive(Debug, Default)]
struct Waiting {
    stated: HashMap<Who, Stated>,
    /// In the order in which they came; some are taken already.
    order: VecDeque<Who>,
    bytes: usize,
}

impl Waiting {
    fn add(&mut self, who: Who, stated: Stated) {
        if self.stated.contains_key(&who) {
            return;
        }
        self.bytes += weight(&stated);
        self.stated.insert(who, stated);
        self.order.push_back(who);
        while self.order.len() > MAX_WAITING || self.bytes > MAX_WAITING_BYTES {
            let Some(first) = self.order.pop_front() else {
                break;
            };
            self.take(first);
        }
    }

    fn take(&mut self, who: Who) -> Option<Stated> {
        let stated = self.stated.remove(&who)?;
        self.bytes = self.bytes.saturating_sub(weight(&stated));
        Some(stated)
    }
}

/// Bytes that it holds, about.
fn weight(stated: &Stated) -> usize {
    fn sum<'t>(texts: impl Iterator<Item = &'t str>) -> usize {
        const EACH: usize = 64;
        texts.map(|text| text.len() + EACH).sum()
    }
    let texts = match &stated.named {
        Named::Pod(pod) => sum(pod.texts()),
        Named::Container(container) => sum(container.texts()),
    };
    size_of::<Stated>() + texts
}

#[cfg(test)]
mod tests;

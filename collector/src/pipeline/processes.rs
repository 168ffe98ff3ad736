//! From a process (thread group id and start time) to the program that it ran at a moment of the sequence.
//!
//! Fed in sequence order with executions, and with the processes that a scan of /proc found. A thread group
//! id that is seen with a later start time ends the older process, so the table is bounded by the number of
//! pids.

use cgpath_evidence::record::{Ancestor, ExeSource};
use std::collections::HashMap;
use std::sync::Arc;

/// How many programs of one process are remembered: children forked before an execution inherit the one
/// before.
const HISTORY: usize = 4;

/// A process beyond reuse of its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Start of the group's leader, nanoseconds of CLOCK_BOOTTIME.
    pub start_ns: u64,
}

/// A program's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exe {
    /// Path, raw bytes; empty where unknown.
    pub path: Vec<u8>,
    /// Device, major << 20 | minor.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

#[derive(Debug, Clone)]
struct Ran {
    from_ns: u64,
    exe: Arc<Exe>,
    source: ExeSource,
}

#[derive(Debug)]
struct Process {
    start_ns: u64,
    ran: Vec<Ran>,
}

#[derive(Debug)]
struct Seed {
    /// Start, rounded down to `tick_ns`.
    start_ns: u64,
    tick_ns: u64,
    exe: Arc<Exe>,
}

/// The table.
#[derive(Debug, Default)]
pub struct Processes {
    by_tgid: HashMap<u32, Process>,
    seeds: HashMap<u32, Seed>,
}

impl Processes {
    /// A process that the scan of /proc found; its start is known to a clock tick only.
    pub fn seed(&mut self, tgid: u32, start_ns: u64, tick_ns: u64, exe: Exe) {
        self.seeds.entry(tgid).or_insert_with(|| Seed {
            start_ns,
            tick_ns,
            exe: Arc::new(exe),
        });
    }

    /// `key` executed `exe` at `at_ns`.
    pub fn executed(&mut self, key: TaskKey, at_ns: u64, exe: Exe) {
        self.note(
            key,
            Ran {
                from_ns: at_ns,
                exe: Arc::new(exe),
                source: ExeSource::Recorded,
            },
        );
    }

    fn note(&mut self, key: TaskKey, ran: Ran) {
        let process = self.by_tgid.entry(key.tgid).or_insert_with(|| Process {
            start_ns: key.start_ns,
            ran: Vec::with_capacity(1),
        });
        if process.start_ns > key.start_ns {
            // A late record of a process whose pid has been taken over: it can be no one's ancestor any more.
            return;
        }
        if process.start_ns < key.start_ns {
            *process = Process {
                start_ns: key.start_ns,
                ran: Vec::with_capacity(1),
            };
        }
        if process.ran.len() == HISTORY {
            process.ran.remove(0);
        }
        process.ran.push(ran);
    }

    /// What `key` ran at `at_ns`, if it is known without its parents.
    fn own(&mut self, key: TaskKey, at_ns: u64) -> Option<Ran> {
        if let Some(process) = self.by_tgid.get(&key.tgid).filter(|p| p.start_ns == key.start_ns) {
            let ran = process
                .ran
                .iter()
                .rev()
                .find(|r| r.from_ns <= at_ns)
                .or(process.ran.first());
            return ran.cloned();
        }
        let seed = self.seeds.get(&key.tgid)?;
        if key.start_ns < seed.start_ns || key.start_ns - seed.start_ns >= seed.tick_ns {
            return None;
        }
        let source = if seed.exe.path.is_empty() {
            ExeSource::Unknown
        } else {
            ExeSource::Seeded
        };
        let ran = Ran {
            from_ns: key.start_ns,
            exe: seed.exe.clone(),
            source,
        };
        self.note(key, ran.clone());
        Some(ran)
    }

    /// Names the programs of an event's ancestry, the process itself first.
    pub fn resolve(&mut self, ancestry: &[TaskKey], at_ns: u64) -> Vec<Ancestor> {
        let mut out = Vec::with_capacity(ancestry.len());
        // From the oldest down, so that a parent is known when its child wants to inherit.
        for (i, key) in ancestry.iter().enumerate().rev() {
            let ran = match self.own(*key, at_ns) {
                Some(ran) => Some(ran),
                None => {
                    let parent = ancestry.get(i + 1).and_then(|p| self.own(*p, key.start_ns));
                    parent.filter(|ran| !ran.exe.path.is_empty()).map(|ran| {
                        let ran = Ran {
                            from_ns: key.start_ns,
                            exe: ran.exe,
                            source: ExeSource::Inherited,
                        };
                        // Kept: later the process may have been given another parent.
                        self.note(*key, ran.clone());
                        ran
                    })
                }
            };
            out.push(match ran {
                Some(Ran { exe, source, .. }) => Ancestor {
                    tgid: key.tgid,
                    start_ns: key.start_ns,
                    exe: exe.path.clone(),
                    dev: exe.dev,
                    ino: exe.ino,
                    source,
                },
                None => Ancestor {
                    tgid: key.tgid,
                    start_ns: key.start_ns,
                    exe: Vec::new(),
                    dev: 0,
                    ino: 0,
                    source: ExeSource::Unknown,
                },
            });
        }
        out.reverse();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tgid: u32, start_ns: u64) -> TaskKey {
        TaskKey { tgid, start_ns }
    }

    fn exe(path: &str) -> Exe {
        Exe {
            path: path.into(),
            dev: 1,
            ino: 2,
        }
    }

    fn names(list: &[Ancestor]) -> Vec<(String, ExeSource)> {
        list.iter()
            .map(|a| (String::from_utf8(a.exe.clone()).unwrap(), a.source))
            .collect()
    }

    #[test]
    fn a_seed_serves_the_process_that_started_in_its_tick_and_no_other() {
        let mut p = Processes::default();
        p.seed(1, 0, 10_000_000, exe("/sbin/init"));
        p.seed(7, 50_000_000, 10_000_000, exe("/bin/old"));
        let got = p.resolve(&[key(7, 60_000_000), key(1, 9_999_999)], 100);
        assert_eq!(got[1].exe, b"/sbin/init");
        assert_eq!(got[1].source, ExeSource::Seeded);
        // Another process with the same pid: it can only have inherited.
        assert_eq!(names(&got)[0], ("/sbin/init".into(), ExeSource::Inherited));
    }

    #[test]
    fn an_execution_replaces_a_seed_from_its_moment_on() {
        let mut p = Processes::default();
        p.seed(7, 0, 10, exe("/bin/sh"));
        assert_eq!(
            names(&p.resolve(&[key(7, 5)], 100))[0],
            ("/bin/sh".into(), ExeSource::Seeded)
        );
        p.executed(key(7, 5), 200, exe("/bin/cat"));
        assert_eq!(
            names(&p.resolve(&[key(7, 5)], 300))[0],
            ("/bin/cat".into(), ExeSource::Recorded)
        );
    }

    #[test]
    fn a_fork_inherits_what_the_parent_ran_at_the_fork_and_keeps_it_when_given_another_parent() {
        let mut p = Processes::default();
        p.executed(key(1, 0), 1, exe("/init"));
        p.executed(key(10, 10), 11, exe("/bin/sh"));
        p.executed(key(10, 10), 50, exe("/bin/other"));
        // Forked at 20, when the parent still was /bin/sh.
        let got = p.resolve(&[key(11, 20), key(10, 10), key(1, 0)], 60);
        assert_eq!(names(&got)[0], ("/bin/sh".into(), ExeSource::Inherited));
        assert_eq!(names(&got)[1], ("/bin/other".into(), ExeSource::Recorded));
        let got = p.resolve(&[key(11, 20), key(1, 0)], 70);
        assert_eq!(names(&got)[0], ("/bin/sh".into(), ExeSource::Inherited));
    }

    #[test]
    fn a_pid_used_again_is_another_process() {
        let mut p = Processes::default();
        p.executed(key(10, 10), 11, exe("/bin/a"));
        p.executed(key(10, 90), 91, exe("/bin/b"));
        p.executed(key(10, 10), 12, exe("/bin/late"));
        assert_eq!(names(&p.resolve(&[key(10, 90)], 100))[0].0, "/bin/b");
        assert_eq!(
            names(&p.resolve(&[key(10, 10)], 100))[0],
            (String::new(), ExeSource::Unknown)
        );
    }

    #[test]
    fn a_kernel_thread_is_unknown_and_nothing_is_inherited_from_it() {
        let mut p = Processes::default();
        p.seed(2, 0, 10, exe(""));
        let got = p.resolve(&[key(40, 30), key(2, 0)], 100);
        assert!(
            got.iter()
                .all(|a| a.source == ExeSource::Unknown && a.exe.is_empty())
        );
    }
}

//! Which cgroup hierarchy separates tasks on this machine.
//!
//! On v2 a task has one cgroup. On v1 and on hybrid machines containers live in the hierarchies of the
//! controllers; every container runtime uses `pids` or `memory`, so the first of these that has a v1
//! hierarchy is taken.

use super::{Error, Result};
use std::path::{Path, PathBuf};

/// The hierarchy whose directories are the cgroups of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its number in /proc/self/cgroup; 0 is v2.
    pub id: u32,
    /// `pids` or `memory` for v1; `None` for v2.
    pub controller: Option<&'static str>,
    /// Where its root is mounted, to look for directories older than the load.
    pub mount: PathBuf,
}

impl Hierarchy {
    /// Finds it out from `/proc/self/cgroup` and `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`Error::Cgroups`] if there is none or it is not mounted; [`Error::Io`] if /proc cannot be read.
    pub fn detect() -> Result<Hierarchy> {
        let read = |path: &str| {
            std::fs::read(path).map_err(|source| Error::Io {
                what: "read",
                path: path.into(),
                source,
            })
        };
        Hierarchy::from_proc(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
    }

    /// As [`Hierarchy::detect`], from the bytes of the two files.
    ///
    /// # Errors
    /// [`Error::Cgroups`].
    pub fn from_proc(cgroup: &[u8], mountinfo: &[u8]) -> Result<Hierarchy> {
        let lines = || {
            cgroup.split(|&b| b == b'\n').filter_map(|line| {
                let mut fields = std::str::from_utf8(line.get(..line.len().min(512))?)
                    .ok()?
                    .splitn(3, ':');
                Some((fields.next()?.parse::<u32>().ok()?, fields.next()?.to_owned()))
            })
        };
        for controller in ["pids", "memory"] {
            if let Some((id, _)) =
                lines().find(|(id, list)| *id != 0 && list.split(',').any(|c| c == controller))
            {
                let mount =
                    mount_point(mountinfo, "cgroup", Some(controller)).ok_or_else(|| Error::Cgroups {
                        why: format!(
                            "the v1 hierarchy of {controller} is in use and mounted nowhere in sight"
                        ),
                    })?;
                return Ok(Hierarchy {
                    id,
                    controller: Some(controller),
                    mount,
                });
            }
        }
        if lines().any(|(id, _)| id == 0) {
            let mount = mount_point(mountinfo, "cgroup2", None).ok_or_else(|| Error::Cgroups {
                why: "cgroup2 is not mounted: mount it on /sys/fs/cgroup".to_owned(),
            })?;
            return Ok(Hierarchy {
                id: 0,
                controller: None,
                mount,
            });
        }
        Err(Error::Cgroups {
            why: "neither v2 nor the v1 controllers pids and memory are there".to_owned(),
        })
    }
}

/// The first mount of the hierarchy's own root (field 4 is `/`), as mountinfo shows it.
/// Format: Documentation/filesystems/proc.rst, section 3.5.
fn mount_point(mountinfo: &[u8], fstype: &str, controller: Option<&str>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    mountinfo.split(|&b| b == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
        let separator = fields.iter().skip(6).position(|f| *f == b"-")? + 6;
        let fits = *fields.get(separator + 1)? == fstype.as_bytes()
            && *fields.get(3)? == b"/"
            && controller.is_none_or(|c| {
                fields
                    .get(separator + 3)
                    .is_some_and(|o| o.split(|&b| b == b',').any(|x| x == c.as_bytes()))
            });
        fits.then(|| {
            fields
                .get(4)
                .map(|m| Path::new(std::ffi::OsStr::from_bytes(&unescape(m))).to_owned())
        })?
    })
}

/// Undoes mountinfo's octal escapes (`\040` for a blank).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| {
                digits.iter().try_fold(0u32, |n, d| {
                    (b'0'..=b'7').contains(d).then(|| n * 8 + u32::from(d - b'0'))
                })
            });
        match octal.and_then(|n| u8::try_from(n).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &[u8] = b"30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
        33 25 0:30 / /sys/fs/cgroup/pids rw,nosuid shared:13 - cgroup cgroup rw,pids\n\
        34 25 0:31 / /sys/fs/cgroup/mem\\040ory rw,nosuid shared:14 - cgroup cgroup rw,memory\n";

    #[test]
    fn pure_v2_is_the_v2_hierarchy() {
        let h = Hierarchy::from_proc(
            b"0::/init.scope\n",
            b"30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        );
        let want = Hierarchy {
            id: 0,
            controller: None,
            mount: "/sys/fs/cgroup".into(),
        };
        assert_eq!(h.unwrap(), want);
    }

    #[test]
    fn hybrid_takes_the_v1_pids_hierarchy_though_v2_is_mounted() {
        let h = Hierarchy::from_proc(b"9:memory:/\n7:pids:/\n1:name=systemd:/\n0::/\n", V1).unwrap();
        assert_eq!(
            h,
            Hierarchy {
                id: 7,
                controller: Some("pids"),
                mount: "/sys/fs/cgroup/pids".into()
            }
        );
    }

    #[test]
    fn without_pids_the_memory_hierarchy_is_taken_and_escapes_are_undone() {
        let h = Hierarchy::from_proc(b"9:memory:/\n", V1).unwrap();
        assert_eq!(
            h,
            Hierarchy {
                id: 9,
                controller: Some("memory"),
                mount: "/sys/fs/cgroup/mem ory".into()
            }
        );
    }

    #[test]
    fn no_hierarchy_and_an_unmounted_one_are_errors() {
        for (cgroup, mounts) in [
            (&b""[..], V1),
            (b"1:name=systemd:/\n", V1),
            (b"0::/\n", b""),
            (b"4:pids:/\n", b""),
        ] {
            assert!(matches!(
                Hierarchy::from_proc(cgroup, mounts),
                Err(Error::Cgroups { .. })
            ));
        }
    }

    #[test]
    fn odd_lines_are_passed_over() {
        assert!(Hierarchy::from_proc(b"\xff\n:::\nx:y\n0::/\n", b"- - -\n\n1 2\n- cgroup2").is_err());
    }
}

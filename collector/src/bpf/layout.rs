//! Struct offsets and prototypes of the running kernel and the number of its digests, for the programs'
//! read-only configuration.
//!
//! Programs written in Rust carry no CO-RE relocations. What they need is looked up here, before load, in the
//! kernel's own type information (BTF); a struct, member or function that is absent or has another size is an
//! error that names it. No address of a kernel variable is needed, so that kernels without
//! CONFIG_KALLSYMS_ALL serve, too.

use super::{Error, Hierarchy, Result};
use crate::decode::HASH_ALGOS;
use btf_rs::{Btf, BtfType, Type};
use cgpath_ebpf_common::{Config, NO_SUBSYSTEM, overlay};
use std::path::{Path, PathBuf};

/// What the kernel may be handed as bytes; the numbers differ between kernels.
const LOADS: &str = "kernel_load_data_id";

const BTF_HINT: &str = "this release knows 6.1 to 7.3; please report the kernel's version";

/// Everything the programs must know about this kernel.
///
/// `btf_path` is the kernel's type information, `tpm` the directory of IMA's TPM in /sys/class/tpm, `None`
/// where IMA found none.
///
/// # Errors
/// [`Error::Btf`] or [`Error::Missing`]; [`Error::Io`] where that directory cannot be read.
pub(super) fn config(btf_path: &Path, tpm: Option<&Path>, hierarchy: &Hierarchy) -> Result<Config> {
    let types = Types::read(btf_path)?;
    let config = Config {
        digest_slots: tpm.map_or(Ok(WITHOUT_TPM), digest_slots)?,
        ..types.config(hierarchy)?
    };
    Ok(types.with_overlay(config, btf_path))
}

/// Whether this type information, or that of the module beside it, has what it takes to know the files of an
/// overlay's layers.
///
/// # Errors
/// [`Error::Btf`].
pub fn knows_overlay(btf_path: &Path) -> Result<bool> {
    let config = Types::read(btf_path)?.with_overlay(Config::default(), btf_path);
    Ok(config.overlay != overlay::UNKNOWN)
}

/// Whether this type information has everything that the programs need.
///
/// # Errors
/// [`Error::Btf`] or [`Error::Missing`], which names what is not there.
pub fn resolve(btf_path: &Path) -> Result<()> {
    let types = Types::read(btf_path)?;
    // Which hierarchy names the pods decides one enumerator of one of the controllers, which every kernel
    // has.
    let hierarchy = Hierarchy {
        id: 0,
        controller: None,
        mount: PathBuf::new(),
    };
    types.config(&hierarchy).map(|_| ())
}

/// Functions that the kernel offers to programs and that ours call, and the kernel that they came with.
const HELPERS: [(&str, &str); 5] = [
    ("BPF_FUNC_probe_read_kernel", "5.5"),
    ("BPF_FUNC_ringbuf_reserve", "5.8"),
    ("BPF_FUNC_ktime_get_boot_ns", "5.8"),
    ("BPF_FUNC_d_path", "5.10"),
    ("BPF_FUNC_ima_file_hash", "5.18"),
];

/// Hooks of the guard with their parameters, but for `bpf`.
const GUARD_HOOKS: [(&str, &[&str]); 8] = [
    ("bpf_map", &["map", "fmode"]),
    ("bpf_prog", &["prog"]),
    ("inode_unlink", &["dir", "dentry"]),
    ("inode_rmdir", &["dir", "dentry"]),
    (
        "inode_rename",
        &["old_dir", "old_dentry", "new_dir", "new_dentry"],
    ),
    ("sb_umount", &["mnt", "flags"]),
    ("ptrace_access_check", &["child", "mode"]),
    ("file_open", &["file"]),
];

/// Hooks where the kernel takes bytes from a process, with their parameters.
const LOAD_HOOKS: [(&str, &[&str]); 2] = [
    ("kernel_post_load_data", &["buf", "size", "id", "description"]),
    ("kernel_load_data", &["id", "contents"]),
];

/// What a member must be, in bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Exactly(usize),
    AtLeast(usize),
    Any,
}

use Size::{Any, AtLeast, Exactly};

struct Types {
    btf: Btf,
}

fn missing(what: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Missing {
        what: what.into(),
        hint: hint.into(),
    }
}

impl Types {
    fn read(path: &Path) -> Result<Types> {
        Types::read_with(path, Btf::from_bytes)
    }

    /// Reads the whole file first: btf-rs asks for its place behind each type, which is a system call for a
    /// file (130,000 of them) and none for bytes.
    fn read_with(path: &Path, parse: impl FnOnce(&[u8]) -> btf_rs::Result<Btf>) -> Result<Types> {
        let btf = std::fs::read(path)
            .map_err(btf_rs::Error::IO)
            .and_then(|bytes| parse(&bytes));
        let btf = btf.map_err(|source| Error::Btf {
            path: path.to_owned(),
            source,
        })?;
        Ok(Types { btf })
    }

    fn named(&self, name: &str) -> Vec<Type> {
        self.btf.resolve_types_by_name(name).unwrap_or_default()
    }

    /// Offset of `path` (`member` or `member.member`) in `struct name`, in bytes.
    ///
    /// A kernel may have several structs of one name; those that have the member must agree.
    fn offset(&self, name: &str, path: &str, size: Size) -> Result<u32> {
        let what = || format!("struct {name}.{path}");
        let mut found: Option<(u32, Option<usize>)> = None;
        for ty in self.named(name) {
            let (Type::Struct(s) | Type::Union(s)) = &ty else {
                continue;
            };
            let Some(place) = self.member(s, path, 0) else {
                continue;
            };
            if found.is_some_and(|f| f != place) {
                return Err(missing(
                    what(),
                    "it has several structs of that name, which differ",
                ));
            }
            found = Some(place);
        }
        let (offset, bytes) = found.ok_or_else(|| missing(what(), BTF_HINT))?;
        let fits = match (size, bytes) {
            (Any, _) => true,
            (Exactly(want), Some(have)) => want == have,
            (AtLeast(want), Some(have)) => have >= want,
            (_, None) => false,
        };
        if !fits {
            let want = match size {
                Exactly(n) => format!("{n}"),
                AtLeast(n) => format!("at least {n}"),
                Any => String::new(),
            };
            let have = bytes.map_or_else(|| "of unknown size".to_owned(), |n| format!("{n} bytes long"));
            return Err(missing(
                format!("{} of {want} bytes", what()),
                format!("it is {have}; {BTF_HINT}"),
            ));
        }
        Ok(offset)
    }

    /// Offset in bytes and size of a member, looked for in unnamed members too.
    fn member(&self, in_struct: &btf_rs::Struct, path: &str, depth: usize) -> Option<(u32, Option<usize>)> {
        // Deeper than any kernel struct; keeps odd type information from recursing for ever.
        if depth > 8 {
            return None;
        }
        let (first, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
        for member in &in_struct.members {
            let name = self.btf.resolve_name(member).ok()?;
            let bit = member.bit_offset();
            if bit % 8 != 0 {
                continue;
            }
            let down = |path: &str| match self.plain(member)? {
                Type::Struct(s) | Type::Union(s) => self.member(&s, path, depth + 1),
                _ => None,
            };
            let place = match (name == first, name.is_empty(), rest) {
                (true, _, None) if member.bitfield_size().is_none_or(|n| n == 0) => {
                    Some((0, self.size(member, 0)))
                }
                (true, _, Some(rest)) => down(rest),
                (_, true, _) => down(path),
                _ => None,
            };
            if let Some((offset, size)) = place {
                return Some((bit / 8 + offset, size));
            }
        }
        None
    }

    /// The type that `of` refers to, without typedefs and qualifiers.
    fn plain<T: BtfType + ?Sized>(&self, of: &T) -> Option<Type> {
        let mut ty = self.btf.resolve_chained_type(of).ok()?;
        for _ in 0..32 {
            let next = match &ty {
                Type::Typedef(t) => self.btf.resolve_chained_type(t),
                Type::Volatile(t) | Type::Const(t) | Type::Restrict(t) => self.btf.resolve_chained_type(t),
                Type::TypeTag(t) => self.btf.resolve_chained_type(t),
                _ => return Some(ty),
            };
            ty = next.ok()?;
        }
        None
    }

    /// Size in bytes of the type that `of` refers to.
    fn size<T: BtfType + ?Sized>(&self, of: &T, depth: usize) -> Option<usize> {
        if depth > 8 {
            return None;
        }
        match self.plain(of)? {
            Type::Int(t) => Some(t.size()),
            Type::Ptr(_) => Some(8),
            Type::Struct(t) | Type::Union(t) => Some(t.size()),
            Type::Enum(t) => Some(t.size()),
            Type::Enum64(t) => Some(t.size()),
            Type::Array(t) => self.size(&t, depth + 1)?.checked_mul(t.len()),
            _ => None,
        }
    }

    fn struct_size(&self, name: &str) -> Result<u32> {
        self.named(name)
            .into_iter()
            .find_map(|ty| match ty {
                Type::Struct(s) => u32::try_from(s.size()).ok(),
                _ => None,
            })
            .ok_or_else(|| missing(format!("struct {name}"), BTF_HINT))
    }

    /// The value of an enumerator.
    fn enumerator(&self, of: &str, name: &str) -> Result<u32> {
        let what = || format!("{name} in enum {of}");
        self.named(of)
            .into_iter()
            .filter_map(|ty| match ty {
                Type::Enum(e) => Some(e),
                _ => None,
            })
            .find_map(|e| {
                e.members
                    .iter()
                    .find(|m| self.btf.resolve_name(*m).is_ok_and(|n| n == name))
                    .map(|m| m.val())
            })
            .ok_or_else(|| missing(what(), BTF_HINT))
    }

    /// Checks that a function takes exactly these parameters, in this order.
    fn prototype(&self, function: &str, params: &[&str], hint: &str) -> Result<()> {
        let protos = self.named(function).into_iter().filter_map(|ty| match ty {
            Type::Func(f) => match self.btf.resolve_chained_type(&f) {
                Ok(Type::FuncProto(p)) => Some(p),
                _ => None,
            },
            _ => None,
        });
        let mut seen = Vec::new();
        for proto in protos {
            let names: Vec<String> = proto
                .parameters
                .iter()
                .map(|p| self.btf.resolve_name(p).unwrap_or_default())
                .collect();
            // Newer kernels append what a pointer may be: `file__nullable`.
            let same = |have: &String, want: &&str| have.split("__").next() == Some(*want);
            if names.len() == params.len() && names.iter().zip(params).all(|(have, want)| same(have, want)) {
                return Ok(());
            }
            seen.push(names.join(", "));
        }
        match seen.first() {
            None => Err(missing(format!("function {function}"), hint)),
            Some(names) => Err(missing(
                format!("function {function}({})", params.join(", ")),
                format!("it takes ({names}); {BTF_HINT}"),
            )),
        }
    }

    fn prototypes(&self) -> Result<()> {
        let ima = "CONFIG_IMA=y is needed, and the function must not be inlined";
        let lsm = "CONFIG_BPF_LSM=y is needed";
        self.prototype(
            "ima_add_template_entry",
            &["entry", "violation", "op", "inode", "filename"],
            ima,
        )?;
        self.prototype("bpf_lsm_bprm_committed_creds", &["bprm"], lsm)?;
        self.prototype("bpf_lsm_bprm_check_security", &["bprm"], lsm)?;
        self.prototype("bpf_lsm_mmap_file", &["file", "reqprot", "prot", "flags"], lsm)?;
        self.prototype("bpf_lsm_file_mprotect", &["vma", "reqprot", "prot"], lsm)?;
        // 6.16 appended whether the kernel itself calls.
        self.prototype("bpf_lsm_bpf", &["cmd", "attr", "size"], lsm)
            .or_else(|_| self.prototype("bpf_lsm_bpf", &["cmd", "attr", "size", "kernel"], lsm))?;
        for (hook, params) in GUARD_HOOKS.into_iter().chain(LOAD_HOOKS) {
            self.prototype(&format!("bpf_lsm_{hook}"), params, lsm)?;
        }
        for tracepoint in ["cgroup_mkdir", "cgroup_rename", "cgroup_rmdir"] {
            if self.named(&format!("btf_trace_{tracepoint}")).is_empty() {
                return Err(missing(
                    format!("tracepoint {tracepoint}"),
                    "CONFIG_CGROUPS=y is needed",
                ));
            }
        }
        Ok(())
    }

    /// The numbers by which the kernel names hash algorithms are part of its user-space interface; still,
    /// they are what turns bytes into evidence.
    fn hash_numbers(&self) -> Result<()> {
        for (bank, number) in HASH_ALGOS {
            let name = format!("HASH_ALGO_{}", bank.name().to_uppercase());
            let found = self.enumerator("hash_algo", &name)?;
            if found != number {
                return Err(missing(
                    format!("{name} = {number}"),
                    format!("it is {found}; {BTF_HINT}"),
                ));
            }
        }
        Ok(())
    }

    /// All but what depends on the TPM.
    fn config(&self, hierarchy: &Hierarchy) -> Result<Config> {
        self.prototypes()?;
        self.hash_numbers()?;
        for (helper, since) in HELPERS {
            self.enumerator("bpf_func_id", helper).map_err(|_| {
                let hint = format!("it came with {since}, and some distributions have it in older kernels");
                missing(format!("{helper} in enum bpf_func_id"), hint)
            })?;
        }
        self.offsets(hierarchy)
    }

    /// The same with what is known of overlayfs, which is a module on most distributions: its types are there
    /// while it is loaded. Without them records do not name the files of layers.
    fn with_overlay(&self, config: Config, btf_path: &Path) -> Config {
        let module = Types::read_with(&btf_path.with_file_name("overlay"), |bytes| {
            Btf::from_split_bytes(bytes, &self.btf)
        })
        .ok();
        let types = module.as_ref().unwrap_or(self);
        types.overlay(config).unwrap_or(config)
    }

    /// Source: fs/overlayfs/ovl_entry.h of 6.1, 6.12 and 7.3.
    fn overlay(&self, config: Config) -> Result<Config> {
        let known = Config {
            ovl_inode_vfs_inode: self.offset("ovl_inode", "vfs_inode", Any)?,
            ovl_inode_upper: self.offset("ovl_inode", "__upperdentry", Exactly(8))?,
            ovl_inode_flags: self.offset("ovl_inode", "flags", Exactly(8))?,
            ovl_upperdata: self.enumerator("ovl_inode_flag", "OVL_UPPERDATA")?,
            ..config
        };
        let Ok(lower) = self.offset("ovl_inode", "oe", Exactly(8)) else {
            return Ok(Config {
                overlay: overlay::PATH,
                ovl_inode_lower: self.offset("ovl_inode", "lowerpath.dentry", Exactly(8))?,
                ovl_inode_lowerdata: self.offset("ovl_inode", "lowerdata", Exactly(8))?,
                ..known
            });
        };
        let first = self.offset("ovl_entry", "__lowerstack", Any)?;
        Ok(Config {
            overlay: overlay::STACK,
            ovl_inode_lower: lower,
            ovl_entry_numlower: self.offset("ovl_entry", "__numlower", Exactly(4))?,
            ovl_entry_lower: first + self.offset("ovl_path", "dentry", Exactly(8))?,
            ovl_path_size: self.struct_size("ovl_path")?,
            ..known
        })
    }

    fn offsets(&self, hierarchy: &Hierarchy) -> Result<Config> {
        let cgroup_subsys = match hierarchy.controller {
            None => NO_SUBSYSTEM,
            Some(controller) => self.enumerator("cgroup_subsys_id", &format!("{controller}_cgrp_id"))?,
        };
        // 6.15 renamed it.
        let kernfs_node_parent = self
            .offset("kernfs_node", "parent", Exactly(8))
            .or_else(|_| self.offset("kernfs_node", "__parent", Exactly(8)))?;
        Ok(Config {
            cgroup_subsys,
            cgroup_hierarchy: hierarchy.id,
            loading_module: self.enumerator(LOADS, "LOADING_MODULE")?,
            loading_kexec: self.enumerator(LOADS, "LOADING_KEXEC_IMAGE")?,
            template_entry_pcr: self.offset("ima_template_entry", "pcr", Exactly(4))?,
            template_entry_digests: self.offset("ima_template_entry", "digests", Exactly(8))?,
            tpm_digest_size: self.struct_size("tpm_digest")?,
            tpm_digest_alg_id: self.offset("tpm_digest", "alg_id", Exactly(2))?,
            tpm_digest_digest: self.offset("tpm_digest", "digest", Exactly(64))?,
            binprm_file: self.offset("linux_binprm", "file", Exactly(8))?,
            binprm_buf: self.offset("linux_binprm", "buf", AtLeast(2))?,
            binprm_filename: self.offset("linux_binprm", "filename", Exactly(8))?,
            file_f_path: self.offset("file", "f_path", Exactly(16))?,
            file_f_inode: self.offset("file", "f_inode", Exactly(8))?,
            file_f_mode: self.offset("file", "f_mode", Exactly(4))?,
            file_private_data: self.offset("file", "private_data", Exactly(8))?,
            path_mnt: self.offset("path", "mnt", Exactly(8))?,
            path_dentry: self.offset("path", "dentry", Exactly(8))?,
            inode_i_mode: self.offset("inode", "i_mode", Exactly(2))?,
            inode_i_ino: self.offset("inode", "i_ino", Exactly(8))?,
            inode_i_sb: self.offset("inode", "i_sb", Exactly(8))?,
            inode_i_rdev: self.offset("inode", "i_rdev", Exactly(4))?,
            inode_i_generation: self.offset("inode", "i_generation", Exactly(4))?,
            inode_i_writecount: self.offset("inode", "i_writecount", Exactly(4))?,
            inode_i_readcount: self.offset("inode", "i_readcount", Exactly(4))?,
            super_block_s_dev: self.offset("super_block", "s_dev", Exactly(4))?,
            super_block_s_magic: self.offset("super_block", "s_magic", Exactly(8))?,
            super_block_s_user_ns: self.offset("super_block", "s_user_ns", Exactly(8))?,
            super_block_s_root: self.offset("super_block", "s_root", Exactly(8))?,
            inode_i_size: self.offset("inode", "i_size", Exactly(8))?,
            dentry_d_parent: self.offset("dentry", "d_parent", Exactly(8))?,
            dentry_d_name: self.offset("dentry", "d_name.name", Exactly(8))?,
            dentry_d_inode: self.offset("dentry", "d_inode", Exactly(8))?,
            dentry_d_hash_pprev: self.offset("dentry", "d_hash.pprev", Exactly(8))?,
            mount_mnt: self.offset("mount", "mnt", Any)?,
            mount_mnt_parent: self.offset("mount", "mnt_parent", Exactly(8))?,
            mount_mnt_mountpoint: self.offset("mount", "mnt_mountpoint", Exactly(8))?,
            mount_mnt_ns: self.offset("mount", "mnt_ns", Exactly(8))?,
            vfsmount_mnt_root: self.offset("vfsmount", "mnt_root", Exactly(8))?,
            vfsmount_mnt_sb: self.offset("vfsmount", "mnt_sb", Exactly(8))?,
            vma_vm_file: self.offset("vm_area_struct", "vm_file", Exactly(8))?,
            vma_vm_flags: self.offset("vm_area_struct", "vm_flags", Exactly(8))?,
            task_group_leader: self.offset("task_struct", "group_leader", Exactly(8))?,
            task_real_parent: self.offset("task_struct", "real_parent", Exactly(8))?,
            task_tgid: self.offset("task_struct", "tgid", Exactly(4))?,
            task_start_boottime: self.offset("task_struct", "start_boottime", Exactly(8))?,
            task_nsproxy: self.offset("task_struct", "nsproxy", Exactly(8))?,
            task_thread_pid: self.offset("task_struct", "thread_pid", Exactly(8))?,
            task_cgroups: self.offset("task_struct", "cgroups", Exactly(8))?,
            task_fs: self.offset("task_struct", "fs", Exactly(8))?,
            task_files: self.offset("task_struct", "files", Exactly(8))?,
            task_ptrace: self.offset("task_struct", "ptrace", Exactly(4))?,
            task_cred: self.offset("task_struct", "cred", Exactly(8))?,
            cred_user_ns: self.offset("cred", "user_ns", Exactly(8))?,
            // An array of words until 6.3, one number since: the same bytes on a little-endian machine, and
            // the programs are built for no other.
            cred_cap_effective: self.offset("cred", "cap_effective", Exactly(8))?,
            user_namespace_level: self.offset("user_namespace", "level", Exactly(4))?,
            proc_inode_vfs_inode: self.offset("proc_inode", "vfs_inode", Any)?,
            proc_inode_sysctl: self.offset("proc_inode", "sysctl", Exactly(8))?,
            files_fdt: self.offset("files_struct", "fdt", Exactly(8))?,
            fdtable_max_fds: self.offset("fdtable", "max_fds", Exactly(4))?,
            fdtable_fd: self.offset("fdtable", "fd", Exactly(8))?,
            fs_root: self.offset("fs_struct", "root", Exactly(16))?,
            nsproxy_mnt_ns: self.offset("nsproxy", "mnt_ns", Exactly(8))?,
            mnt_namespace_inum: self.offset("mnt_namespace", "ns.inum", Exactly(4))?,
            mnt_namespace_user_ns: self.offset("mnt_namespace", "user_ns", Exactly(8))?,
            pid_level: self.offset("pid", "level", Exactly(4))?,
            pid_numbers: self.offset("pid", "numbers", Any)?,
            upid_size: self.struct_size("upid")?,
            upid_ns: self.offset("upid", "ns", Exactly(8))?,
            pid_namespace_inum: self.offset("pid_namespace", "ns.inum", Exactly(4))?,
            css_set_subsys: self.offset("css_set", "subsys", AtLeast(8))?,
            css_set_dfl_cgrp: self.offset("css_set", "dfl_cgrp", Exactly(8))?,
            css_cgroup: self.offset("cgroup_subsys_state", "cgroup", Exactly(8))?,
            cgroup_kn: self.offset("cgroup", "kn", Exactly(8))?,
            cgroup_root: self.offset("cgroup", "root", Exactly(8))?,
            cgroup_level: self.offset("cgroup", "level", Exactly(4))?,
            cgroup_ancestors: self.offset("cgroup", "ancestors", Any)?,
            cgroup_root_hierarchy_id: self.offset("cgroup_root", "hierarchy_id", Exactly(4))?,
            kernfs_node_id: self.offset("kernfs_node", "id", Exactly(8))?,
            kernfs_node_parent,
            kernfs_node_name: self.offset("kernfs_node", "name", Exactly(8))?,
            bpf_map_id: self.offset("bpf_map", "id", Exactly(4))?,
            bpf_map_name: self.offset("bpf_map", "name", Exactly(16))?,
            bpf_prog_aux: self.offset("bpf_prog", "aux", Exactly(8))?,
            bpf_prog_aux_id: self.offset("bpf_prog_aux", "id", Exactly(4))?,
            bpf_prog_aux_name: self.offset("bpf_prog_aux", "name", Exactly(16))?,
            bpf_link_id: self.offset("bpf_link", "id", Exactly(4))?,
            ..Config::default()
        })
    }
}

/// Digests that carry the number of their algorithm where IMA found no TPM: SHA-1 alone.
const WITHOUT_TPM: u32 = 1;

/// How many digests of an entry's array carry the number of their algorithm: one for each bank of the TPM
/// that is allocated, and after them SHA-1 where no bank has it. What may follow (the hash of files in a bank
/// that the TPM has not) has none. Source: security/integrity/ima/ima_crypto.c, `ima_init_crypto` and
/// `ima_calc_field_array_hash`.
///
/// `class` is /sys/class/tpm/tpm0 of the chip that IMA found; the kernel makes a directory `pcr-ALG` there
/// for each such bank (drivers/char/tpm/tpm-sysfs.c, `tpm_sysfs_add_device`, since 5.12). A bank of an
/// algorithm that the kernel has no such directory for makes the number too small, never too large: nothing
/// beyond the array is read.
fn digest_slots(class: &Path) -> Result<u32> {
    let io = |source| Error::Io {
        what: "read",
        path: class.to_owned(),
        source,
    };
    let (mut banks, mut sha1) = (0, false);
    for entry in std::fs::read_dir(class).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if let Some(bank) = name.to_str().and_then(|name| name.strip_prefix("pcr-")) {
            banks += 1;
            sha1 |= bank == "sha1";
        }
    }
    if banks == 0 {
        return Err(missing(
            format!("bank of a TPM 2.0 in {}", class.display()),
            "IMA has to extend a TPM 2.0 with an allocated bank; `cgpathd check` says what is missing",
        ));
    }
    Ok(banks + u32::from(!sha1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn symbols(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn digests_are_counted_by_the_banks_that_the_kernel_shows() {
        let class = |names: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            for name in names {
                std::fs::create_dir(dir.path().join(name)).unwrap();
            }
            dir
        };
        for (names, slots) in [
            (&["pcr-sha1", "pcr-sha256", "ppi", "power"][..], 2),
            // SHA-1 is behind the banks where none of them has it.
            (&["pcr-sha256"], 2),
            (&["pcr-sha256", "pcr-sha384", "pcr-sm3"], 4),
        ] {
            assert_eq!(digest_slots(class(names).path()).unwrap(), slots, "{names:?}");
        }
        // Without a bank nothing is known of the array, and nothing of it may be read.
        let error = digest_slots(class(&["ppi"]).path()).unwrap_err().to_string();
        assert!(error.contains("bank of a TPM 2.0"), "{error}");
        assert!(matches!(
            digest_slots(Path::new("/does/not/exist")),
            Err(Error::Io { .. })
        ));
    }

    #[test]
    fn bytes_that_are_not_type_information_are_an_error() {
        let hierarchy = Hierarchy {
            id: 0,
            controller: None,
            mount: "/".into(),
        };
        for bytes in [
            "",
            "\u{1}",
            "not BTF at all, but longer than its header is, by some bytes",
        ] {
            let file = symbols(bytes);
            let result = config(file.path(), Some(file.path()), &hierarchy);
            assert!(
                matches!(result, Err(Error::Btf { .. } | Error::Missing { .. })),
                "{result:?}"
            );
        }
    }
}

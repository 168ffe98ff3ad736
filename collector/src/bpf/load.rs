//! Loading, attaching and pinning; and taking over what an earlier collector pinned.
//!
//! The map `meta` is pinned last and read first: pins without it are left from a load that never finished.

#![allow(
    unsafe_code,
    reason = "aya asks for this promise about what is read from maps"
)]

use super::{Adopted, Error, Hierarchy, ProgramOptions, Result, budgets::Budgets, layout, marks::Marks};
use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapInfo, RingBuf},
    programs::{
        BtfTracePoint, FEntry, FExit, Lsm, Program, ProgramFd, ProgramInfo,
        links::{FdLink, PinnedLink},
    },
};
use cgpath_ebpf_common::{
    Budget, Config, Counters, LAYOUT_VERSION, Loss, Mark, Meta, NO_SUBSYSTEM, Settings, overlay,
};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Entry of a kernel function.
    Entry(&'static str),
    /// Exit of a kernel function.
    Exit(&'static str),
    /// Hook of the security framework.
    Lsm(&'static str),
    /// Raw tracepoint with types.
    Tracepoint(&'static str),
}

/// All programs, in the order in which they are attached: names of cgroups first, since all else refers to
/// them.
pub(super) const PROGRAMS: [(&str, Hook); 23] = [
    ("cgroup_made", Hook::Tracepoint("cgroup_mkdir")),
    ("cgroup_renamed", Hook::Tracepoint("cgroup_rename")),
    ("cgroup_removed", Hook::Tracepoint("cgroup_rmdir")),
    // The first of the two: it counts the calls, so none may be there without it.
    (ENTRY, Hook::Exit("ima_add_template_entry")),
    (ENTRY_TWIN, Hook::Exit("ima_add_template_entry")),
    // Behind those that take the marks away again: a call that begins in between would leave one.
    (BEGUN, Hook::Entry("ima_add_template_entry")),
    (BEGUN_TWIN, Hook::Entry("ima_add_template_entry")),
    ("executed", Hook::Lsm("bprm_committed_creds")),
    ("script", Hook::Lsm("bprm_check_security")),
    ("mapped", Hook::Lsm("mmap_file")),
    ("made_executable", Hook::Lsm("file_mprotect")),
    ("layer_opened", Hook::Lsm("file_open")),
    ("deny_execution", Hook::Lsm("bprm_check_security")),
    ("deny_mapping", Hook::Lsm("mmap_file")),
    ("guard_call", Hook::Lsm("bpf")),
    ("guard_map", Hook::Lsm("bpf_map")),
    ("guard_program", Hook::Lsm("bpf_prog")),
    ("guard_unlink", Hook::Lsm("inode_unlink")),
    ("guard_rmdir", Hook::Lsm("inode_rmdir")),
    ("guard_rename", Hook::Lsm("inode_rename")),
    ("guard_unmount", Hook::Lsm("sb_umount")),
    ("guard_trace", Hook::Lsm("ptrace_access_check")),
    ("guard_open", Hook::Lsm("file_open")),
];

/// The two programs that see each call of `ima_add_template_entry` and record it once.
pub(super) const ENTRY: &str = "entry_added";
/// See [`ENTRY`].
pub(super) const ENTRY_TWIN: &str = "entry_added_twin";

/// The two programs that mark a thread inside of `ima_add_template_entry`.
pub(super) const BEGUN: &str = "entry_begun";
/// See [`BEGUN`].
pub(super) const BEGUN_TWIN: &str = "entry_begun_twin";

/// Names of the maps in the object.
const RECORDS: &str = "RECORDS";
const COUNTERS: &str = "COUNTERS";
const SETTINGS: &str = "SETTINGS";
const LOSS: &str = "LOSS";
const PODS: &str = "PODS";
const PARENTS: &str = "PARENTS";
const GUARDED: &str = "GUARDED";
const IDENTITY: &str = "IDENTITY";
const IN_FLIGHT: &str = "IN_FLIGHT";
const BUDGETS: &str = "BUDGETS";

/// All maps that are pinned and opened again, with the bytes of a value; the ring has none.
const MAPS: [(&str, usize); 10] = [
    (RECORDS, 0),
    (COUNTERS, size_of::<Counters>()),
    (SETTINGS, size_of::<Settings>()),
    (LOSS, size_of::<Loss>()),
    (PODS, size_of::<u32>()),
    (PARENTS, size_of::<u32>()),
    (GUARDED, size_of::<u32>()),
    (IDENTITY, size_of::<[u64; 8]>()),
    (IN_FLIGHT, size_of::<Mark>()),
    (BUDGETS, size_of::<Budget>()),
];

/// What a collector must have in common with the programs that run, to take them over: the layout of records,
/// the names of programs, and the names of maps with the sizes of their values, as one hash.
pub fn interface() -> [u8; 32] {
    let hash = Sha256::new().chain_update(LAYOUT_VERSION.to_be_bytes());
    let named = |hash: Sha256, name: &str| hash.chain_update(name).chain_update([0u8]);
    let hash = PROGRAMS.iter().fold(hash, |hash, (name, _)| named(hash, name));
    let hash = MAPS.iter().fold(hash, |hash, (name, bytes)| {
        named(hash, name).chain_update((*bytes as u64).to_be_bytes())
    });
    hash.finalize().into()
}

/// Lets aya copy our layouts to and from maps.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: repr(C), integers only, no padding (checked by a test of `decode`), any bytes are valid.
unsafe impl Pod for Plain<Config> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Counters> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Meta> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Settings> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Loss> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Mark> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Budget> {}

/// One program with its link, both pinned.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) name: &'static str,
    /// Held, so that the text of `fdinfo` stays this program's.
    _fd: ProgramFd,
    /// What the kernel says of it: /proc/self/fdinfo of its descriptor, read anew from the start each time.
    pub(super) fdinfo: File,
    pub(super) id: u32,
    /// Held, so that removing the pin detaches nothing.
    _link: FdLink,
    pub(super) link_id: u32,
    pub(super) link_pin: PathBuf,
    program_pin: PathBuf,
}

/// Everything that runs.
pub(super) struct Loaded {
    pub(super) programs: Vec<Attached>,
    pub(super) ring: RingBuf<MapData>,
    pub(super) counters: Array<MapData, Plain<Counters>>,
    pub(super) marks: Marks,
    pub(super) budgets: Budgets,
    pub(super) controls: Controls,
    pub(super) meta: Meta,
    /// Held as long as the programs are used.
    pub(super) lock: Flock<File>,
}

/// The maps that hold what the programs do.
pub(super) struct Controls {
    pub(super) settings: Array<MapData, Plain<Settings>>,
    pub(super) loss: Array<MapData, Plain<Loss>>,
    pub(super) pods: HashMap<MapData, u64, u32>,
    pub(super) parents: HashMap<MapData, u64, u32>,
    pub(super) guarded: HashMap<MapData, u64, u32>,
    pub(super) identity: HashMap<MapData, u32, [u64; 8]>,
    /// Ids of all maps.
    pub(super) map_ids: Vec<u32>,
}

impl Controls {
    fn open(mut map: impl FnMut(&str) -> Result<Map>) -> Result<Controls> {
        Ok(Controls {
            settings: Array::try_from(map(SETTINGS)?).map_err(kernel("open", SETTINGS))?,
            loss: Array::try_from(map(LOSS)?).map_err(kernel("open", LOSS))?,
            pods: HashMap::try_from(map(PODS)?).map_err(kernel("open", PODS))?,
            parents: HashMap::try_from(map(PARENTS)?).map_err(kernel("open", PARENTS))?,
            guarded: HashMap::try_from(map(GUARDED)?).map_err(kernel("open", GUARDED))?,
            identity: HashMap::try_from(map(IDENTITY)?).map_err(kernel("open", IDENTITY))?,
            map_ids: Vec::new(),
        })
    }
}

/// Ids of the maps that the programs use, and of `meta`, which none uses.
fn map_ids(programs: &[Attached], meta_pin: &Path) -> Result<Vec<u32>> {
    let meta = MapInfo::from_pin(meta_pin).map_err(kernel("ask about", "meta"))?;
    let mut ids = vec![meta.id()];
    for program in programs {
        let info = ProgramInfo::from_pin(&program.program_pin).map_err(kernel("open", program.name))?;
        ids.extend(
            info.map_ids()
                .map_err(kernel("ask about the maps of", program.name))?
                .unwrap_or_default(),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

pub(super) fn kernel<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
    name: impl Into<String>,
) -> impl FnOnce(E) -> Error {
    let name = name.into();
    move |source| Error::Kernel {
        what,
        name,
        source: Box::new(source),
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

fn pin_of(dir: &Path, kind: &str, name: &str) -> PathBuf {
    // No dots: bpffs keeps them for itself.
    dir.join(format!("{kind}_{name}"))
}

/// The pin without which nothing is complete.
pub(super) fn meta_pin(dir: &Path) -> PathBuf {
    pin_of(dir, "map", "meta")
}

pub(super) fn load_or_adopt(
    options: &ProgramOptions<'_>,
    object: [u8; 32],
) -> Result<(Loaded, Adopted, Hierarchy)> {
    let dir = &options.pin_dir;
    make_dir(dir)?;
    let lock = lock(dir)?;
    let meta_pin = meta_pin(dir);
    if exists(&meta_pin)? {
        let (loaded, hierarchy) = adopt(options, &meta_pin, object, lock)?;
        return Ok((loaded, Adopted::Existing, hierarchy));
    }
    let removed_leftovers = clear(dir)?;
    match load(options, &meta_pin, object, lock) {
        Ok((loaded, hierarchy)) => Ok((loaded, Adopted::Fresh { removed_leftovers }, hierarchy)),
        Err(error) => {
            // Half of the programs would keep running, and counting, for nobody.
            clear(dir)?;
            Err(error)
        }
    }
}

/// The pinned ring buffer by itself, with the lock that makes its holder the only one; `None` where there is
/// none.
pub(super) fn ring_alone(dir: &Path) -> Result<Option<(RingBuf<MapData>, Flock<File>)>> {
    if !exists(&meta_pin(dir))? {
        return Ok(None);
    }
    let lock = lock(dir)?;
    let at = pin_of(dir, "map", RECORDS);
    let ring = RingBuf::try_from(map_at(&at, Map::RingBuf)?).map_err(not_ours(&at))?;
    Ok(Some((ring, lock)))
}

/// Removes all pins of a directory; says whether there were any.
pub(super) fn clear(dir: &Path) -> Result<bool> {
    let mut any = false;
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let path = entry.map_err(io_error("read", dir))?.path();
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
        any = true;
    }
    Ok(any)
}

pub(super) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(io_error("look at", path))
}

/// Makes the directory of the pins, on bpffs.
fn make_dir(dir: &Path) -> Result<()> {
    const BPFFS: &str = "/sys/fs/bpf";
    let option = |why: String| Error::Option { name: "pin_dir", why };
    let mut on = dir;
    while !exists(on)? {
        on = on
            .parent()
            .ok_or_else(|| option(format!("{} has no parent that exists", dir.display())))?;
    }
    if !is_bpffs(on)? {
        if on != Path::new(BPFFS) {
            let why = format!("{} is not on bpffs; use a directory below {BPFFS}", dir.display());
            return Err(option(why));
        }
        let none: Option<&str> = None;
        nix::mount::mount(
            Some("bpf"),
            BPFFS,
            Some("bpf"),
            nix::mount::MsFlags::empty(),
            none,
        )
        .map_err(|e| Error::Io {
            what: "mount bpffs on",
            path: BPFFS.into(),
            source: e.into(),
        })?;
    }
    fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io_error("restrict", dir))
}

fn is_bpffs(path: &Path) -> Result<bool> {
    let fs = nix::sys::statfs::statfs(path).map_err(|e| Error::Io {
        what: "look at the file system of",
        path: path.to_owned(),
        source: e.into(),
    })?;
    Ok(fs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// Two consumers of one ring would each see half of the records.
fn lock(dir: &Path) -> Result<Flock<File>> {
    let file = File::open(dir).map_err(io_error("open", dir))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => Error::Busy { dir: dir.to_owned() },
        other => Error::Io {
            what: "lock",
            path: dir.to_owned(),
            source: other.into(),
        },
    })
}

/// Without `bpf` among the active security modules, its programs load and attach but are never called.
fn check_lsm() -> Result<()> {
    let path = Path::new("/sys/kernel/security/lsm");
    let list = fs::read_to_string(path).map_err(io_error("read (is securityfs mounted?)", path))?;
    if list.trim().split(',').any(|m| m == "bpf") {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("active security module bpf (active: {})", list.trim()),
        hint: format!(
            "boot with {} on the kernel's command line",
            lsm_parameter(list.trim())
        ),
    })
}

/// Lockdown of kind `confidentiality` refuses programs the helpers that read kernel memory, which the
/// kernel's verifier tells as an unknown helper.
fn check_lockdown() -> Result<()> {
    let path = Path::new("/sys/kernel/security/lockdown");
    match fs::read_to_string(path) {
        Ok(modes) if modes.contains("[confidentiality]") => Err(Error::Refused {
            what: "lockdown=confidentiality is in force: eBPF programs may not read kernel memory".to_owned(),
            hint: "boot with lockdown=integrity on the kernel's command line".to_owned(),
        }),
        // A kernel without lockdown has no such file.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("read", path)(error)),
        _ => Ok(()),
    }
}

/// The kernel parameter that makes `bpf` active, for what /sys/kernel/security/lsm shows now.
///
/// `integrity` keeps IMA's state of each inode. Before it became part of IMA it registered no hooks, so that
/// the file never names it, and a kernel of that age panics at the first measured file if `lsm=` leaves it
/// out (`integrity_inode_get` in security/integrity/iint.c, 6.1). Where IMA is itself a module (`ima` is
/// active) the name is not needed; a name that a kernel does not know is ignored (`ordered_lsm_parse` in
/// security/security.c).
pub fn lsm_parameter(active: &str) -> String {
    let mut modules: Vec<&str> = active.split(',').filter(|module| !module.is_empty()).collect();
    let needs_integrity = !modules.contains(&"ima");
    for (module, needed) in [("integrity", needs_integrity), ("bpf", true)] {
        if needed && !modules.contains(&module) {
            modules.push(module);
        }
    }
    format!("lsm={}", modules.join(","))
}

fn load(
    options: &ProgramOptions<'_>,
    meta_pin: &Path,
    object: [u8; 32],
    lock: Flock<File>,
) -> Result<(Loaded, Hierarchy)> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096);
    let page = u32::try_from(page).unwrap_or(4096);
    if !options.ring_bytes.is_power_of_two() || options.ring_bytes < page {
        let why = format!("{} is not a power of two of at least {page}", options.ring_bytes);
        return Err(Error::Option {
            name: "ring_bytes",
            why,
        });
    }
    check_lsm()?;
    check_lockdown()?;
    super::guard::check_tick()?;
    let hierarchy = options.hierarchy.clone().map_or_else(Hierarchy::detect, Ok)?;
    let tpm = options.ima_has_tpm.then_some(Path::new("/sys/class/tpm/tpm0"));
    let config = Config {
        max_hash_mib: options.max_hash_mib,
        hash_served: options.hash_served.into(),
        ..layout::config(&options.kernel_btf, tpm, &hierarchy)?
    };
    if config.overlay == overlay::UNKNOWN {
        tracing::warn!(
            "the types of overlayfs are not there: records will not name the files of its layers (hint: load \
             the module overlay before cgpathd)"
        );
    }
    let btf = Btf::parse_file(&options.kernel_btf, aya::Endianness::default())
        .map_err(kernel("parse", options.kernel_btf.display().to_string()))?;
    // A copy: the allocator aligns it, which the parser needs and the caller's bytes may not be.
    let bytes = options.object.to_vec();
    let config = Plain(config);
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("CONFIG", &config, true)
        .map_max_entries(RECORDS, options.ring_bytes)
        .load(&bytes)
        .map_err(kernel("load", "the object"))?;
    #[cfg(feature = "aya-log")]
    forward_debug_events(&mut ebpf);

    let dir = &options.pin_dir;
    let ring = pinned_map(&mut ebpf, dir, RECORDS)?;
    let ring = RingBuf::try_from(ring).map_err(kernel("map", RECORDS))?;
    let counters = pinned_map(&mut ebpf, dir, COUNTERS)?;
    let counters = Array::try_from(counters).map_err(kernel("open", COUNTERS))?;
    let marks = pinned_map(&mut ebpf, dir, IN_FLIGHT)?;
    let marks = Marks::new(marks).map_err(kernel("open", IN_FLIGHT))?;
    let budgets = pinned_map(&mut ebpf, dir, BUDGETS)?;
    let budgets = Budgets::new(budgets).map_err(kernel("open", BUDGETS))?;
    let mut controls = Controls::open(|name| pinned_map(&mut ebpf, dir, name))?;
    // Verification takes the time; attaching follows at one go, so that all start to see at the same moment.
    for (name, hook) in PROGRAMS {
        verify(&mut ebpf, name, hook, &btf)?;
    }
    let programs = PROGRAMS
        .iter()
        .map(|(name, _)| attach(&mut ebpf, dir, name))
        .collect::<Result<Vec<_>>>()?;

    let meta = Meta {
        layout: u32::from(LAYOUT_VERSION),
        cgroup_subsys: config.0.cgroup_subsys,
        cgroup_hierarchy: config.0.cgroup_hierarchy,
        pad: 0,
        loaded_ns: boot_ns()?,
        object,
    };
    let mut map: Array<MapData, Plain<Meta>> = Array::create(1, 0).map_err(kernel("create", "meta"))?;
    map.set(0, Plain(meta), 0).map_err(kernel("write", "meta"))?;
    map.pin(meta_pin).map_err(kernel("pin", "meta"))?;
    controls.map_ids = map_ids(&programs, meta_pin)?;
    Ok((
        Loaded {
            programs,
            ring,
            counters,
            marks,
            budgets,
            controls,
            meta,
            lock,
        },
        hierarchy,
    ))
}

/// CLOCK_BOOTTIME, nanoseconds.
pub(super) fn boot_ns() -> Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_err(|e| Error::Io {
        what: "read",
        path: "CLOCK_BOOTTIME".into(),
        source: e.into(),
    })?;
    Ok(u64::try_from(std::time::Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

/// Hands the programs' debug events to the log, where the object was built with them.
#[cfg(feature = "aya-log")]
fn forward_debug_events(ebpf: &mut Ebpf) {
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(mut logger) => {
            std::thread::spawn(move || {
                loop {
                    logger.flush();
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            });
        }
        Err(error) => tracing::info!(%error, "this object has no debug events"),
    }
}

fn pinned_map(ebpf: &mut Ebpf, dir: &Path, name: &str) -> Result<Map> {
    let map = ebpf.take_map(name).ok_or_else(|| not_in_object("map", name))?;
    map.pin(pin_of(dir, "map", name)).map_err(kernel("pin", name))?;
    Ok(map)
}

fn not_in_object(what: &str, name: &str) -> Error {
    Error::Option {
        name: "object",
        why: format!("it has no {what} {name}: it was built from other sources"),
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name)
        .ok_or_else(|| not_in_object("program", name))
}

/// Has the kernel verify and load one program.
fn verify(ebpf: &mut Ebpf, name: &'static str, hook: Hook, btf: &Btf) -> Result<()> {
    let program = program(ebpf, name)?;
    match hook {
        Hook::Entry(function) => {
            let program: &mut FEntry = program.try_into().map_err(kernel("use", name))?;
            program.load(function, btf)
        }
        Hook::Exit(function) => {
            let program: &mut FExit = program.try_into().map_err(kernel("use", name))?;
            program.load(function, btf)
        }
        Hook::Lsm(hook) => {
            let program: &mut Lsm = program.try_into().map_err(kernel("use", name))?;
            program.load(hook, btf)
        }
        Hook::Tracepoint(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into().map_err(kernel("use", name))?;
            program.load(tracepoint, btf)
        }
    }
    .map_err(kernel("load", name))
}

/// Linux' own error ENOTSUPP, which no C library knows (include/linux/errno.h).
const ENOTSUPP: i32 = 524;

/// What to do about a kernel that has functions and programs and cannot call the ones from the others.
pub const DIRECT_CALLS_HINT: &str =
    "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS is needed, which arm64 has from 6.4 on";

fn attach_error<E: std::error::Error + Send + Sync + 'static>(name: &str, source: E) -> Error {
    if os_error(&source) == Some(ENOTSUPP) {
        return Error::Refused {
            what: format!(
                "cannot attach {name}: this kernel cannot call eBPF programs from its functions (error 524)"
            ),
            hint: DIRECT_CALLS_HINT.to_owned(),
        };
    }
    kernel("attach", name)(source)
}

/// Attaches and pins one program.
fn attach(ebpf: &mut Ebpf, dir: &Path, name: &'static str) -> Result<Attached> {
    let program = program(ebpf, name)?;
    let fail = || move |source| attach_error(name, source);
    let link = match program {
        Program::FEntry(p) => {
            let id = p.attach().map_err(fail())?;
            p.take_link(id).map(FdLink::from).map_err(fail())?
        }
        Program::FExit(p) => {
            let id = p.attach().map_err(fail())?;
            p.take_link(id).map(FdLink::from).map_err(fail())?
        }
        Program::Lsm(p) => {
            let id = p.attach().map_err(fail())?;
            p.take_link(id).map(FdLink::from).map_err(fail())?
        }
        Program::BtfTracePoint(p) => {
            let id = p.attach().map_err(fail())?;
            p.take_link(id).map(FdLink::from).map_err(fail())?
        }
        _ => return Err(not_in_object("fentry, fexit, LSM or tracepoint program", name)),
    };
    let program_pin = pin_of(dir, "prog", name);
    program.pin(&program_pin).map_err(kernel("pin", name))?;
    let link_pin = pin_of(dir, "link", name);
    let link = FdLink::from(link.pin(&link_pin).map_err(kernel("pin the link of", name))?);
    opened(name, &program_pin, link, link_pin)
}

/// Puts a program's parts together and checks that they belong to each other.
fn opened(name: &'static str, program_pin: &Path, link: FdLink, link_pin: PathBuf) -> Result<Attached> {
    let info = ProgramInfo::from_pin(program_pin).map_err(kernel("open", name))?;
    let fd = info.fd().map_err(kernel("open", name))?;
    let link_info = link.info().map_err(kernel("ask about the link of", name))?;
    if link_info.program_id() != info.id() {
        let why = format!(
            "it attaches program {}, not {}",
            link_info.program_id(),
            info.id()
        );
        return Err(Error::Pin { path: link_pin, why });
    }
    let fdinfo = PathBuf::from(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()));
    let fdinfo = File::open(&fdinfo).map_err(|source| Error::Io {
        what: "open",
        path: fdinfo,
        source,
    })?;
    Ok(Attached {
        name,
        _fd: fd,
        fdinfo,
        id: info.id(),
        _link: link,
        link_id: link_info.id(),
        link_pin,
        program_pin: program_pin.to_owned(),
    })
}

fn adopt(
    options: &ProgramOptions<'_>,
    meta_pin: &Path,
    object: [u8; 32],
    lock: Flock<File>,
) -> Result<(Loaded, Hierarchy)> {
    let dir = &options.pin_dir;
    let meta = map_at(meta_pin, Map::Array)?;
    let meta: Array<MapData, Plain<Meta>> = Array::try_from(meta).map_err(not_ours(meta_pin))?;
    let Plain(meta) = meta.get(&0, 0).map_err(kernel("read", "meta"))?;
    let is_it = meta.object == object || Some(meta.object) == options.handed_over;
    if !is_it || meta.layout != u32::from(LAYOUT_VERSION) {
        let (found, expected) = (hex::encode(meta.object), hex::encode(object));
        return Err(Error::OtherObject {
            found,
            expected,
            dir: dir.clone(),
        });
    }
    let hierarchy = options.hierarchy.clone().map_or_else(Hierarchy::detect, Ok)?;
    let v1 = meta.cgroup_subsys != NO_SUBSYSTEM;
    if meta.cgroup_hierarchy != hierarchy.id || v1 != hierarchy.controller.is_some() {
        let why = format!(
            "the programs tell tasks apart by hierarchy {}, this machine now by {}: controllers were \
             remounted",
            meta.cgroup_hierarchy, hierarchy.id
        );
        return Err(Error::Cgroups { why });
    }
    let at = pin_of(dir, "map", RECORDS);
    let ring = RingBuf::try_from(map_at(&at, Map::RingBuf)?).map_err(not_ours(&at))?;
    let at = pin_of(dir, "map", COUNTERS);
    let counters = Array::try_from(map_at(&at, Map::Array)?).map_err(not_ours(&at))?;
    let at = pin_of(dir, "map", IN_FLIGHT);
    let marks = Marks::new(map_at(&at, Map::HashMap)?).map_err(not_ours(&at))?;
    let at = pin_of(dir, "map", BUDGETS);
    let budgets = Budgets::new(map_at(&at, Map::HashMap)?).map_err(not_ours(&at))?;
    let mut controls = Controls::open(|name| {
        let kind = match name {
            SETTINGS | LOSS => Map::Array,
            _ => Map::HashMap,
        };
        map_at(&pin_of(dir, "map", name), kind)
    })?;
    let programs = PROGRAMS
        .iter()
        .map(|(name, _)| {
            let link_pin = pin_of(dir, "link", name);
            let link = PinnedLink::from_pin(&link_pin).map_err(not_ours(&link_pin))?;
            let program_pin = pin_of(dir, "prog", name);
            opened(name, &program_pin, FdLink::from(link), link_pin)
        })
        .collect::<Result<Vec<_>>>()?;
    controls.map_ids = map_ids(&programs, meta_pin)?;
    Ok((
        Loaded {
            programs,
            ring,
            counters,
            marks,
            budgets,
            controls,
            meta,
            lock,
        },
        hierarchy,
    ))
}

fn not_ours<E: std::error::Error + 'static>(path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |e| {
        if is_denied(&e) {
            return Error::Denied { path };
        }
        let why = with_causes(&e);
        Error::Pin { path, why }
    }
}

/// Whether EPERM is the cause of an error.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    os_error(error) == Some(nix::libc::EPERM)
}

/// The kernel's number for the cause of an error.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = cause.source();
    }
    None
}

/// An error and its causes in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Some errors repeat their cause.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn map_at(path: &Path, kind: fn(MapData) -> Map) -> Result<Map> {
    MapData::from_pin(path).map(kind).map_err(not_ours(path))
}

#[cfg(test)]
mod tests {
    use super::{attach_error, lsm_parameter};
    use std::io;

    /// As aya has it: the kernel's error is the source of another one.
    #[derive(Debug, thiserror::Error)]
    #[error("`bpf_raw_tracepoint_open` failed")]
    struct Call(#[source] io::Error);

    #[test]
    fn error_524_names_what_the_kernel_lacks_and_since_when_it_has_it() {
        let said = attach_error("entry_added", Call(io::Error::from_raw_os_error(524))).to_string();
        for part in ["entry_added", "524", "DIRECT_CALLS", "arm64", "6.4"] {
            assert!(said.contains(part), "{said}");
        }
        let other = attach_error("entry_added", Call(io::Error::from_raw_os_error(12))).to_string();
        assert_eq!(other, "cannot attach entry_added");
    }

    #[test]
    fn integrity_is_kept_for_kernels_that_do_not_list_it_and_panic_without() {
        for (active, parameter) in [
            // 6.1: IMA works, and neither it nor `integrity` is listed.
            (
                "lockdown,capability,landlock,yama,apparmor",
                "lsm=lockdown,capability,landlock,yama,apparmor,integrity,bpf",
            ),
            ("capability", "lsm=capability,integrity,bpf"),
            ("", "lsm=integrity,bpf"),
            // 6.8 and newer: IMA is a module of its own and always active.
            (
                "lockdown,capability,apparmor,ima,evm",
                "lsm=lockdown,capability,apparmor,ima,evm,bpf",
            ),
            // Nothing twice, nothing in another order.
            ("capability,integrity,yama", "lsm=capability,integrity,yama,bpf"),
            ("capability,bpf,yama", "lsm=capability,bpf,yama,integrity"),
            ("capability,integrity,bpf", "lsm=capability,integrity,bpf"),
            ("capability,bpf,ima", "lsm=capability,bpf,ima"),
        ] {
            assert_eq!(lsm_parameter(active), parameter);
        }
    }
}

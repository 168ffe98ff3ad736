//! Loading, attaching and pinning; and taking over what an earlier collector pinned.
//!
//! The map `meta` is pinned last and read first: pins without it are left from a load that never finished.

#![allow(
    unsafe_code,
    reason = "aya asks for this promise about what is read from maps"
)]

use super::{
    Adopted, Error, Hierarchy, ProgramOptions, Result,
    budgets::Budgets,
    layout,
    marks::Marks,
    object::{
        BUDGETS, COUNTERS, GUARDED, Hook, IDENTITY, IN_FLIGHT, LOSS, PARENTS, PODS, PROGRAMS, RECORDS,
        SETTINGS, map_names,
    },
    places::{self, Placed, Plan},
    requirements,
};
use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapInfo, RingBuf},
    programs::{
        BtfTracePoint, FEntry, FExit, Lsm, Program, ProgramFd, ProgramInfo,
        links::{FdLink, PinnedLink},
    },
};
use cgpath_ebpf_common::{
    Budget, Config, Counters, LAYOUT_VERSION, Loss, Mark, Meta, NO_SUBSYSTEM, Settings, class, overlay,
};
use nix::fcntl::{Flock, FlockArg};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// What a collector with another object finds in `meta`, beyond what [`super::object::interface`] says.
type Note = Array<MapData, Plain<Meta>>;

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
pub(super) struct Attached {
    pub(super) name: &'static str,
    /// Held, so that the text of `fdinfo` stays this program's.
    _fd: ProgramFd,
    /// What the kernel says of it: /proc/self/fdinfo of its descriptor, read anew from the start each time.
    pub(super) fdinfo: File,
    pub(super) id: u32,
    pub(super) verified_instructions: u32,
    /// Held, so that removing the pin detaches nothing.
    _link: FdLink,
    pub(super) link_id: u32,
    pub(super) link_pin: PathBuf,
    program_pin: PathBuf,
    /// What it goes on in, if it is a gate.
    pub(super) placed: Option<Placed>,
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
fn map_ids(programs: &[Attached], dir: &Path) -> Result<Vec<u32>> {
    let meta = MapInfo::from_pin(meta_pin(dir)).map_err(kernel("ask about", "meta"))?;
    let mut ids = vec![meta.id()];
    let attached = programs
        .iter()
        .map(|program| (program.name, program.program_pin.clone()));
    let placed = places::gates().map(|(gate, _)| (gate, pin_of(dir, "prog", &places::program_of(gate))));
    for (name, pin) in attached.chain(placed) {
        let info = ProgramInfo::from_pin(&pin).map_err(kernel("open", name))?;
        ids.extend(
            info.map_ids()
                .map_err(kernel("ask about the maps of", name))?
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

pub(super) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

pub(super) fn pin_of(dir: &Path, kind: &str, name: &str) -> PathBuf {
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

fn load(
    options: &ProgramOptions<'_>,
    meta_pin: &Path,
    object: [u8; 32],
    lock: Flock<File>,
) -> Result<(Loaded, Hierarchy)> {
    let page = super::page_size().map_or(4096, |page| u32::try_from(page).unwrap_or(4096));
    if !options.ring_bytes.is_power_of_two() || options.ring_bytes < page {
        let why = format!("{} is not a power of two of at least {page}", options.ring_bytes);
        return Err(Error::Option {
            name: "ring_bytes",
            why,
        });
    }
    requirements::check()?;
    super::guard::check_tick()?;
    let hierarchy = options.hierarchy.clone().map_or_else(Hierarchy::detect, Ok)?;
    let config = config(options, &hierarchy)?;
    let btf = Btf::parse_file(&options.kernel_btf, aya::Endianness::default())
        .map_err(kernel("parse", options.kernel_btf.display().to_string()))?;
    let mut ebpf = parsed(options, Plain(config), &btf)?;
    #[cfg(feature = "aya-log")]
    forward_debug_events(&mut ebpf);

    let dir = &options.pin_dir;
    let ring = map_of(&mut ebpf, RECORDS)?;
    let ring = RingBuf::try_from(ring).map_err(kernel("map", RECORDS))?;
    let counters = map_of(&mut ebpf, COUNTERS)?;
    let counters = Array::try_from(counters).map_err(kernel("open", COUNTERS))?;
    let marks = map_of(&mut ebpf, IN_FLIGHT)?;
    let marks = Marks::new(marks).map_err(kernel("open", IN_FLIGHT))?;
    let budgets = map_of(&mut ebpf, BUDGETS)?;
    let budgets = Budgets::new(budgets).map_err(kernel("open", BUDGETS))?;
    let mut controls = Controls::open(|name| map_of(&mut ebpf, name))?;
    // Verification takes the time; attaching follows at one go, so that all start to see at the same moment.
    for (name, hook) in PROGRAMS {
        verify(&mut ebpf, name, hook, &btf)?;
    }
    verify_placed(&mut ebpf, &btf)?;
    // A gate sees nothing while its place is empty.
    for (name, _) in places::gates() {
        places::fill(&mut ebpf, dir, name)?;
    }
    let programs = PROGRAMS
        .iter()
        .map(|(name, _)| attach(&mut ebpf, dir, name))
        .collect::<Result<Vec<_>>>()?;
    let programs = places::opened(programs, dir)?;

    let meta = Meta {
        layout: u32::from(LAYOUT_VERSION),
        cgroup_subsys: config.cgroup_subsys,
        cgroup_hierarchy: config.cgroup_hierarchy,
        pad: 0,
        loaded_ns: boot_ns()?,
        object,
        placed: object,
        placing: [0; 32],
    };
    let mut map: Note = Array::create(1, 0).map_err(kernel("create", "meta"))?;
    map.set(0, Plain(meta), 0).map_err(kernel("write", "meta"))?;
    map.pin(meta_pin).map_err(kernel("pin", "meta"))?;
    controls.map_ids = map_ids(&programs, dir)?;
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

/// The object's maps and programs. A map that is pinned already is the one that its programs use; others are
/// made and pinned.
fn parsed(options: &ProgramOptions<'_>, config: Plain<Config>, btf: &Btf) -> Result<Ebpf> {
    // A copy: the allocator aligns it, which the parser needs and the caller's bytes may not be.
    let bytes = options.object.to_vec();
    let names = map_names();
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .override_global("CONFIG", &config, true)
        .map_max_entries(RECORDS, options.ring_bytes);
    for name in &names {
        loader.map_pin_path(name, pin_of(&options.pin_dir, "map", name));
    }
    let ebpf = loader.load(&bytes).map_err(kernel("load", "the object"))?;
    // What it holds would be lost to the programs of the next object. The compiler's own maps hold constants.
    let is_known = |name: &str| {
        name.starts_with('.') || name.starts_with("AYA_LOG") || names.iter().any(|known| known == name)
    };
    if let Some((name, _)) = ebpf.maps().find(|(name, _)| !is_known(name)) {
        return Err(Error::Option {
            name: "object",
            why: format!(
                "it has a map {name} that the loader does not know: it was built from other sources"
            ),
        });
    }
    Ok(ebpf)
}

fn map_of(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).ok_or_else(|| not_in_object("map", name))
}

fn not_in_object(what: &str, name: &str) -> Error {
    Error::Option {
        name: "object",
        why: format!("it has no {what} {name}: it was built from other sources"),
    }
}

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name)
        .ok_or_else(|| not_in_object("program", name))
}

/// Has the kernel verify and load one program.
fn verify(ebpf: &mut Ebpf, name: &str, hook: Hook, btf: &Btf) -> Result<()> {
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

/// The same for the programs that the gates go on in.
fn verify_placed(ebpf: &mut Ebpf, btf: &Btf) -> Result<()> {
    for (name, hook) in places::gates() {
        verify(ebpf, &places::program_of(name), hook, btf)?;
    }
    Ok(())
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
        verified_instructions: verified_instructions(&info)?,
        _link: link,
        link_id: link_info.id(),
        link_pin,
        program_pin: program_pin.to_owned(),
        placed: None,
    })
}

/// How many instructions the kernel's verifier walked through when it loaded this program.
pub(super) fn verified_instructions(info: &ProgramInfo) -> Result<u32> {
    info.verified_instruction_count()
        .ok_or_else(|| not_shown("verified_insns"))
}

/// A number of a program that the kernel does not show.
pub(super) fn not_shown(name: &str) -> Error {
    Error::Missing {
        what: format!("{name} in /proc/self/fdinfo for eBPF programs"),
        hint: "6.1 or newer is needed".into(),
    }
}

fn adopt(
    options: &ProgramOptions<'_>,
    meta_pin: &Path,
    object: [u8; 32],
    lock: Flock<File>,
) -> Result<(Loaded, Hierarchy)> {
    let dir = &options.pin_dir;
    let note = map_at(meta_pin, Map::Array)?;
    let mut note: Note = Array::try_from(note).map_err(not_ours(meta_pin))?;
    let Plain(mut meta) = note.get(&0, 0).map_err(kernel("read", "meta"))?;
    let plan = places::plan(&meta, object, options.handed_over, options.replaces);
    let plan = match plan {
        Some(plan) if meta.layout == u32::from(LAYOUT_VERSION) => plan,
        _ => {
            return Err(Error::OtherObject {
                found: hex::encode(meta.placed),
                expected: hex::encode(object),
                dir: dir.clone(),
            });
        }
    };
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
    if plan != Plan::Keep {
        places::check(dir, &controls.guarded)?;
        let guarded = &mut controls.guarded;
        let guard = |id: u32| {
            let key = class::PROGRAM | u64::from(id);
            guarded.insert(key, 1, 0).map_err(kernel("write", "GUARDED"))
        };
        let done = programs_of(options, &hierarchy)
            .and_then(|mut ebpf| places::replace(&mut ebpf, dir, &mut note, &mut meta, object, guard));
        if let Err(error) = done {
            if meta.placing != [0; 32] {
                return Err(error);
            }
            tracing::error!(
                error = with_causes(&error),
                running = hex::encode(meta.placed),
                "this collector's eBPF programs cannot take the places of the earlier one's: those go on \
                 until the next boot"
            );
        }
    }
    let programs = PROGRAMS
        .iter()
        .map(|(name, _)| {
            let link_pin = pin_of(dir, "link", name);
            let link = PinnedLink::from_pin(&link_pin).map_err(not_ours(&link_pin))?;
            let program_pin = pin_of(dir, "prog", name);
            opened(name, &program_pin, FdLink::from(link), link_pin)
        })
        .collect::<Result<Vec<_>>>()?;
    let programs = places::opened(programs, dir)?;
    controls.map_ids = map_ids(&programs, dir)?;
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

/// This object's programs for the places, verified and in none, with the maps that are pinned.
fn programs_of(options: &ProgramOptions<'_>, hierarchy: &Hierarchy) -> Result<Ebpf> {
    let btf = Btf::parse_file(&options.kernel_btf, aya::Endianness::default())
        .map_err(kernel("parse", options.kernel_btf.display().to_string()))?;
    let mut ebpf = parsed(options, Plain(config(options, hierarchy)?), &btf)?;
    verify_placed(&mut ebpf, &btf)?;
    Ok(ebpf)
}

/// What the programs must know of this kernel.
fn config(options: &ProgramOptions<'_>, hierarchy: &Hierarchy) -> Result<Config> {
    let tpm = options.ima_has_tpm.then_some(Path::new("/sys/class/tpm/tpm0"));
    let config = Config {
        max_hash_mib: options.max_hash_mib,
        hash_served: options.hash_served.into(),
        ..layout::config(&options.kernel_btf, tpm, hierarchy)?
    };
    if config.overlay == overlay::UNKNOWN {
        tracing::warn!(
            "the types of overlayfs are not there: records will not name the files of its layers (hint: load \
             the module overlay before cgpathd)"
        );
    }
    Ok(config)
}

pub(super) fn not_ours<E: std::error::Error + 'static>(path: &Path) -> impl FnOnce(E) -> Error {
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
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
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

pub(super) fn map_at(path: &Path, kind: fn(MapData) -> Map) -> Result<Map> {
    MapData::from_pin(path).map(kind).map_err(not_ours(path))
}

#[cfg(test)]
mod tests {
    use super::attach_error;
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
}

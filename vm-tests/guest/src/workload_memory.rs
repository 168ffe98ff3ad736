//! Executable mappings of several kinds: the part of the workloads that needs `unsafe`.
//!
//! Not here: files and cgroups (see `workload`).

#![allow(unsafe_code, reason = "code is written into memory and run")]

use crate::workload_guard::Attempts;
use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr::NonNull;
use vm_protocol::spec::Attempt;

const PAGE: usize = 4096;
/// What code that was written somewhere gives back.
const ANSWER: u8 = 43;

fn page() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(PAGE - 1)
}

/// A function that returns `answer`: mov eax, answer; ret.
fn returning(answer: u8) -> [u8; 6] {
    [0xb8, answer, 0, 0, 0, 0xc3]
}

/// Writes such a function to the start of a writable page.
fn write_code(at: NonNull<c_void>, answer: u8) {
    let code = returning(answer);
    // SAFETY: `at` is the start of a writable mapping of one page that nothing of this process refers to.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at.as_ptr().cast::<u8>(), code.len()) };
}

/// Calls what [`write_code`] wrote.
fn call(at: NonNull<c_void>) -> i32 {
    // SAFETY: the page at `at` is executable and begins with a complete function of this signature that
    // touches nothing but its return register.
    let function = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> i32>(at.as_ptr()) };
    function()
}

fn unmap(at: NonNull<c_void>) -> Result<()> {
    // SAFETY: `at` was mapped here with one page, and no reference into it is left.
    unsafe { munmap(at, PAGE) }.context("munmap")
}

/// Runs code in anonymous memory: mapped executable at once, then made so later.
///
/// # Errors
/// When the kernel refuses.
pub fn anonymous() -> Result<()> {
    let all = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
    // SAFETY: a new private mapping at an address that the kernel chooses.
    let at = unsafe { mmap_anonymous(None, page(), all, MapFlags::MAP_PRIVATE) }
        .context("cannot map anonymous memory executable")?;
    write_code(at, 41);
    ensure!(call(at) == 41, "code in anonymous memory did not run");
    unmap(at)?;

    let write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: as above.
    let at = unsafe { mmap_anonymous(None, page(), write, MapFlags::MAP_PRIVATE) }
        .context("cannot map anonymous memory")?;
    write_code(at, 42);
    // SAFETY: the mapping is ours alone; nothing writes to it any more.
    unsafe { mprotect(at, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) }
        .context("cannot make anonymous memory executable")?;
    ensure!(
        call(at) == 42,
        "code in anonymous memory did not run after mprotect"
    );
    unmap(at)
}

/// Maps a file's first page executable and unmaps it.
///
/// # Errors
/// When the kernel refuses.
pub fn map_executable(file: &File) -> Result<()> {
    unmap(mapped(file)?)
}

/// Maps a file's first page executable.
///
/// # Errors
/// When the kernel refuses.
pub fn mapped(file: &File) -> Result<NonNull<c_void>> {
    private(file, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC).context("cannot map the file executable")
}

fn private(file: &File, protection: ProtFlags) -> nix::Result<NonNull<c_void>> {
    // SAFETY: a new private mapping at an address that the kernel chooses.
    unsafe { mmap(None, page(), protection, MapFlags::MAP_PRIVATE, file, 0) }
}

/// Whether what ran gave the expected answer.
fn ran(answer: i32) -> io::Result<()> {
    if answer == i32::from(ANSWER) {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Runs code that no file holds, in each way that a process has without a mapping of a file that is writable
/// and executable at once: where one is mapped executable, written through /proc/self/mem; in anonymous
/// memory; and in a child.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn without_file(file: &Path, argv: &[String]) -> Result<Vec<Attempt>> {
    let mut tried = Attempts::default();
    let file = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    tried.note("a mapping, through /proc/self/mem", through_own_mem(&file));
    let anonymous = anonymous().map_err(|_| io::ErrorKind::InvalidData.into());
    tried.note("anonymous memory", anonymous);
    tried.note("a child's memory", in_child(argv)?);
    Ok(tried.finish())
}

/// Runs code that is written into a mapping of a file while that is executable, too: of the first file, a
/// private one; of the second, one that is made writable later; of the third, a shared one, which changes
/// that file.
///
/// # Errors
/// When an attempt cannot even be made.
pub fn in_writable_mappings([first, second, third]: &[String; 3]) -> Result<Vec<Attempt>> {
    let open = |path: &String, write| {
        let file = OpenOptions::new().read(true).write(write).open(path);
        file.with_context(|| format!("cannot open {path}"))
    };
    let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
    let execute = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    let mut tried = Attempts::default();
    let file = open(first, false)?;
    tried.note("a private mapping", runs_what_is_written(private(&file, both)));
    let file = open(second, false)?;
    let made = private(&file, execute).and_then(|at| {
        // SAFETY: the mapping is ours alone.
        unsafe { mprotect(at, PAGE, both) }.map(|()| at)
    });
    tried.note("a mapping that is made writable", runs_what_is_written(made));
    let file = open(third, true)?;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let shared = unsafe { mmap(None, page(), both, MapFlags::MAP_SHARED, &file, 0) };
    tried.note("a shared mapping", runs_what_is_written(shared));
    Ok(tried.finish())
}

fn runs_what_is_written(mapped: nix::Result<NonNull<c_void>>) -> io::Result<()> {
    let at = mapped?;
    write_code(at, ANSWER);
    ran(call(at))
}

fn through_own_mem(file: &File) -> io::Result<()> {
    let at = private(file, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC)?;
    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    memory.write_all_at(&returning(ANSWER), at.as_ptr().addr() as u64)?;
    ran(call(at))
}

/// Starts a program, stops it before its first instruction and lets it go on with other code: what a restore
/// does with a process and a checkpoint's files.
fn in_child(argv: &[String]) -> Result<io::Result<()>> {
    let (program, arguments) = argv.split_first().context("no program is named")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: one system call, which takes numbers alone.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let child = command
        .spawn()
        .with_context(|| format!("cannot execute {program}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let stopped = waitpid(pid, None).context("waiting for the child")?;
    ensure!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    Ok(go_on_with_code(pid))
}

/// Lets a stopped process that this one traces go on with code that ends it, and waits for that.
///
/// # Errors
/// What the kernel says; `InvalidData` where the process ended in another way.
pub fn go_on_with_code(pid: Pid) -> io::Result<()> {
    // mov edi, ANSWER; mov eax, SYS_exit_group; syscall
    let code = [0xbf, ANSWER, 0, 0, 0, 0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05];
    let mut registers = ptrace::getregs(pid)?;
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    memory.write_all_at(&code, registers.rip)?;
    // No system call is begun again, which would set the instruction pointer back.
    registers.orig_rax = u64::MAX;
    ptrace::setregs(pid, registers)?;
    ptrace::cont(pid, None)?;
    match waitpid(pid, None)? {
        WaitStatus::Exited(_, code) => ran(code),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Maps a file's first page readable, then makes that mapping executable.
///
/// # Errors
/// When the kernel refuses.
pub fn map_then_protect(file: &File) -> Result<()> {
    // SAFETY: a new private mapping at an address that the kernel chooses; it is never read.
    let at = unsafe { mmap(None, page(), ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) }
        .context("cannot map the file")?;
    // SAFETY: the mapping is ours alone.
    unsafe { mprotect(at, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) }
        .context("cannot make the file's mapping executable")?;
    unmap(at)
}

/// Puts copies of this process' own pages where its executable is mapped, so that it can be replaced.
///
/// # Errors
/// When the kernel refuses.
pub fn leave_own_file() -> Result<()> {
    let exe = std::fs::read_link("/proc/self/exe").context("reading /proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps").context("reading /proc/self/maps")?;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(mode), Some(path)) = (fields.next(), fields.next(), fields.nth(3)) else {
            continue;
        };
        if Path::new(path) != exe {
            continue;
        }
        let (start, end) = range.split_once('-').context("a range of addresses")?;
        let (start, end) = (usize::from_str_radix(start, 16)?, usize::from_str_radix(end, 16)?);
        let size = end - start;
        let mut protection = libc::PROT_READ;
        if mode.contains('w') {
            protection |= libc::PROT_WRITE;
        }
        if mode.contains('x') {
            protection |= libc::PROT_EXEC;
        }
        // SAFETY: the copy has the bytes of what it replaces in one step, so that code that reads or runs
        // them finds the same.
        unsafe {
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let copy = libc::mmap(std::ptr::null_mut(), size, writable, flags, -1, 0);
            ensure!(copy != libc::MAP_FAILED, "no memory for a copy");
            std::ptr::copy_nonoverlapping(start as *const u8, copy.cast::<u8>(), size);
            Errno::result(libc::mprotect(copy, size, protection)).context("mprotect of a copy")?;
            let at = start as *mut c_void;
            let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            ensure!(
                libc::mremap(copy, size, size, how, at) != libc::MAP_FAILED,
                "mremap of a copy"
            );
        }
    }
    Ok(())
}

/// Replaces the executable alone.
///
/// # Errors
/// What the kernel says.
pub fn name_executable_alone(fd: u32) -> io::Result<()> {
    // SAFETY: takes numbers alone.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_EXE_FILE,
            libc::c_ulong::from(fd),
            0,
            0,
        )
    };
    Errno::result(done).map(drop).map_err(Into::into)
}

/// `struct prctl_mm_map`, include/uapi/linux/prctl.h.
#[repr(C)]
struct MemoryMap {
    /// Begin and end of code, of data; begin of the heap, its end; begin of the stack; begin and end of
    /// arguments, of the environment.
    bounds: [u64; 11],
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Replaces the executable beside what else the kernel knows of this process' memory, which stays as it is.
///
/// # Errors
/// What the kernel says.
pub fn name_executable(fd: u32) -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = rest
        .split_ascii_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    // By its number in proc(5); the first of `rest` is the third.
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    // SAFETY: asks where the heap ends.
    let end_of_heap = unsafe { libc::sbrk(0) } as u64;
    let map = MemoryMap {
        bounds: [
            field(26),
            field(27),
            field(45),
            field(46),
            field(47),
            end_of_heap,
            field(28),
            field(48),
            field(49),
            field(50),
            field(51),
        ],
        auxv: 0,
        auxv_size: 0,
        exe_fd: fd,
    };
    // SAFETY: the kernel reads the map, which outlives the call, and keeps numbers of it.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP,
            &raw const map as libc::c_ulong,
            size_of::<MemoryMap>(),
            0,
        )
    };
    Errno::result(done).map(drop).map_err(Into::into)
}

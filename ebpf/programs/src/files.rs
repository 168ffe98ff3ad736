//! Files: identity, content hash, path, and the records about them.

use crate::{
    Outcome,
    budget::{self, Kept},
    config::config,
    debug, guard,
    kernel::{self, Reader},
    ring, tasks,
};
use aya_ebpf::{
    bindings::{BPF_NOEXIST, file as File, inode as Inode, path as Path},
    cty::c_void,
    helpers::generated::{
        bpf_d_path, bpf_ima_file_hash, bpf_ima_inode_hash, bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str,
    },
    macros::map,
    maps::LruHashMap,
    programs::LsmContext,
};
use cgpath_ebpf_common::{
    BUDGET_UNIT, EFBIG, EREMOTE, FileHead, HASH_NOT_TRIED, Header, LARGE_PATH, LAYOUT_VERSION, LayerKey,
    MANY_OVERLAYS, MAX_USED, RawIdentity, SMALL_PATH, Used, flag, kind, overlay,
};

/// `ENAMETOOLONG`, include/uapi/asm-generic/errno.h.
const ENAMETOOLONG: i64 = 36;
/// `S_IFMT` and `S_IFREG`, include/uapi/linux/stat.h.
pub const S_IFMT: u16 = 0o170000;
pub const S_IFREG: u16 = 0o100000;
/// `FMODE_WRITE` and `FMODE_NOACCOUNT`, include/linux/fs.h. The kernel itself opens a layer's file for an
/// overlay, whose own file was opened just before, and such a file has the latter (`alloc_empty_backing_file`
/// in fs/file_table.c, before 6.5 `open_with_fake_path`).
pub const FMODE_WRITE: u32 = 2;
const FMODE_NOACCOUNT: u32 = 1 << 29;
/// File systems for which somebody else answers, and may never do so: include/uapi/linux/magic.h (of AFS the
/// kernel's own and OpenAFS'), `SMB1_MAGIC_NUMBER` and `SMB2_MAGIC_NUMBER` of fs/smb/common/smb1pdu.h,
/// `CEPH_SUPER_MAGIC` of fs/ceph/super.h.
const FUSE: u64 = 0x6573_5546;
const NFS: u64 = 0x6969;
const SMB1: u64 = 0xff53_4d42;
const SMB2: u64 = 0xfe53_4d42;
const V9FS: u64 = 0x0102_1997;
const CEPH: u64 = 0x00c3_6400;
const AFS: u64 = 0x5346_414f;
const KAFS: u64 = 0x6b41_4653;
/// Its layers are whatever its mounter chose.
const OVERLAYFS: u64 = 0x794c_7630;
/// An overlay can be a layer of another one, and that one of none: `FILESYSTEM_MAX_STACK_DEPTH`,
/// include/linux/fs.h.
const MAX_OVERLAYS: usize = 2;
/// Components that the path walk goes up at most, mount points included.
const MAX_STEPS: usize = 128;
/// What a record of the large class costs of a pod's budget.
const LARGE_UNITS: u64 =
    (size_of::<FileHead>() + LARGE_PATH + COMPONENT).div_ceil(BUDGET_UNIT as usize) as u64;
/// Room for one component and its NUL, NAME_MAX + 1.
const COMPONENT: usize = 256;

/// Files of layers that were executed or mapped through an overlay: see [`opened`].
#[map]
static USED: LruHashMap<LayerKey, Used> = LruHashMap::with_max_entries(MAX_USED, 0);

/// What [`FileHead`] is followed by.
#[repr(C)]
struct FileRecord<const N: usize> {
    head: FileHead,
    path: [u8; N],
}

/// How a file's hash is to be had.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hashing {
    /// After IMA's own turn.
    Settled,
    /// Before IMA's own turn.
    PreCheck,
    /// Not at all: not a file with content.
    No,
}

/// A hash as the kernel gave it.
pub struct Hash {
    /// Kernel hash algorithm number, or a negative error number.
    pub alg: i32,
    /// As many bytes as the algorithm has, the rest 0.
    pub words: [u64; 8],
}

/// `bprm->file`, with the type that the verifier gives it. A plain load, at an offset that it knows as a
/// constant: `bpf_probe_read_kernel` would lose the type.
#[inline(always)]
pub fn binprm_file(bprm: *const u8) -> *mut c_void {
    // SAFETY: the verifier checks this load.
    unsafe {
        bprm.add(config!(binprm_file) as usize)
            .cast::<*mut c_void>()
            .read_volatile()
    }
}

/// Device (kernel encoding) and inode number.
#[inline(always)]
pub fn inode_id(reader: &mut Reader, inode: u64) -> (u64, u64) {
    let sb: u64 = reader.read(inode + config!(inode_i_sb));
    let dev: u32 = reader.read(sb + config!(super_block_s_dev));
    (u64::from(dev), reader.read(inode + config!(inode_i_ino)))
}

/// Writes what file it is whose inode is at this address; all 0 where there is none.
///
/// This belongs behind all else that a record needs: its branches would multiply what the verifier walks
/// after them.
///
/// # Safety
/// `to` is writable.
#[inline(always)]
pub unsafe fn identify(inode: u64, to: *mut RawIdentity) {
    let mut reader = Reader::new();
    if inode == 0 {
        // SAFETY: as the caller promises; whole words.
        unsafe { kernel::zero(to.cast::<[u64; size_of::<RawIdentity>() / 8]>()) };
        return;
    }
    let is_overlays = is_overlays(&mut reader, inode);
    let content = if is_overlays {
        content_of(&mut reader, inode)
    } else {
        inode
    };
    // SAFETY: as the caller promises.
    unsafe { describe(reader, inode, is_overlays, content, to) };
}

/// Whether the inode at this address is of an overlay whose layers can be read.
#[inline(always)]
fn is_overlays(reader: &mut Reader, inode: u64) -> bool {
    let sb: u64 = reader.read(inode + config!(inode_i_sb));
    has_layers(reader.read(sb + config!(super_block_s_magic)))
}

/// Whether this magic number is that of overlays, and their layers can be read.
#[inline(always)]
fn has_layers(magic: u64) -> bool {
    magic == OVERLAYFS && config!(overlay) != u64::from(overlay::UNKNOWN)
}

/// Writes what file it is whose inode is at this address, and whose content an inode at another one holds:
/// the same one, unless it is an overlay's; 0 where that is not known.
///
/// Where a read fails, nothing is known of the file system, which verifiers do not take for a local one.
///
/// # Safety
/// `to` is writable.
#[inline(always)]
unsafe fn describe(mut reader: Reader, inode: u64, is_overlays: bool, content: u64, to: *mut RawIdentity) {
    let mut identity = RawIdentity {
        generation: 0,
        magic: OVERLAYFS,
        layer_dev: 0,
        layer_ino: 0,
        layer_generation: 0,
        layer_written: 0,
    };
    let sb: u64 = reader.read(inode + config!(inode_i_sb));
    if is_overlays {
        identity.generation = instance(&mut reader, sb);
        if content != 0 {
            let layer: u64 = reader.read(content + config!(inode_i_sb));
            identity.magic = reader.read(layer + config!(super_block_s_magic));
            let (dev, ino) = inode_id(&mut reader, content);
            identity.layer_dev = dev;
            identity.layer_ino = ino;
            identity.layer_generation = reader.read(content + config!(inode_i_generation));
            // An overlay's own writers have both open.
            let below: i32 = reader.read(content + config!(inode_i_writecount));
            let above: i32 = reader.read(inode + config!(inode_i_writecount));
            identity.layer_written = u32::from(below > 0 && below > above);
        }
    } else {
        identity.magic = reader.read(sb + config!(super_block_s_magic));
        let generation: u32 = reader.read(inode + config!(inode_i_generation));
        identity.generation = u64::from(generation);
    }
    if reader.finish() {
        identity.magic = 0;
    }
    // SAFETY: as the caller promises; whole words, field by field.
    unsafe {
        (*to).generation = identity.generation;
        (*to).magic = identity.magic;
        (*to).layer_dev = identity.layer_dev;
        (*to).layer_ino = identity.layer_ino;
        (*to).layer_generation = identity.layer_generation;
        (*to).layer_written = identity.layer_written;
    }
}

/// What tells an overlay from others that have had its device number: its upper directory. 0 without one:
/// nothing can be written through such an overlay.
#[inline(always)]
fn instance(reader: &mut Reader, sb: u64) -> u64 {
    let root: u64 = reader.read(sb + config!(super_block_s_root));
    let inode: u64 = reader.read(root + config!(dentry_d_inode));
    let upper: u64 = reader.read(inode - config!(ovl_inode_vfs_inode) + config!(ovl_inode_upper));
    if upper == 0 {
        return 0;
    }
    let directory: u64 = reader.read(upper + config!(dentry_d_inode));
    let generation: u32 = reader.read(directory + config!(inode_i_generation));
    let ino: u64 = reader.read(directory + config!(inode_i_ino));
    (u64::from(generation) << 32) ^ ino
}

/// Address of the inode of a layer that holds the content of a file of an overlay, through the overlays
/// below; 0 where it is not known.
#[inline(always)]
fn content_of(reader: &mut Reader, inode: u64) -> u64 {
    let mut inode = inode;
    for _ in 0..MAX_OVERLAYS {
        inode = below(reader, inode);
        if inode == 0 {
            return 0;
        }
        let sb: u64 = reader.read(inode + config!(inode_i_sb));
        let magic: u64 = reader.read(sb + config!(super_block_s_magic));
        if magic != OVERLAYFS {
            return inode;
        }
    }
    0
}

/// Address of the inode in the upper directory that holds the content of a file of an overlay: what is
/// written through the overlay. 0 where a lower one still holds it, of which a writer's open makes a copy.
#[inline(always)]
fn upper(reader: &mut Reader, inode: u64) -> u64 {
    let own = inode - config!(ovl_inode_vfs_inode);
    let upper: u64 = reader.read(own + config!(ovl_inode_upper));
    let flags: u64 = reader.read(own + config!(ovl_inode_flags));
    if upper == 0 || (flags >> config!(ovl_upperdata)) & 1 == 0 {
        return 0;
    }
    reader.read(upper + config!(dentry_d_inode))
}

/// As [`content_of`], one overlay down: fs/overlayfs/util.c, `ovl_inode_realdata`. What an inode of an
/// overlay points at stays as long as the inode does.
#[inline(always)]
fn below(reader: &mut Reader, inode: u64) -> u64 {
    let own = inode - config!(ovl_inode_vfs_inode);
    let upper = upper(reader, inode);
    if upper != 0 {
        return upper;
    }
    let dentry: u64 = if config!(overlay) == u64::from(overlay::PATH) {
        let data: u64 = reader.read(own + config!(ovl_inode_lowerdata));
        if data != 0 {
            return data;
        }
        reader.read(own + config!(ovl_inode_lower))
    } else {
        let stack: u64 = reader.read(own + config!(ovl_inode_lower));
        if stack == 0 {
            return 0;
        }
        let layers: u32 = reader.read(stack + config!(ovl_entry_numlower));
        if layers == 0 {
            return 0;
        }
        let last = u64::from(layers - 1) * config!(ovl_path_size);
        reader.read(stack + config!(ovl_entry_lower) + last)
    };
    if dentry == 0 {
        return 0;
    }
    reader.read(dentry + config!(dentry_d_inode))
}

/// A file was opened: for writing, by its layer's path or through an overlay, and somebody has it executed or
/// mapped through another overlay, so that neither that one nor IMA sees it. Reported once, and again if it
/// is executed or mapped after that.
#[inline(always)]
pub fn opened(ctx: &LsmContext) {
    let file: *const u8 = ctx.arg(0);
    // SAFETY: the hook's file and its inode, with the types that the verifier gives them.
    let (inode, file_mode, inode_mode) = unsafe {
        let inode: *const u8 = guard::field(file, config!(file_f_inode));
        (
            inode as u64,
            guard::field::<u32>(file, config!(file_f_mode)),
            guard::field::<u16>(inode, config!(inode_i_mode)),
        )
    };
    let is_asked_for = file_mode & (FMODE_WRITE | FMODE_NOACCOUNT) == FMODE_WRITE;
    if !is_asked_for || inode_mode & S_IFMT != S_IFREG {
        return;
    }
    let mut reader = Reader::new();
    let is_overlays = is_overlays(&mut reader, inode);
    // What will be written, the overlay that it is seen through, and how many writers the opened file is.
    let (written, overlay, own_writers) = if is_overlays {
        let (dev, _) = inode_id(&mut reader, inode);
        (upper(&mut reader, inode), dev, 0)
    } else {
        (inode, 0, 1)
    };
    if written == 0 {
        return;
    }
    let (dev, ino) = inode_id(&mut reader, written);
    let Some(used) = USED.get_ptr_mut(LayerKey { dev, ino }) else {
        reader.finish();
        return;
    };
    let readers: i32 = reader.read(written + config!(inode_i_readcount));
    let writers: i32 = reader.read(written + config!(inode_i_writecount));
    let generation: u32 = reader.read(written + config!(inode_i_generation));
    reader.finish();
    // SAFETY: a map value, which lives as long as the program; one call finds it not reported.
    unsafe {
        let is_it = (&raw const (*used).generation).read_volatile() == u64::from(generation);
        let is_seen = (&raw const (*used).overlay).read_volatile() == overlay;
        let is_open = readers > 0 || writers > own_writers;
        if !is_it || is_seen || !is_open || kernel::swap_if(&raw mut (*used).told, 0, 1) != 0 {
            return;
        }
    }
    send_walked(ctx, file as u64, kind::LAYER_WRITE, 0);
}

/// Remembers a layer's file that is executed or mapped through the overlay with this device number. Gives
/// whether there was room.
///
/// # Safety
/// `identity` is readable.
#[inline(always)]
unsafe fn used(overlay: u64, identity: *const RawIdentity) -> bool {
    // SAFETY: as the caller promises.
    let (key, generation) = unsafe {
        let key = LayerKey {
            dev: (*identity).layer_dev,
            ino: (*identity).layer_ino,
        };
        (key, u64::from((*identity).layer_generation))
    };
    let first = Used {
        generation,
        overlay,
        told: 0,
    };
    // The oldest give way. It may be there already.
    let _ = USED.insert(key, first, u64::from(BPF_NOEXIST));
    let Some(used) = USED.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: fields of a map value.
    unsafe {
        let known = &raw mut (*used).overlay;
        if (&raw const (*used).generation).read_volatile() != generation {
            (&raw mut (*used).generation).write_volatile(generation);
            known.write_volatile(overlay);
        } else if known.read_volatile() != overlay {
            known.write_volatile(MANY_OVERLAYS);
        }
        (&raw mut (*used).told).write_volatile(0);
    }
    true
}

/// Whether the file at this address is a regular one.
#[inline(always)]
pub fn is_regular(reader: &mut Reader, file: u64) -> bool {
    let inode: u64 = reader.read(file + config!(file_f_inode));
    let mode: u16 = reader.read(inode + config!(inode_i_mode));
    mode & S_IFMT == S_IFREG
}

/// Hashes, then sends a record of this kind; a path that does not fit the small class goes into the large
/// one. `flags` are more of [`flag`]. Gives the hash.
///
/// # Safety
/// `file` is a live `struct file` with the verifier's type.
#[inline(always)]
pub unsafe fn send(ctx: &LsmContext, kind: u16, file: *mut c_void, hashing: Hashing, flags: u32) -> Hash {
    let mut hash = Hash {
        alg: HASH_NOT_TRIED,
        words: [0; 8],
    };
    let kept = if kind == kind::MAPPING {
        Kept::Mapping
    } else {
        Kept::Execution
    };
    let is_kept = budget::allows(kept, 1);
    // A collector is known by what it executed.
    if !is_kept && kind != kind::EXECUTION {
        return hash;
    }
    if hashing != Hashing::No {
        // SAFETY: as the caller promises.
        hash.alg = unsafe { content(file, &mut hash.words) };
        if hash.alg < 0 {
            ring::hash_failed();
        }
    }
    if !is_kept {
        return hash;
    }
    let Some(seq) = ring::next_seq() else {
        return hash;
    };
    let flags = flags
        | if hashing == Hashing::PreCheck {
            flag::HASH_PRE_CHECK
        } else {
            0
        };
    // SAFETY: as the caller promises.
    let first = unsafe { record::<SMALL_PATH>(seq, kind, file, &hash, flags, false) };
    if let Outcome::TooLong = first {
        budget::pay(LARGE_UNITS);
        // The same number again: the small reservation was discarded.
        // SAFETY: as the caller promises.
        if let Outcome::Lost = unsafe { record::<LARGE_PATH>(seq, kind, file, &hash, flags, true) } {
            debug!(ctx, "file record lost");
        }
    }
    hash
}

/// The hash that IMA has of the file, or makes now by reading all of it. This may take long, and until it
/// ends the kernel lets no program go (RCU Tasks Trace): where it could take as long as somebody likes, what
/// IMA has is all there is.
///
/// # Safety
/// As [`send`].
#[inline(always)]
unsafe fn content(file: *mut c_void, words: &mut [u64; 8]) -> i32 {
    let refusal = refusal(file as u64);
    let words: *mut c_void = (&raw mut *words).cast();
    if refusal == 0 {
        // SAFETY: 64 bytes of room, the longest digest there is.
        return unsafe { bpf_ima_file_hash(file.cast::<File>(), words, 64) as i32 };
    }
    // SAFETY: the verifier checks this load, at an offset that it knows, and gives the pointer its type.
    let known = unsafe {
        let inode = file
            .cast::<u8>()
            .add(config!(file_f_inode) as usize)
            .cast::<*mut Inode>()
            .read_volatile();
        bpf_ima_inode_hash(inode, words, 64) as i32
    };
    if known < 0 { refusal } else { known }
}

/// Why this file is not to be read for its hash: a negative error number, or 0.
#[inline(always)]
fn refusal(file: u64) -> i32 {
    let mut reader = Reader::new();
    let inode: u64 = reader.read(file + config!(file_f_inode));
    let size: u64 = reader.read(inode + config!(inode_i_size));
    let sb: u64 = reader.read(inode + config!(inode_i_sb));
    let magic: u64 = reader.read(sb + config!(super_block_s_magic));
    let mounter: u64 = reader.read(sb + config!(super_block_s_user_ns));
    let level: u32 = reader.read(mounter + config!(user_namespace_level));
    // Of an overlay, the file system of the content answers.
    let content = if has_layers(magic) {
        content_of(&mut reader, inode)
    } else {
        0
    };
    let magic = if content == 0 {
        magic
    } else {
        let sb: u64 = reader.read(content + config!(inode_i_sb));
        reader.read(sb + config!(super_block_s_magic))
    };
    reader.finish();
    if size > config!(max_hash_mib) << 20 {
        return -EFBIG;
    }
    let is_served = match magic {
        FUSE | NFS | SMB1 | SMB2 | V9FS | CEPH | AFS | KAFS => true,
        OVERLAYFS => level != 0,
        // Of an overlay that a user namespace mounted, whatever holds the content.
        _ => content != 0 && level != 0,
    };
    if is_served && config!(hash_served) == 0 {
        return -EREMOTE;
    }
    0
}

/// # Safety
/// As [`send`].
#[inline(always)]
unsafe fn record<const N: usize>(
    seq: u64,
    kind: u16,
    file: *mut c_void,
    hash: &Hash,
    mut flags: u32,
    last: bool,
) -> Outcome {
    let Some(mut record) = ring::reserve::<FileRecord<N>>() else {
        return Outcome::Lost;
    };
    let r = record.as_mut_ptr();
    // SAFETY: the path is a member of the live file; the helper writes at most N bytes into the record's
    // path.
    let n = unsafe {
        let path = file.cast::<u8>().add(config!(file_f_path) as usize);
        bpf_d_path(path.cast::<Path>(), (&raw mut (*r).path).cast(), N as u32)
    };
    if n == -ENAMETOOLONG && !last {
        record.discard(0);
        return Outcome::TooLong;
    }
    // The NUL does not count.
    let path_len = if n > 0 && n <= N as i64 { n as u32 - 1 } else { 0 };
    if n <= 0 {
        flags |= flag::PATH_CUT;
        ring::path_failed();
    }
    // SAFETY: the reserved record.
    unsafe {
        let inode = head(&raw mut (*r).head, seq, kind, file as u64, hash, path_len, flags);
        let identity = &raw mut (*r).head.identity;
        identify(inode, identity);
        // Nobody would see who writes a file that is not remembered.
        if (*identity).layer_ino != 0 && !used((*r).head.dev, identity) {
            (*identity).layer_written = 1;
        }
    }
    record.submit(0);
    Outcome::Sent
}

/// Writes all of `head` but what file it is, and gives the address of the file's inode.
///
/// # Safety
/// `head` is writable.
#[inline(always)]
unsafe fn head(
    head: *mut FileHead,
    seq: u64,
    kind: u16,
    file: u64,
    hash: &Hash,
    path_len: u32,
    flags: u32,
) -> u64 {
    let mut reader = Reader::new();
    let inode: u64 = reader.read(file + config!(file_f_inode));
    let (dev, ino) = inode_id(&mut reader, inode);
    // SAFETY: fields of `head`.
    unsafe {
        (*head).header = Header {
            seq,
            boot_ns: bpf_ktime_get_boot_ns(),
            kind,
            version: LAYOUT_VERSION,
            len: size_of::<FileHead>() as u32 + path_len,
        };
        (*head).dev = dev;
        (*head).ino = ino;
        (*head).hash_alg = hash.alg;
        (*head).path_len = path_len;
        let words = (&raw mut (*head).hash).cast::<[u64; 8]>();
        for i in 0..8 {
            (&raw mut (*words)[i]).write_volatile(hash.words[i]);
        }
        tasks::fill(&mut reader, &raw mut (*head).task, flags);
    }
    inode
}

/// Sends a record of this kind, LATE_MAPPING or LAYER_WRITE, for the file at this address, without a hash and
/// with a path made by walking up the dentries, from the last component to the first (see
/// `flag::PATH_REVERSED`). `more` are more of [`flag`].
///
/// For programs that may not sleep, where `bpf_d_path` is refused. They run under the RCU read lock, so names
/// cannot be freed under the walk, but no lock keeps a rename out.
#[inline(always)]
pub fn send_walked(ctx: &LsmContext, file: u64, kind: u16, more: u32) {
    if kind == kind::LAYER_WRITE {
        // It is held against others than the one who did it, too: it is paid for, and always sent.
        budget::pay(LARGE_UNITS);
    } else if !budget::allows(Kept::Mapping, LARGE_UNITS) {
        return;
    }
    let Some(seq) = ring::next_seq() else {
        return;
    };
    // One component more than fits, so that each can be read whole without a branch.
    let Some(mut record) = ring::reserve::<FileRecord<{ LARGE_PATH + COMPONENT }>>() else {
        debug!(ctx, "record with a walked path lost");
        return;
    };
    let r = record.as_mut_ptr();
    let mut reader = Reader::new();
    // SAFETY: the reserved record.
    let (len, flags) = unsafe { walk(&mut reader, file, (&raw mut (*r).path).cast()) };
    let failed = reader.finish();
    let flags = flags | more | if failed { flag::READ_FAILED } else { 0 };
    let hash = Hash {
        alg: HASH_NOT_TRIED,
        words: [0; 8],
    };
    // SAFETY: the reserved record.
    let inode = unsafe { head(&raw mut (*r).head, seq, kind, file, &hash, len, flags) };
    let mut reader = Reader::new();
    // The file of a mapping is the layer's own.
    let is_overlays = kind == kind::LAYER_WRITE && is_overlays(&mut reader, inode);
    let content = if is_overlays {
        upper(&mut reader, inode)
    } else {
        inode
    };
    // SAFETY: the reserved record.
    unsafe { describe(reader, inode, is_overlays, content, &raw mut (*r).head.identity) };
    record.submit(0);
}

/// Writes the components and gives their length and flags.
///
/// # Safety
/// `out` has room for `LARGE_PATH + COMPONENT` bytes.
#[inline(always)]
unsafe fn walk(reader: &mut Reader, file: u64, out: *mut u8) -> (u32, u32) {
    // SAFETY: the helper has no preconditions.
    let current = unsafe { aya_ebpf::helpers::generated::bpf_get_current_task() };
    let fs: u64 = reader.read(current + config!(task_fs));
    let root = fs + config!(fs_root);
    let root_mnt: u64 = reader.read(root + config!(path_mnt));
    let root_dentry: u64 = reader.read(root + config!(path_dentry));
    let path = file + config!(file_f_path);
    let mut mnt: u64 = reader.read(path + config!(path_mnt));
    let mut dentry: u64 = reader.read(path + config!(path_dentry));
    let pprev: u64 = reader.read(dentry + config!(dentry_d_hash_pprev));
    let mut flags = flag::PATH_REVERSED | if pprev == 0 { flag::PATH_DELETED } else { 0 };
    let mut len: u64 = 0;
    for _ in 0..MAX_STEPS {
        len = kernel::forget(len);
        if dentry == root_dentry && mnt == root_mnt {
            return (len as u32, flags);
        }
        let parent: u64 = reader.read(dentry + config!(dentry_d_parent));
        let mnt_root: u64 = reader.read(mnt + config!(vfsmount_mnt_root));
        if dentry == mnt_root {
            let mount = mnt - config!(mount_mnt);
            let above: u64 = reader.read(mount + config!(mount_mnt_parent));
            if above == mount {
                // The top of what this mount hangs on: not below the task's root.
                return (len as u32, flags);
            }
            dentry = reader.read(mount + config!(mount_mnt_mountpoint));
            mnt = above + config!(mount_mnt);
            continue;
        }
        let name: u64 = reader.read(dentry + config!(dentry_d_name));
        if len >= LARGE_PATH as u64 {
            break;
        }
        // SAFETY: `len` is below LARGE_PATH, and the helper writes at most COMPONENT bytes.
        let n = unsafe {
            bpf_probe_read_kernel_str(
                out.add(len as usize).cast(),
                COMPONENT as u32,
                name as *const c_void,
            )
        };
        if n <= 0 || n > COMPONENT as i64 {
            break;
        }
        len += n as u64;
        if parent == dentry {
            // A file system without directories, such as that of memfds.
            return (len as u32, flags);
        }
        dentry = parent;
    }
    flags |= flag::PATH_CUT;
    ring::path_failed();
    // What was added last may reach beyond what a path may hold.
    (
        if len > LARGE_PATH as u64 {
            LARGE_PATH as u32
        } else {
            len as u32
        },
        flags,
    )
}

//! What scenarios ask of the programs in a guest and what these answer, as JSON: pods, workloads, facts
//! written down.
//!
//! `guest cri JSON` takes a [`Cri`], `guest workload JSON` a [`Workload`]; the answer is one line on standard
//! output. Pure types. Not here: how a pod is run (`guest/src/cri.rs`), what a workload does
//! (`guest/src/workload.rs`).

use serde::{Deserialize, Serialize};

/// What `guest cri` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Cri {
    /// Wait until containerd answers, import images, wait until they can be used. Answer: nothing.
    Import {
        /// A tar with one OCI layout.
        tar: String,
        /// References that must be there afterwards.
        expected: Vec<String>,
    },
    /// Run a pod. Answer: [`RunningPod`].
    Run(Pod),
    /// Run a command in a container to its end. Answer: [`Executed`].
    Exec {
        /// Id of the container.
        container: String,
        /// The command.
        command: Vec<String>,
    },
    /// Stop a pod and remove it. Answer: nothing.
    Remove {
        /// Id of the sandbox.
        sandbox: String,
    },
}

/// A pod with its containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// Name, as Kubernetes has it.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// UID with dashes, lower case.
    pub uid: String,
    /// The directory that holds the pod's cgroups, from the hierarchy's root.
    pub cgroup_parent: String,
    /// Whether the runtime's own seccomp profile is on (`RuntimeDefault`); without it there is none, as in
    /// Kubernetes.
    pub confined: bool,
    /// `privileged`, of its sandbox and of each container.
    pub privileged: bool,
    /// `hostPID`: it sees the host's processes.
    pub host_pid: bool,
    /// Started in this order.
    pub containers: Vec<Container>,
}

impl Pod {
    /// A pod of the *burstable* class, in the cgroup that kubelet's cgroupfs driver gives it.
    pub fn burstable(name: &str, uid: &str) -> Pod {
        Pod {
            name: name.to_owned(),
            namespace: "demo".to_owned(),
            uid: uid.to_owned(),
            cgroup_parent: format!("/kubepods/burstable/pod{uid}"),
            confined: false,
            privileged: false,
            host_pid: false,
            containers: Vec::new(),
        }
    }
}

/// One container of a [`Pod`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Name inside of the pod.
    pub name: String,
    /// Image reference, as the runtime knows it.
    pub image: String,
    /// The command; empty for the image's own.
    pub command: Vec<String>,
    /// Directories of the host inside of the container.
    pub mounts: Vec<Mount>,
}

/// A directory of the host inside of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Path on the host.
    pub host: String,
    /// Path in the container.
    pub container: String,
    /// Whether the container may not write there.
    pub read_only: bool,
}

/// A pod that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningPod {
    /// The sandbox' id: also its cgroup's leaf.
    pub sandbox: String,
    /// Ids of the containers, in the order of the pod's containers.
    pub containers: Vec<String>,
}

/// What a command in a container gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// Exit code.
    pub code: i32,
    /// Standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Standard error; what is not UTF-8 is replaced.
    pub stderr: String,
}

/// What `guest workload` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Workload {
    /// Run a program in a cgroup and wait for it, as a container's shim does: this process is its parent and
    /// stays outside of the cgroup. Answer: [`Contained`], where the program ended by itself.
    Contain {
        /// The cgroup, from the hierarchy's root; made when missing.
        cgroup: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// A root file system of its own, in a mount namespace of its own.
        root: Option<Root>,
    },
    /// Run a program in the mount namespace of another process and in a cgroup, and wait for it. Answer:
    /// [`Executed`].
    Enter {
        /// The other process.
        pid: u32,
        /// The cgroup, from the hierarchy's root.
        cgroup: String,
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// Start a chain of five processes, the third through a `#!` line, each by its own file in `dir`. Each
    /// writes down what it sees of itself and its parents. Answer: a list of [`ChainLink`], the first level
    /// first.
    Chain {
        /// A directory of its own, made when missing.
        dir: String,
    },
    /// One link of such a chain (used by `Chain`): writes down what it sees, then starts the next.
    ChainStep {
        /// The chain's directory.
        dir: String,
        /// From 1.
        level: u32,
    },
    /// Map anonymous memory executable, at once and by a later mprotect, and run code there. Answer: nothing.
    AnonymousExec,
    /// Run code that no file holds: in memory of this process, and in that of a child which is filled as a
    /// restored container is. Answer: a list of [`Attempt`].
    CodeInMemory {
        /// A file whose first page is mapped executable.
        file: String,
        /// The child's program and arguments.
        argv: Vec<String>,
    },
    /// Run code that is written into a mapping of a file while that is executable, too: of the first file, a
    /// private one; of the second, one that is made writable later; of the third, a shared one, which changes
    /// that file. Answer: a list of [`Attempt`].
    WritableCode {
        /// The files.
        files: [String; 3],
    },
    /// Map a file executable and keep it so. Does not end by itself.
    HoldMapping {
        /// A file that is there.
        file: String,
        /// A file that is made once it is mapped.
        outcome: String,
    },
    /// Map each file of a directory executable once. Answer: nothing.
    MapAll {
        /// The directory.
        dir: String,
    },
    /// Start a container in each of these cgroups, all at once, each on an overlay of one image of a program
    /// and libraries, which it maps; wait for all. Answer: nothing.
    StartAtOnce {
        /// A directory of its own, made when missing.
        dir: String,
        /// How many libraries.
        libraries: u32,
        /// The cgroups, from the hierarchy's root; made when missing.
        cgroups: Vec<String>,
    },
    /// Execute a program under `personality(MMAP_PAGE_ZERO)`: the kernel maps page zero executable with no
    /// file. Answer: nothing.
    PageZero {
        /// A directory for the program.
        dir: String,
    },
    /// Write `count` distinct executables into `dir`, then execute each once: equal shares in the given
    /// cgroups, one cgroup after the other. Answer: [`Burst`].
    Burst {
        /// A directory of its own, made when missing.
        dir: String,
        /// How many.
        count: u32,
        /// The cgroups, from the hierarchy's root; made when missing.
        cgroups: Vec<String>,
    },
    /// Run a program of its own in a cgroup of its own and remove the cgroup at once. Answer: [`BurstRun`].
    Vanish {
        /// A directory for the program.
        dir: String,
        /// The cgroup, from the hierarchy's root: made and removed, its parents as far as they are empty.
        cgroup: String,
    },
    /// Make the quotes that the test's TDX module asks for, until it is killed. Answer: nothing.
    Quotes {
        /// The module's device.
        device: String,
        /// Header and TD report body of a quote of version 4, hex: 632 bytes, in which MRTD, RTMR 0 to 3
        /// and the report data are filled in.
        head: String,
        /// The key that signs it, a P-256 scalar, hex.
        key: String,
        /// What follows the signature, hex.
        tail: String,
    },
    /// Map a file without execution, then make the mapping executable. Answer: [`BurstRun`] with this
    /// process' cgroup.
    LateMapping {
        /// A directory for the file.
        dir: String,
    },
    /// Map `file` executable again and again, and write the outcome of the last time to `outcome`: 0, or the
    /// kernel's error number. Does not end by itself.
    MapAgain {
        /// A file that is there.
        file: String,
        /// Written anew each time, by renaming.
        outcome: String,
    },
    /// With threads, at full speed: map a file executable so many times, then, once `program` can be executed
    /// no more, try it so many times. Each part says how often in a file of its own. Does not end by itself.
    Flood {
        /// The file that is mapped.
        library: String,
        /// The program; it ends by itself.
        program: String,
        /// A directory for the files `mapped` and `denied`, each of which holds a number, and `failed`, with
        /// the reason, where that went wrong.
        outcome: String,
        /// How many.
        threads: u32,
        /// Mappings of all threads together.
        mappings: u32,
        /// Executions that are tried by all threads together.
        denials: u32,
    },
    /// Map a file executable while it is open for writing: IMA logs `open_writers`. Answer: [`BurstRun`].
    OpenWriters {
        /// A directory for the file.
        dir: String,
    },
    /// Execute a program that is in anonymous memory only (memfd). Answer: [`BurstRun`] with the path that
    /// the kernel gives it.
    Memfd,
    /// Map the same anonymous file (memfd) executable twice; it is this long and holds nothing. Answer:
    /// nothing.
    MapHollow {
        /// Its length, MiB.
        mib: u64,
    },
    /// In namespaces of its own, map a file executable on an overlay that was mounted there. Answer:
    /// [`BurstRun`].
    MapLayered {
        /// A directory for file and layers.
        dir: String,
    },
    /// Serve a file by a file system that this process answers for (FUSE), mounted over the directory that it
    /// is in. Does not end by itself.
    Serve {
        /// The file; what else is in its directory is not served.
        file: String,
    },
    /// Open for writing a file that was measured and is still open for reading: IMA logs `ToMToU`. Answer:
    /// [`BurstRun`].
    TomTou {
        /// A directory for the file.
        dir: String,
    },
    /// Time executions, one after the other, by this process' clock: of one file that was executed before,
    /// then of files that were not. Answer: [`Timed`].
    Execs {
        /// A directory for the files, made when missing; they are removed at the end.
        dir: String,
        /// Executions of each kind.
        count: u32,
    },
    /// Give IMA and a collector something to record: new programs that are executed, new files that are
    /// mapped executable. Answer: nothing.
    Fill {
        /// A directory for the files, made when missing; each is removed after its use.
        dir: String,
        /// Programs.
        execs: u32,
        /// Mapped files.
        mappings: u32,
    },
    /// In a cgroup under a CPU quota, let threads write and map new files executable, each one after the
    /// other. Says so on standard output once all run; does not end by itself.
    Crowd {
        /// A directory for the files, made when missing; each is removed after its use.
        dir: String,
        /// The cgroup, from the hierarchy's root; made when missing, on v2 alone.
        cgroup: String,
        /// How many.
        threads: u32,
        /// What all of them together may use of a processor in each 100 ms, microseconds; the kernel wants at
        /// least 1,000.
        quota_us: u32,
    },
    /// In a cgroup, execute a new program again and again. Does not end by itself.
    Drip {
        /// A directory for the programs, made when missing; each is removed after its use.
        dir: String,
        /// The cgroup, from the hierarchy's root; made when missing.
        cgroup: String,
        /// Pause between two of them, milliseconds.
        pause_ms: u64,
    },
    /// Time rounds of attestation: in turn the bare TPM commands, and evidence from a collector by its local
    /// socket. Answer: [`Attested`].
    Attest {
        /// The collector's socket.
        socket: String,
        /// Rounds of each.
        count: u32,
    },
    /// Look at the programs that are pinned in a directory. Answer: a list of [`Program`], by name.
    Programs {
        /// The directory.
        pins: String,
    },
    /// Ask the kernel for all eBPF programs that it has, pinned or not: one goes when nothing refers to it
    /// any more, not even a link that is being taken off its hook. Answer: a list of their ids.
    Loaded,
    /// Reach for a collector's maps, programs, links and process, as host root can. Answer: a list of
    /// [`Attempt`].
    Attack {
        /// The directory of its pins.
        pins: String,
        /// Its process id.
        pid: u32,
    },
    /// Reach for the same and for what a pod can make look the same, as any user can. Answer: a list of
    /// [`Attempt`].
    Reach {
        /// The directory of the collector's pins.
        pins: String,
        /// Its process id; any other where it is out of sight.
        pid: u32,
        /// The user to become first, with no capability left.
        uid: Option<u32>,
    },
    /// Take hold of a pinned link as root, then, in a cgroup and as a user without capabilities, try to
    /// change and detach it. Answer: a list of [`Attempt`].
    Passed {
        /// The directory of the collector's pins.
        pins: String,
        /// The cgroup, from the hierarchy's root; it is there.
        cgroup: String,
        /// The user.
        uid: u32,
    },
    /// As a container's root without privileges: nest directories below the own cgroup (v2) and run a program
    /// in the last one. Answer: nothing.
    Nest {
        /// How many.
        levels: u32,
        /// Bytes of each name.
        length: usize,
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// As a container's root without privileges: make a threaded cgroup below the own one (v2), put a thread
    /// there, let it map a file executable and run a program. Answer: nothing.
    Thread {
        /// A file that is there.
        file: String,
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// Run a program in another cgroup from its first instant (clone3 with CLONE_INTO_CGROUP). Answer: a list
    /// of [`Attempt`].
    CloneInto {
        /// The cgroup's directory.
        dir: String,
        /// Program, with its whole path, and arguments.
        argv: Vec<String>,
    },
    /// Where the host's processes are in sight: reach for the collector, then let another container's first
    /// process go on with code that is written into its memory. Answer: a list of [`Attempt`].
    Inject {
        /// The container's id.
        container: String,
        /// The collector's process id.
        collector: u32,
    },
    /// Write a program into the host's root file system and let the kernel execute it there. Answer: a list
    /// of [`Attempt`].
    Plant {
        /// Where the host's root is in sight.
        root: HostRoot,
        /// The program's path there.
        path: String,
        /// A program that does not end by itself.
        idle: String,
    },
    /// As any user, in a user namespace of its own: let /proc/self/exe name another program, then run one.
    /// Answer: a list of [`Attempt`].
    Imitate {
        /// What it is to name.
        other: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// The user.
        uid: u32,
    },
    /// Send commands to the TPM past the kernel's resource manager; what they leave in it stays. Answer: a
    /// list of the TPM's answers, hex.
    Tpm {
        /// The commands, hex.
        commands: Vec<String>,
    },
    /// Load a kernel for a kexec, with no initramfs. Answer: nothing.
    LoadKernel {
        /// The bootable image.
        image: String,
        /// Its command line.
        command_line: String,
    },
    /// Hand a module to the kernel as bytes (`init_module`). Answer: nothing.
    InsertBytes {
        /// The module, not packed.
        module: String,
    },
    /// Call `kexec_load` with nothing to load. Answer: nothing.
    KexecBytes,
}

/// How a container has the host's root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HostRoot {
    /// By a mount.
    At(String),
    /// By the root of a process of this user in this cgroup of the host.
    OfProcess {
        /// The user.
        uid: u32,
        /// The cgroup, from the hierarchy's root.
        cgroup: String,
    },
}

/// What executions took, nanoseconds each: from before the fork until the child's end was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Of one file, over and over.
    pub known: Vec<u64>,
    /// Of a new file each.
    pub new: Vec<u64>,
}

/// What rounds took, nanoseconds each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// TPM2_PCR_Extend.
    pub extend: Vec<u64>,
    /// TPM2_Quote, right after it.
    pub quote: Vec<u64>,
    /// From the question for evidence until all of it was read.
    pub round: Vec<u64>,
    /// Bytes of the last evidence.
    pub evidence: u64,
}

/// A pinned eBPF program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its pin's name, without `prog_`.
    pub name: String,
    /// Instructions that the kernel's verifier looked at.
    pub instructions: u64,
}

/// Something that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What.
    pub what: String,
    /// 0 if it succeeded, else the error number.
    pub errno: i32,
}

/// A container's root: an overlay of an image's directory, as container runtimes make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The image's files; not written to.
    pub lower: String,
    /// A directory of its own for what is written, made when missing. Its file `pid` holds the program's
    /// process id and a newline once it runs.
    pub state: String,
    /// Directories of the host in it.
    pub mounts: Vec<Mount>,
}

/// A process that ran in a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contained {
    /// Its process id.
    pub pid: u32,
    /// Its exit code; absent where a signal ended it.
    pub code: Option<i32>,
}

/// A process as it, or its child, sees it in /proc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the pid namespace of the one who looks.
    pub pid: u32,
    /// Start after boot in clock ticks of 10 ms: field 22 of /proc/PID/stat.
    pub start_ticks: u64,
    /// Target of /proc/PID/exe.
    pub exe: String,
    /// Device of the executable: major << 20 | minor, the kernel's own encoding.
    pub dev: u64,
    /// Inode number of the executable.
    pub ino: u64,
}

/// What one link of a chain of processes wrote down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainLink {
    /// From 1, the process that began the chain.
    pub level: u32,
    /// The file that it was started by; of a script not its executable.
    pub started_as: String,
    /// Itself, then its parents up to pid 1.
    pub lineage: Vec<Process>,
}

/// One execution, or another use of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BurstRun {
    /// The file's path.
    pub path: String,
    /// SHA-256 of its content, hex.
    pub sha256: String,
    /// The cgroup it was used in, from the hierarchy's root.
    pub cgroup: String,
}

/// What a burst did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burst {
    /// In the order of execution.
    pub runs: Vec<BurstRun>,
    /// Wall time of the executions alone, in milliseconds.
    pub millis: u64,
}

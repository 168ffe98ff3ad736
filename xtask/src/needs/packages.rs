//! The Debian packages that are needed, each with its reason and with what it is needed for.
//!
//! Promises: a name stands here only when something fails without it. Not here: the packages of the eBPF
//! toolchain, which depend on the machine (`build::Toolchain`).

use super::Purpose;

/// Debian packages with what each is for. The ones of the eBPF toolchain depend on the machine: see
/// [`Toolchain`].
pub const PACKAGES: &[Package] = &[
    Package(
        "gcc",
        "gcc",
        "links Rust programs",
        &[
            Purpose::Build,
            Purpose::Machines,
            Purpose::Kernel,
            Purpose::BenchReplay,
        ],
    ),
    Package(
        "libc6-dev",
        "",
        "links Rust programs; the guest's static C library",
        &[
            Purpose::Build,
            Purpose::Machines,
            Purpose::Kernel,
            Purpose::BenchReplay,
        ],
    ),
    Package(
        "protobuf-compiler",
        "protoc",
        "the container runtime's interface, for the test pods",
        &[Purpose::Build, Purpose::Machines],
    ),
    Package(
        "pkgconf",
        "pkg-config",
        "finds libtss2 while building",
        &[Purpose::Build],
    ),
    Package(
        "libtss2-dev",
        "",
        "cgpathd talks to the TPM through it",
        &[Purpose::Build],
    ),
    Package(
        "libclang-dev",
        "",
        "bindgen compares kernel structures with ours",
        &[Purpose::Test],
    ),
    Package(
        "qemu-system-x86",
        "qemu-system-x86_64",
        "runs the virtual machines",
        &[Purpose::Machines],
    ),
    Package(
        "swtpm",
        "swtpm",
        "a software TPM for each virtual machine",
        &[Purpose::Machines, Purpose::BenchRound],
    ),
    Package(
        "mmdebstrap",
        "mmdebstrap",
        "makes the guests' root file system",
        &[Purpose::Machines],
    ),
    Package(
        "e2fsprogs",
        "mke2fs",
        "makes the guests' disks",
        &[Purpose::Machines],
    ),
    Package(
        "kmod",
        "depmod",
        "module indexes for the guests' kernels",
        &[Purpose::Machines, Purpose::Kernel],
    ),
    Package(
        "busybox-static",
        "",
        "the program in the test pods' images",
        &[Purpose::Machines],
    ),
    Package(
        "ovmf",
        "",
        "UEFI firmware that measures what it starts, for guests whose boot is judged",
        &[Purpose::Machines],
    ),
    Package(
        "systemd-boot-efi",
        "",
        "the EFI stub of those guests' unified kernel images",
        &[Purpose::Machines],
    ),
    Package(
        "binutils",
        "objcopy",
        "puts those images together",
        &[Purpose::Machines],
    ),
    Package(
        "dosfstools",
        "mkfs.fat",
        "makes the partitions that they lie on",
        &[Purpose::Machines],
    ),
    Package("mtools", "mcopy", "puts them there", &[Purpose::Machines]),
    Package(
        "tpm2-tools",
        "tpm2",
        "a second TPM client that tests compare ours with",
        &[Purpose::Test],
    ),
    Package(
        "ima-evm-utils",
        "evmctl",
        "another replay of measurement lists, to compare ours with",
        &[Purpose::BenchReplay, Purpose::Test],
    ),
    Package(
        "python3-venv",
        "",
        "an environment for decoders and verifiers of others, which read our exports",
        &[Purpose::Test],
    ),
    Package(
        "libefivar-dev",
        "",
        "Keylime, to whose verifier a test sends boot logs, reads device paths with it",
        &[Purpose::Test],
    ),
    Package(
        "patch",
        "patch",
        "applies what `cgpath policy suggest` writes, in tests",
        &[Purpose::Test],
    ),
    Package(
        "containerd",
        "containerd",
        "unpacks images, to compare reference values with what it shows",
        &[Purpose::Test],
    ),
    Package(
        "chromium",
        "chromium",
        "the browser in which the verifier's pages are tried",
        &[Purpose::Test],
    ),
    Package(
        "prometheus",
        "promtool",
        "its promtool tries the alert rules and the dashboard's queries",
        &[Purpose::Test],
    ),
    Package("make", "make", "builds the patched kernels", &[Purpose::Kernel]),
    Package("flex", "flex", "builds the patched kernels", &[Purpose::Kernel]),
    Package("bison", "bison", "builds the patched kernels", &[Purpose::Kernel]),
    Package("bc", "bc", "builds the patched kernels", &[Purpose::Kernel]),
    Package("libelf-dev", "", "builds the patched kernels", &[Purpose::Kernel]),
    Package("libssl-dev", "", "builds the patched kernels", &[Purpose::Kernel]),
    Package(
        "dwarves",
        "pahole",
        "type information of the patched kernels, for eBPF",
        &[Purpose::Kernel],
    ),
    Package(
        "sparse",
        "sparse",
        "reads the kernel series' C",
        &[Purpose::Kernel],
    ),
    Package(
        "python3-venv",
        "python3",
        "virtme-ng, under which the patched kernel is booted too",
        &[Purpose::Test],
    ),
    Package(
        "libssl-dev",
        "",
        "a verifier of others that is asked about our quotes checks signatures with it",
        &[Purpose::Test],
    ),
    Package(
        "debhelper",
        "dh_builddeb",
        "packs the patched kernels",
        &[Purpose::KernelPackages],
    ),
    Package(
        "rsync",
        "rsync",
        "packs the patched kernels",
        &[Purpose::KernelPackages],
    ),
    Package(
        "cpio",
        "cpio",
        "packs the patched kernels",
        &[Purpose::KernelPackages],
    ),
    Package(
        "debhelper",
        "dh_builddeb",
        "packs the programs",
        &[Purpose::Packing],
    ),
    Package(
        "lintian",
        "lintian",
        "looks for mistakes in these packages",
        &[Purpose::Packing],
    ),
    Package("xz-utils", "xz", "unpacks kernel sources", &[Purpose::Kernel]),
    Package("git", "git", "applies the kernel series", &[Purpose::Kernel]),
    Package(
        "perl",
        "perl",
        "runs the kernel's checkpatch.pl",
        &[Purpose::Kernel],
    ),
];

/// A Debian package, a program by which it is known elsewhere (where it has one), its reason, and what needs
/// it.
pub struct Package(
    pub &'static str,
    pub &'static str,
    pub &'static str,
    pub &'static [Purpose],
);

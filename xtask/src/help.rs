//! What `--help` says.

pub const OVERVIEW: &str = "\
cargo xtask: everything that is done with this repository

Usage: cargo xtask COMMAND [OPTIONS]

See it:
  demo         five pods on a stock node in a virtual machine, appraised by name (first run: about 15 minutes)
  vm           a shell, or one command, in a virtual machine with IMA and a software TPM
Check it:
  doctor       what this machine lacks for `demo` and `test`; changes nothing
  test         everything that must pass, with the virtual machines
  soak         what takes hours: bursts and kills at full size, fuzzing, all kernels
  tidy         the repository's own rules: dependency directions, licences, texts
  bench        what things cost, beside what others cost
Build it:
  build        the programs: cgpath, cgpathd, demo, the guests' init
  ebpf         the eBPF object
  book         the documents as pages for a browser
  dist         packages: for Debian, archives for other systems, and images
  kernel       the patched kernels: fetch, apply, check, build, package
  completions  completions for bash: source <(cargo xtask completions)

Each has --help with examples.

Environment:
  CI                 implies --yes; a skipped test is a failure, but for want of published vectors
  CGPATH_REQUIRE_VECTORS=1   tests of the vectors at ../shared/vectors fail, in place of being skipped, without them
  CGPATH_CACHE       kernels, guest root, snapshots of guests, tools (default ~/.cache/ima-cgpath)
  CGPATH_ACCEL       kvm or tcg, in place of what was found
  CGPATH_GUESTS      virtual machines that tests run at once (default: the processors, 4 at most)
  CGPATH_BPF_OBJECT  an eBPF object that is built already
  CGPATH_BPF_LINKER  a bpf-linker that is installed already
";

pub const DOCTOR: &str = "\
cargo xtask doctor: what this machine lacks for `demo` and `test`; changes nothing

Usage: cargo xtask doctor [--json]

  --json   one JSON object in place of the table

Exit status: 0 nothing is missing, 1 something is. What the package lists lack may only be missing in lists that are old:
`demo` and `test` refresh them.

Examples:
  cargo xtask doctor
  cargo xtask doctor --json | jq '.needs[] | select(.state != \"present\")'
";

pub const DEMO: &str = "\
cargo xtask demo: five pods on a stock node in a virtual machine, appraised by name

Says what is missing and what will be installed, installs it, builds everything and runs the demo. On a terminal it asks
first; without one (a script, CI, a container's build) it goes on, as root or with a sudo that asks nothing. Root is used
for apt-get only. Package lists are refreshed when they are missing, older than a day or lack something. Nothing that is
installed is removed or downgraded, and nothing is upgraded but to a point release of its own suite, which is named first;
where that cannot be, it stops and says which package stands against which.

Usage: cargo xtask demo [OPTIONS]

  --yes            do not ask before installing (implied by the environment variable CI)
  --no-install     only name what is missing, never install; exits 3 if there is something
  --stock SERIES   the kernel: 6.12 (default), 6.1 or 7.3
  --tier TIER      bpf (default), or kernel: a 6.12 kernel with our series, built first when it is not in the cache
  --anchor WHAT    pcr10 (default), or rtmr: a 7.3 kernel in a trust domain without TDX, whose registers and quotes a
                   module and keys of the tests make
  --bare           control groups alone, no container runtime: quicker
  --keep           leave the guest running and say how to log in
  --break WHAT     attack the evidence; must exit 1 and name it:
                   swap-hash, drop-record, wrong-key, hide-loss, old-nonce
  Anything else is passed on to the demo.

Examples:
  cargo xtask demo
  cargo xtask demo --bare --yes
  cargo xtask demo --break swap-hash
  cargo xtask demo --stock 6.1 --keep
  cargo xtask demo --tier kernel
  cargo xtask demo --anchor rtmr
";

pub const VM: &str = "\
cargo xtask vm: a shell, or one command, in a virtual machine with IMA and a software TPM

Usage: cargo xtask vm [OPTIONS] [-- COMMAND [ARGUMENT…]]

  --stock SERIES   the kernel: 6.12 (default), 6.1 or 7.3
  --base SERIES    in its place a kernel with our series, built first when it is not in the cache
  --virtme         with --base (default 6.12): on this machine's own root file system, through virtme-ng
  --cgroup MODE    v2 (default), v1 or hybrid
  --ima-policy F   load this IMA policy, by path, before anything runs
  --ima ARGS       IMA's kernel parameters in place of the usual ones
  --memory MIB     memory (default 1536)
  --keep           leave the guest running and print its directory
  --attach DIR     use a guest that was kept
  --stop           with --attach: power it off
  --prepare        only fetch the kernel and make the root file system
  --yes, --no-install   as for `demo`

Examples:
  cargo xtask vm
  cargo xtask vm --stock 6.1 -- uname -a
  cargo xtask vm --virtme -- grep -c ima-cgpath /sys/kernel/security/ima/ascii_runtime_measurements
  cargo xtask vm --base 6.12 -- tail -1 /sys/kernel/security/ima/ascii_runtime_measurements
  cargo xtask vm -- head -3 /sys/kernel/security/ima/ascii_runtime_measurements
";

pub const TEST: &str = "\
cargo xtask test: everything that must pass

Formatting, clippy, tidy, cargo deny, tests of all crates, tests in virtual machines, and the demo's attacks.
The output ends with the slowest tests, the steps with their seconds, what failed and why (all that a failed test said
is in target/failed), and `N passed, N failed, N skipped`. Exit status 1 if anything failed (or, with CI set, was
skipped).
What is missing is named and installed first, as by `demo`: asked on a terminal, without one not.
A clone alone is enough: tests of published data at ../shared/vectors are skipped where these are not there, with CI set
too; CGPATH_REQUIRE_VECTORS=1 makes them fail.

Usage: cargo xtask test [OPTIONS] [FILTER]

  FILTER         only tests whose name contains this
  --fast         no virtual machines and no packages
  --step NAME    only this step, may be repeated:
                 fmt, tidy, ebpf, clippy, deny, build, host, foreign, dist, vm, breaks, kernel
                 (kernel checks the series and builds one kernel: about 15 minutes the first time)
  --yes, --no-install   as for `demo`

Examples:
  cargo xtask test
  cargo xtask test --fast
  cargo xtask test --step vm boot
";

pub const BUILD: &str = "\
cargo xtask build: the programs, in target/debug

Builds the eBPF object when it is stale, then cgpath, cgpathd, demo, bench and vm, and the guests' static init: what `demo`
and `test` run.

Usage: cargo xtask build [--release] [--yes | --no-install]

  --release   cgpath and cgpathd alone, optimised, in target/release: for machines of your own

Example:
  cargo xtask build && target/debug/cgpath --help
";

pub const EBPF: &str = "\
cargo xtask ebpf: the eBPF object, target/bpf/ima-cgpath.bpf.o

Takes a rustup nightly with rust-src if there is one of Rust 1.90 or newer, else Debian's rustc-web, cargo-web and
rust-web-src. Installs bpf-linker into the cache when it is missing (about 3 minutes, once).

Usage: cargo xtask ebpf [--yes | --no-install]

Example:
  cargo xtask ebpf && ls -l target/bpf/
";

pub const DIST: &str = "\
cargo xtask dist: what users install, in target/packages

  deb   Debian packages: ima-cgpath-collector, ima-cgpath-verifier, ima-cgpath-tools; lintian must have nothing to say
  tar   archives for other systems: cgpath linked statically, cgpathd with the TPM's libraries beside it
  image OCI images from scratch, made offline: ima-cgpath-verifier with cgpath, ima-cgpath-node with cgpathd and its libraries
  chart a Helm chart: the verifier, and what installs the collector on nodes from these images

A CycloneDX document for each program lies beside them or in them, and SHA256SUMS beside them. The same programs of the same commit give the same
bytes: what is packed has the commit's time (SOURCE_DATE_EPOCH, where it is set). A commit without the version's tag gives
packages that sort before that version: 0.1.0~20261130022757.52b5976.

Usage: cargo xtask dist deb|tar|image|chart… [OPTIONS]

  --programs DIR   pack the programs of DIR and build nothing; quickly, for tests
  --yes, --no-install   as for `demo`

Examples:
  cargo xtask dist deb tar
  cargo xtask dist deb && (cd target/packages/deb && sha256sum -c SHA256SUMS)
";

pub const KERNEL: &str = "\
cargo xtask kernel: the patched kernels, from the distribution's source package to an image that a guest boots

Usage: cargo xtask kernel fetch|apply|check|build|reproduce|package [OPTIONS]

  fetch   put the source of a base into the cache, print where
  apply   apply the series to it
  check   patch by patch: git am, checkpatch --strict, no new warning of IMA at W=1 and of sparse
  build   the small kernel for guests, found again by a key of all that went into it; prints its directory
  reproduce   build it a second time, elsewhere, and compare the images
  package     installable image and headers packages, with the distribution's own configuration; prints their directory

  --base SERIES    6.12, 7.3, 6.1, rfc-per-cgroup or all, may be repeated (default: the ones that `test --step kernel` builds in full)
  --debug          build: with KASAN, lockdep, kmemleak and failing allocations
  --config FILE    build, package: one more configuration fragment
  --flavour NAME   package: the distribution's kernel to be like: cloud-amd64 (default) or amd64
  --modules FILE   package: build only the modules in FILE, which is what lsmod prints where the packages are to run
  --yes, --no-install   as for `demo`

Environment: CGPATH_JOBS (parallel jobs, default one for each processor), CGPATH_MIRROR (a Debian mirror).
What the bases and series are: kernel-patches/README.md.

Examples:
  cargo xtask kernel check --base all
  cargo xtask kernel build
  lsmod >loaded && cargo xtask kernel package --base 6.12 --flavour amd64 --modules loaded
";

pub const BENCH: &str = "\
cargo xtask bench: what things cost, beside what others cost at the same moment

Contenders run in turn; shown are medians with the smallest and the largest, and ratios within one round. What cannot be
measured here is named with the reason. Nothing fails because it is slow.

Usage: cargo xtask bench [OPTIONS] [NAME…]

  NAME           only these benchmarks:
                 replay      cgpath log replay beside the bare hash extensions, evmctl and Keylime
                 verify      verification of a long list with everything, beside the bare hash chains of its banks
                 round       what a round of 100 new entries costs a verifier that follows, and the collector, by the length
                             of the list
                 tenant      bytes of a tenant's bundle, by the length of the list
                 image       cgpath policy from-image on 500 MB, beside unpacking and hashing the same bytes
                 serve       1,000 nodes attesting every 10 s to one cgpath serve on this machine: who is late, what it costs
                 exec        executions with nobody, cgpathd, auditd's rule or bpftrace looking; our programs' sizes
                 collector   cgpathd's memory after many records, its processor time idle and attesting
                 attest      a round of attestation beside a bare extend + quote
                 domain      bytes of evidence with a trust domain's quote, what verifying it costs, and a round with RTMR 3,
                             with PCR 10 and with both
                 template    executions that the kernel measures with ima-cgpath, beside ima-ng, on a kernel with the series
                 All but these first six run in a guest: some minutes each without KVM.
  --rounds N     counted rounds, or windows of 60 s (default 5; serve: 12 of each node; attest has none)
  --entries N    replay, verify: entries of the measurement list (default 1000000); round, tenant: that length alone
                 (default 1000 to 1000000); domain: the same (default 1000); image: megabytes (default 500);
                 serve: of each node before its first round (default 1000); exec: executions of each kind in a
                 round (default 200; template: 100); collector: records (default 100000); attest: cycles
                 (default 200)
  --pods N,N…    attest, round: the same over so many pods, whether it is flat, for instance 1,10,50,110,1000 (1000 at most)
  --json         one JSON object in place of the table
  --yes, --no-install   as for `demo`

Examples:
  cargo xtask bench exec
  cargo xtask bench replay --rounds 11 --json | jq '.benchmarks[].ratios'
";

pub const SOAK: &str = "\
cargo xtask soak: what takes hours, run once and now and then; raw logs are kept in target/soak

Usage: cargo xtask soak [OPTIONS] [FILTER]

  --yes                do not ask before installing (implied by the environment variable CI)
  --no-install         only name what is missing; exits 3 if there is something
  --step STEP          only this one, may be repeated: load, service, fuzz, libfuzzer, kernel, fresh, repeat,
                       lives, stacks, mutants
                       (load: bursts and kills at full size, 50 kills around extensions of a trust domain's register)
                       (service: killed with -9 200 times)
                       (libfuzzer: the same targets as fuzz, with coverage; needs a nightly compiler)
                       (kernel: all bases in full with their tests, the same build twice, the debug kernel, packages)
                       (fresh: the first demo in root file systems of Debian 12 and 13, each with stale lists, empty lists,
                       a newer qemu-utils and old compilers; needs root; FILTER names cases: 12-stale, 13-newer-qemu, ...)
                       (repeat: every test five times, twice of them beside two busy loops; at most two hours a run, the
                       next run goes on, until a commit of its own begins anew)
                       (lives: 100,000 random lives of nodes through every way of judging; at most two hours a run, the
                       next run goes on with the seeds behind it)
                       (stacks: 20,000 random stacks of layers beside overlayfs and the real containerd; needs root;
                       goes on as lives does)
                       (mutants: the tests of the rules on every mutant that cargo-mutants makes of them; one that no test
                       kills must be listed with its reason in verifier/appraisal/tests/mutants.txt; at most two hours a
                       run, the next run goes on, until other code or tests begin anew; FILTER is part of a name, and
                       one that is in none is an error: rules/v05_)
  --whole              fresh: goes on with a second demo and `cargo xtask test` in the same machine
  --fuzz-seconds N     for each fuzz target (default 3600)
  FILTER               only tests whose names contain it

Examples:
  cargo xtask soak --step load
  cargo xtask soak --step fresh 12-newer-qemu
  cargo xtask soak --step fresh --whole 13-stale
  cargo xtask soak --step fuzz --fuzz-seconds 600 list_binary
  cargo xtask soak --step mutants rules/v05_
";

pub const BOOK: &str = "\
cargo xtask book: the documents as pages for a browser, target/book/docs/README.html

Every document that docs/README.md leads to, in its order. A link that leads nowhere, and a document in docs/ that
nothing leads to, are named, and nothing is made.

Usage: cargo xtask book
";

pub const TIDY: &str = "\
cargo xtask tidy: the repository's own rules, each breach with file and line

Usage: cargo xtask tidy
";

pub const COMPLETIONS: &str = r#"_cargo_xtask() {
    local current=${COMP_WORDS[COMP_CWORD]}
    if [ "${COMP_WORDS[1]}" = xtask ]; then
        case "${COMP_WORDS[2]}" in
            demo) COMPREPLY=($(compgen -W "--yes --no-install --stock --tier --anchor --bare --keep --break --help" -- "$current")) ;;
            test) COMPREPLY=($(compgen -W "--fast --step --yes --no-install --help" -- "$current")) ;;
            vm) COMPREPLY=($(compgen -W "--stock --base --cgroup --ima-policy --ima --memory --virtme --keep --attach --stop --prepare --help" -- "$current")) ;;
            kernel) COMPREPLY=($(compgen -W "fetch apply check build reproduce package --base --debug --config --flavour --modules --yes --no-install --help" -- "$current")) ;;
            bench) COMPREPLY=($(compgen -W "replay verify round tenant image serve exec collector attest domain template --rounds --entries --pods --json --yes --no-install --help" -- "$current")) ;;
            dist) COMPREPLY=($(compgen -W "deb tar image chart --programs --yes --no-install --help" -- "$current")) ;;
            soak) COMPREPLY=($(compgen -W "--step --whole --fuzz-seconds --yes --no-install --help" -- "$current")) ;;
            doctor) COMPREPLY=($(compgen -W "--json --help" -- "$current")) ;;
            *) COMPREPLY=($(compgen -W "demo vm doctor test soak tidy bench build ebpf dist book kernel" -- "$current")) ;;
        esac
    fi
}
complete -o default -F _cargo_xtask cargo
"#;

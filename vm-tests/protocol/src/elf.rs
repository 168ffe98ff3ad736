//! Programs of a few dozen bytes: real ELF files that the kernel loads, each with a hash of its own.
//!
//! Promises: static, no libraries, one page to map, so that a burst of them costs little even without KVM;
//! files made with different tags differ in content and in nothing else. Not here: where they are put and who
//! runs them. Pure, and used by both sides: the guest (bursts) and the host (images).

/// Where the single segment is mapped.
const BASE: u64 = 0x40_0000;

/// ELF header and one program header, in bytes.
const HEADERS: u64 = 64 + 56;

/// Wraps machine code into an ELF executable for x86-64; `tag` follows the code and is never run.
///
/// Source of the layout: System V ABI, "Object files", ELF-64.
fn executable(code: &[u8], tag: &[u8]) -> Vec<u8> {
    let size = HEADERS + code.len() as u64 + tag.len() as u64;
    let mut f = Vec::with_capacity(size as usize);
    // e_ident: magic, 64 bits, little-endian, version 1, System V.
    f.extend(*b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00");
    f.extend(2u16.to_le_bytes()); // ET_EXEC
    f.extend(62u16.to_le_bytes()); // EM_X86_64
    f.extend(1u32.to_le_bytes()); // EV_CURRENT
    f.extend((BASE + HEADERS).to_le_bytes()); // entry
    f.extend(64u64.to_le_bytes()); // program headers
    f.extend(0u64.to_le_bytes()); // no section headers
    f.extend(0u32.to_le_bytes()); // flags
    for half in [64u16, 56, 1, 0, 0, 0] {
        f.extend(half.to_le_bytes());
    }
    f.extend(1u32.to_le_bytes()); // PT_LOAD
    f.extend(5u32.to_le_bytes()); // readable, executable
    for word in [0, BASE, BASE, size, size, 0x1000] {
        f.extend(word.to_le_bytes());
    }
    f.extend(code);
    f.extend(tag);
    f
}

/// A program that sleeps until it is killed, as a pod's sandbox needs one.
pub fn pause(tag: &str) -> Vec<u8> {
    // again: mov eax, SYS_pause; syscall; jmp again
    executable(b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7", tag.as_bytes())
}

/// A program that exits with `code` at once.
pub fn exit(code: u8, tag: &str) -> Vec<u8> {
    // mov edi, code; mov eax, SYS_exit; syscall
    executable(
        &[0xbf, code, 0, 0, 0, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05],
        tag.as_bytes(),
    )
}

/// A program that writes `text` to its standard output and exits with 0.
pub fn print(text: &str) -> Vec<u8> {
    // mov edi, 1; lea rsi, [rip + text]; mov edx, len; mov eax, SYS_write; syscall;
    // xor edi, edi; mov eax, SYS_exit; syscall
    const AFTER_LEA: u32 = 5 + 5 + 2 + 2 + 5 + 2;
    let mut code = b"\xbf\x01\x00\x00\x00\x48\x8d\x35".to_vec();
    code.extend(AFTER_LEA.to_le_bytes());
    code.push(0xba);
    code.extend((text.len() as u32).to_le_bytes());
    code.extend(*b"\xb8\x01\x00\x00\x00\x0f\x05\x31\xff\xb8\x3c\x00\x00\x00\x0f\x05");
    executable(&code, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::sync::{Mutex, PoisonError};

    /// A thread that forks while another one writes a program keeps the file open in its child for a moment,
    /// and it cannot be executed then: one after the other.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn start(dir: &Path, program: &[u8]) -> Child {
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let path: PathBuf = dir.join("program");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(program).unwrap();
        drop(file);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Command::new(&path).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn run(program: &[u8]) -> std::process::Output {
        let dir = tempfile::tempdir().unwrap();
        start(dir.path(), program).wait_with_output().unwrap()
    }

    #[test]
    fn the_programs_run_and_do_what_they_say() {
        assert_eq!(run(&super::exit(7, "a")).status.code(), Some(7));
        let printed = run(&super::print("hello\n"));
        assert_eq!(
            (printed.stdout.as_slice(), printed.status.code()),
            (b"hello\n".as_slice(), Some(0))
        );
    }

    #[test]
    fn the_sandbox_program_sleeps_until_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = start(dir.path(), &super::pause("x"));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn tags_make_files_that_differ() {
        assert_ne!(super::exit(0, "a"), super::exit(0, "b"));
    }
}

//! `cargo xtask vm`: a shell, or one command, in a guest.
//!
//! Options are described by `cargo xtask vm --help`. Not here: everything about guests (`vm_tests::Vm`).
#![forbid(unsafe_code)]

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;

use vm_tests::kernel::Kernel;
use vm_tests::scenario::TAGGED_IMA;
use vm_tests::{CgroupMode, Stock, Stream, Vm, kernel, root, virtme};

/// A person's command may take its time.
const TIME: Duration = Duration::from_secs(24 * 3600);

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut stock = Stock::V6_12;
    let mut cgroup = CgroupMode::V2;
    let (mut ima, mut ima_policy, mut memory) = (None, None::<PathBuf>, 1536);
    let (mut keep, mut prepare, mut stop) = (false, false, false);
    let mut attach = None::<PathBuf>;
    let mut patched = None;
    let mut vng = None::<PathBuf>;
    let mut command: Vec<String> = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("stock") => stock = parser.value()?.parse()?,
            Long("kernel") => patched = Some(kernel::built(Path::new(&parser.value()?))?),
            Long("virtme") => vng = Some(PathBuf::from(parser.value()?)),
            Long("cgroup") => cgroup = parser.value()?.parse()?,
            Long("ima") => ima = Some(parser.value()?.string()?),
            Long("ima-policy") => ima_policy = Some(parser.value()?.into()),
            Long("memory") => memory = parser.value()?.parse()?,
            Long("keep") => keep = true,
            Long("prepare") => prepare = true,
            Long("attach") => attach = Some(parser.value()?.into()),
            Long("stop") => stop = true,
            Value(word) => {
                command.push(word.string()?);
                for word in parser.raw_args()? {
                    command.push(word.string()?);
                }
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if prepare {
        let kernel = kernel::stock(stock)?;
        println!(
            "kernel {} ({} {})",
            kernel.release, kernel.package, kernel.version
        );
        println!("guest root {}", root::base()?.display());
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(vng), Some(kernel)) = (&vng, &patched) {
        return under_virtme(vng, kernel, ima.as_deref().unwrap_or(TAGGED_IMA), &command);
    }
    let vm = match &attach {
        Some(dir) => Vm::attach(dir)?,
        None => {
            let mut builder = Vm::builder(stock).cgroup(cgroup).memory_mib(memory).keep(keep);
            if let Some(kernel) = patched {
                builder = builder.kernel(kernel).ima(TAGGED_IMA);
            }
            if let Some(ima) = &ima {
                builder = builder.ima(ima);
            }
            if let Some(policy) = ima_policy {
                builder = builder.ima_policy(policy);
            }
            builder.start()?
        }
    };
    for failure in &vm.hello().failures {
        eprintln!("vm: the guest's init: {failure}");
    }
    if stop {
        if attach.is_none() {
            bail!("--stop needs --attach DIR");
        }
        vm.power_off()?;
        return Ok(ExitCode::SUCCESS);
    }
    let code = if command.is_empty() {
        shell(&vm)?
    } else {
        one(&vm, &command)?
    };
    if keep || attach.is_some() {
        let dir = vm.dir().display();
        eprintln!("The guest goes on. cargo xtask vm --attach {dir}   (and --stop to end it)");
    } else {
        vm.power_off()?;
    }
    Ok(code)
}

/// One command in a guest of virtme-ng, which has no terminal to give.
fn under_virtme(vng: &Path, kernel: &Kernel, ima: &str, command: &[String]) -> Result<ExitCode> {
    if command.is_empty() {
        bail!("--virtme runs a command; hint: cargo xtask vm --virtme -- dmesg");
    }
    let words = command
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', "'\\''")));
    let script = words.collect::<Vec<_>>().join(" ");
    let shared = tempfile::tempdir().context("making a temporary directory")?;
    let ran = virtme::run(vng, kernel, ima, &script, shared.path(), TIME)?;
    print!("{}", ran.output);
    Ok(ExitCode::from(u8::try_from(ran.code).unwrap_or(1)))
}

fn one(vm: &Vm, argv: &[String]) -> Result<ExitCode> {
    let exit = vm
        .command(argv)
        .timeout(TIME)
        .stdin(piped_input()?)
        .stream(|stream, bytes| {
            // A reader that closed our output wants no more of it.
            let _ = match stream {
                Stream::Out => std::io::stdout().write_all(bytes),
                Stream::Err => std::io::stderr().write_all(bytes),
            };
        })?;
    std::io::stdout().flush()?;
    Ok(code(&exit))
}

/// Standard input, where it is a file or a pipe.
fn piped_input() -> Result<Vec<u8>> {
    let mut input = Vec::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin()
            .read_to_end(&mut input)
            .context("reading standard input")?;
    }
    Ok(input)
}

fn shell(vm: &Vm) -> Result<ExitCode> {
    if !std::io::stdin().is_terminal() {
        return one(vm, &["/bin/bash".to_owned()]);
    }
    eprintln!("Linux {} with IMA and a TPM. `exit` ends it.", vm.hello().kernel);
    let size = stty(&["size"])?;
    let size: Vec<u16> = size
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let [rows, columns] = size[..] else {
        bail!("stty does not know the terminal's size")
    };
    let settings = stty(&["-g"])?;
    stty(&["raw", "-echo"])?;
    let (typed, input) = mpsc::channel();
    // It stays in its last read when the shell ends, and ends with this process.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count) = std::io::stdin().read(&mut buffer) {
            if count == 0 || typed.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let exit = vm.terminal(&["/bin/bash", "-l"], (rows, columns), input, |bytes| {
        let mut stdout = std::io::stdout();
        // A terminal that is gone shows nothing; the shell in the guest ends all the same.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    });
    stty(&[settings.trim()])?;
    Ok(code(&exit?))
}

fn stty(arguments: &[&str]) -> Result<String> {
    let output = Command::new("stty")
        .args(arguments)
        .stdin(Stdio::inherit())
        .output()
        .context("starting stty")?;
    if !output.status.success() {
        bail!("stty: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn code(exit: &vm_tests::Exit) -> ExitCode {
    // As a shell tells it: 128 and the signal's number.
    let code = exit
        .code
        .or_else(|| exit.signal.map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

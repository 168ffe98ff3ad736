//! `cargo xtask demo`: the product's story, shown by a real guest and a real verifier.
//!
//! Options are described by `cargo xtask demo --help`. Exit codes: 0 every verdict is what it should be; 1
//! one is not, or an attack was caught; 2 the demo could not be run; 3 an attack was *not* caught. Not here:
//! the story (`vm_tests::demo`).
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;
use vm_tests::demo::{self, DemoOptions, Outcome};
use vm_tests::demo_break::{self, Break, Caught};
use vm_tests::domain::{self, Domain};
use vm_tests::pods::Runtime;
use vm_tests::scenario::NODE;
use vm_tests::{Stock, host, kernel, module, root};

const FAILED: u8 = 2;
const NOT_CAUGHT: u8 = 3;

struct Wanted {
    options: DemoOptions,
    attack: Option<Break>,
    json: bool,
    /// Only bring what a guest boots.
    prepare: bool,
}

fn main() -> ExitCode {
    let outcome = wanted().and_then(|wanted| match wanted.attack {
        _ if wanted.prepare => prepare(&wanted.options),
        Some(attack) => show_break(&wanted, attack),
        None => show_story(&wanted),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            if std::env::args_os().any(|argument| argument == "--json") {
                let object = serde_json::json!({ "error": format!("{error:#}"), "kind": "demo" });
                eprintln!("{object}");
            } else {
                eprintln!("demo: {error:#}");
            }
            ExitCode::from(FAILED)
        }
    }
}

fn wanted() -> Result<Wanted> {
    let (mut stock, mut runtime) = (Stock::V6_12, Runtime::Containerd);
    let (mut keep, mut json, mut prepare) = (false, false, false);
    let mut patched = None;
    let (mut attack, mut out) = (None, None::<PathBuf>);
    let mut domain = None::<Domain>;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("stock") => stock = parser.value()?.parse()?,
            Long("kernel") => patched = Some(kernel::built(Path::new(&parser.value()?))?),
            Long("domain") => {
                let path = PathBuf::from(parser.value()?);
                let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                domain = Some(serde_json::from_slice(&bytes)?);
                stock = domain::STOCK;
            }
            Long("bare") => runtime = Runtime::Bare,
            Long("keep") => keep = true,
            Long("json") => json = true,
            Long("prepare") => prepare = true,
            Long("break") => attack = Some(parser.value()?.string()?.parse::<Break>()?),
            Long("out") => out = Some(parser.value()?.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    if keep && attack.is_some() {
        bail!("--keep goes with the demo itself, not with an attack; hint: leave one of them out");
    }
    if domain.is_some() && (attack.is_some() || patched.is_some()) {
        bail!(
            "a trust domain goes with the demo itself on a stock kernel; hint: leave --break and --kernel out"
        );
    }
    let name = attack.map_or_else(|| "demo".to_owned(), |attack| format!("demo-{}", attack.name()));
    let out = out.unwrap_or_else(|| host::target_dir().join(name));
    Ok(Wanted {
        options: DemoOptions {
            stock,
            patched,
            runtime,
            out,
            keep,
            quiet: json,
            // An attack is on evidence; the story begins with a boot.
            restored: attack.is_some(),
            domain,
        },
        attack,
        json,
        prepare,
    })
}

fn prepare(options: &DemoOptions) -> Result<ExitCode> {
    if options.patched.is_none() {
        let kernel = kernel::stock(options.stock)?;
        if options.domain.is_some() {
            module::tdx(&kernel)?;
        }
    }
    root::base()?;
    Ok(ExitCode::SUCCESS)
}

fn show_story(wanted: &Wanted) -> Result<ExitCode> {
    let outcome = demo::run(&wanted.options)?;
    if wanted.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        print!("\n{}", demo::table(&outcome));
        for key in &outcome.dangerous {
            println!("DANGEROUS: {key} is set in the demo's policy");
        }
        println!();
        println!("the verifier's last word:");
        println!("{}", demo::indented(&outcome.last_verdict));
        println!();
        println!(
            "{}",
            if outcome.ok {
                "every verdict is what it should be"
            } else {
                "NOT every verdict is what it should be"
            }
        );
        println!(
            "Linux {}, {:.0} s in all, {:.0} s until the guest was up",
            outcome.kernel, outcome.seconds, outcome.boot_seconds
        );
        println!();
        println!("{}", shown(&outcome.report));
        println!();
        next_commands(&wanted.options, &outcome);
    }
    Ok(if outcome.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn next_commands(options: &DemoOptions, outcome: &Outcome) {
    let out = shown(&options.out);
    let cgpath = host::built_binary("cgpath").map_or_else(|_| "cgpath".to_owned(), |path| shown(&path));
    if let Some(kept) = &outcome.kept {
        let guest = kept.guest.display();
        println!("the guest and its verifier go on; log in, attest by hand, look, end both:");
        println!("  cargo xtask vm --attach {guest}");
        println!(
            "  cargo xtask vm --attach {guest} -- cgpathd once --nonce $(openssl rand -hex 32) -o /tmp/e.cbor"
        );
        println!(
            "  curl --cacert {out}/site/verifier/ca.pem {}v1/nodes/guest/verdict",
            kept.url
        );
        println!(
            "  cargo xtask vm --attach {guest} --stop; kill {}",
            kept.verifier_pid
        );
        println!();
    }
    println!("three to try next:");
    // A domain has no attestation key in a file: the store knows its node key and has its collateral.
    if options.domain.is_some() {
        println!("  {cgpath} verify --store {out}/site/verifier --node {NODE}");
    } else {
        println!(
            "  {cgpath} verify {out}/rounds/6.cbor --policy {out}/site/policy/node.yaml --ak \
             {out}/site/guest.ak --dangerous-no-nonce"
        );
    }
    println!("  cargo xtask demo --break swap-hash");
    println!("  cargo xtask demo --bare --keep");
}

fn show_break(wanted: &Wanted, attack: Break) -> Result<ExitCode> {
    let caught = demo_break::run(&wanted.options, attack)?;
    if wanted.json {
        println!("{}", serde_json::to_string(&caught)?);
    } else {
        show(&caught);
    }
    Ok(ExitCode::from(if caught.rules.is_empty() {
        NOT_CAUGHT
    } else {
        1
    }))
}

fn show(caught: &Caught) {
    println!("\nthe verifier says:");
    for finding in &caught.said {
        println!("{}", host::tail(finding, usize::MAX));
    }
    println!();
    if caught.rules.is_empty() {
        println!("--break {}: NOT CAUGHT: {}", caught.attack, caught.done);
    } else {
        println!(
            "--break {}: caught by {}: {}",
            caught.attack,
            caught.rules.join(", "),
            caught.done
        );
    }
}

/// A path as a person would type it here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

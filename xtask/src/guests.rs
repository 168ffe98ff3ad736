//! The tests that run guests: one program, of which a step runs some modules.
//!
//! Promises: a step runs exactly the tests of its modules that its filter matches; where there is none, nothing runs.
//! Not here: how many guests run at once (`vm_tests::turn`), what is counted (`test`).

use std::process::Command;

use anyhow::Result;

use crate::world::World;
use crate::{build, shell};

/// More than there are tests that could hold a thread: those that wait for a turn, or for what another one gathers, must
/// keep no test from running whose turn it is.
const THREADS: &str = "--test-threads=64";

/// `cargo test` for tests of these modules; `None` where no test is among them. Variables that the tests want are to be
/// set with `prepare`, which is given every command that is made here.
///
/// # Errors
/// When the tests cannot be built.
pub fn tests(
    world: &World,
    is_wanted: impl Fn(&str) -> bool,
    filter: Option<&str>,
    prepare: impl Fn(&mut Command),
) -> Result<Option<Command>> {
    let cargo = || {
        let mut command = build::cargo(world);
        command
            .args(["test", "-p", "vm-tests", "--test", "guests", "--locked", "--"])
            .env("CGPATH_BPF_OBJECT", world.bpf_object())
            .env("CGPATH_WORKSPACE", &world.root)
            .env("CARGO_TARGET_DIR", &world.target);
        prepare(&mut command);
        command
    };
    let listed = shell::spoken(cargo().args(["--list", "--format", "terse"]))?;
    let names = chosen(&listed, is_wanted, filter);
    if names.is_empty() {
        return Ok(None);
    }
    let mut command = cargo();
    command.args(["--show-output", THREADS, "--exact"]).args(names);
    Ok(Some(command))
}

/// The tests of a list of the form `module::test: test`.
fn chosen<'a>(listed: &'a str, is_wanted: impl Fn(&str) -> bool, filter: Option<&str>) -> Vec<&'a str> {
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    names
        .filter(|name| is_wanted(name.split("::").next().unwrap_or_default()))
        .filter(|name| filter.is_none_or(|filter| name.contains(filter)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_chosen_by_its_module_and_by_the_filter() {
        let listed =
            "load::a_kernel_tier: test\nkernel_tier::a: test\nkernel_tier::b: test\nother: benchmark\n";
        let tier = |module: &str| module == "kernel_tier";
        assert_eq!(chosen(listed, tier, None), ["kernel_tier::a", "kernel_tier::b"]);
        assert_eq!(chosen(listed, tier, Some("::b")), ["kernel_tier::b"]);
        assert_eq!(
            chosen(listed, |module| !tier(module), None),
            ["load::a_kernel_tier"]
        );
        assert!(chosen(listed, tier, Some("nothing")).is_empty());
    }
}

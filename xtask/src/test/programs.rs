//! The test programs of the workspace: built all at once, then run one after the other.
//!
//! Promises: whichever of them are wanted, cargo is asked for the whole workspace, so that everything below
//! is compiled once; each test's seconds are known. Not here: what their output means (`tally`).

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::tally::{Count, Tally};
use crate::shell;

/// Of a program that ends without having said which test failed, so many of its last lines are kept.
const LAST: usize = 40;

/// A test program.
pub struct Program {
    /// The package, and the target's name where it is another.
    pub name: String,
    pub executable: PathBuf,
    /// The package's directory, which tests start in.
    pub home: PathBuf,
}

/// Builds what `command`, a `cargo test`, selects, and lists it in cargo's order.
///
/// # Errors
/// When something does not compile.
pub fn build(what: &str, command: &mut Command) -> Result<Vec<Program>> {
    shell::heading(&format!("compiling {what}"));
    command.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let messages = shell::spoken(command)?;
    Ok(messages.lines().filter_map(program).collect())
}

/// The test program that a message of cargo's names.
pub fn program(message: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let executable = message["executable"].as_str()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let home = Path::new(message["manifest_path"].as_str()?).parent()?;
    // `path+file:///…/net#0.1.0`, or with the name where the folder has another: `…/guest#vm-guest@0.1.0`.
    let id = message["package_id"].as_str()?;
    let (place, version) = id.rsplit_once('#')?;
    let package = match version.split_once('@') {
        Some((name, _)) => name,
        None => place.rsplit('/').next()?,
    };
    let target = message["target"]["name"].as_str()?;
    let name = if target == package.replace('-', "_") || target == package {
        package.to_owned()
    } else {
        format!("{package}/{target}")
    };
    Some(Program {
        name,
        executable: executable.into(),
        home: home.to_owned(),
    })
}

impl Program {
    /// Runs its tests; shows what they print but for the output of tests that passed, and counts.
    ///
    /// # Errors
    /// When it cannot be started or its output not be read. That tests fail is none.
    pub fn run(
        &self,
        environment: &[(&str, PathBuf)],
        filter: Option<&str>,
        options: &[&str],
    ) -> Result<Count> {
        println!("\n     {}", self.name);
        let mut command = self.command(environment);
        counted(&self.name, command.args(filter).args(options))
    }

    /// The names of its tests whose module and name are wanted.
    ///
    /// # Errors
    /// When it does not list them.
    pub fn tests(&self, is_wanted: impl Fn(&str) -> bool, filter: Option<&str>) -> Result<Vec<String>> {
        let listed = shell::output(Command::new(&self.executable).args(["--list", "--format", "terse"]))?;
        Ok(chosen(&listed, is_wanted, filter))
    }

    /// The program with what every run of it has; filters and options of the harness follow.
    pub fn command(&self, environment: &[(&str, PathBuf)]) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.home)
            .env("CARGO_MANIFEST_DIR", &self.home)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            // The harness prints each test's seconds under an option that it calls unstable.
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["-Z", "unstable-options", "--report-time", "--show-output"]);
        command
    }
}

/// The tests of a list of the form `module::test: test`.
fn chosen(listed: &str, is_wanted: impl Fn(&str) -> bool, filter: Option<&str>) -> Vec<String> {
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    names
        .filter(|name| is_wanted(name.split("::").next().unwrap_or_default()))
        .filter(|name| filter.is_none_or(|filter| name.contains(filter)))
        .map(str::to_owned)
        .collect()
}

/// Runs a program that prints as the test harness does, and counts its tests under `name`.
///
/// # Errors
/// When it cannot be started or its output not be read.
pub fn counted(name: &str, command: &mut Command) -> Result<Count> {
    let line = shell::shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{line}`"))?;
    let mut stdout = child.stdout.take().context("no output of the tests")?;
    let mut tally = Tally::default();
    let mut pending: Vec<u8> = Vec::new();
    let mut shown = 0;
    let mut buffer = [0; 8192];
    let mut last: VecDeque<String> = VecDeque::new();
    loop {
        let count = stdout.read(&mut buffer)?;
        pending.extend_from_slice(&buffer[..count]);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&pending[..=end]).into_owned();
            last.push_back(line.clone());
            last.drain(..last.len().saturating_sub(LAST));
            if tally.line(line.trim_end()) {
                print!("{}", line.get(shown..).unwrap_or(&line));
            }
            shown = 0;
            pending.drain(..=end);
        }
        // The name of a test that runs stands there without the end of its line: in a guest that takes a
        // minute.
        let partial = String::from_utf8_lossy(&pending);
        if !tally.quiet() && partial.starts_with("test ") && partial.ends_with("... ") && shown == 0 {
            print!("{partial}");
            shown = partial.len();
        }
        std::io::stdout().flush()?;
        if count == 0 {
            break;
        }
    }
    let status = child.wait()?;
    let mut count = tally.count(name);
    if !status.success() && count.failed == 0 {
        eprintln!("`{line}` failed ({status})");
        last.push_back(String::from_utf8_lossy(&pending).into_owned());
        let last: String = last.into_iter().collect();
        let why = format!("{}\n{name} ended with {status}\n", last.trim_end());
        count.add(Count::broken(name, why));
    }
    Ok(count)
}

/// A program by its name, where it was built.
///
/// # Errors
/// When it was not.
pub fn named<'a>(programs: &'a [Program], name: &str) -> Result<&'a Program> {
    match programs.iter().find(|program| program.name == name) {
        Some(program) => Ok(program),
        None => bail!("no test program {name} was built"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_known_among_other_messages_and_named_after_package_and_target() {
        let message = |package: &str, target: &str, test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact", "package_id": package,
                "manifest_path": "/here/cgpath/Cargo.toml",
                "target": { "name": target }, "profile": { "test": test },
                "executable": "/here/target/debug/deps/x-1",
            })
            .to_string()
        };
        let name = |package, target| program(&message(package, target, true)).map(|program| program.name);
        let command = "path+file:///here/cgpath#0.1.0";
        assert_eq!(name(command, "cgpath").as_deref(), Some("cgpath"));
        assert_eq!(
            name(command, "integration").as_deref(),
            Some("cgpath/integration")
        );
        let named = "path+file:///here/vm-tests/protocol#vm-protocol@0.1.0";
        assert_eq!(name(named, "vm_protocol").as_deref(), Some("vm-protocol"));
        assert!(program(&message(command, "cgpath", false)).is_none());
        assert!(program(r#"{"reason":"build-finished","success":true}"#).is_none());
        assert!(program("not json").is_none());
    }

    #[test]
    fn a_test_is_chosen_by_its_module_and_by_the_filter() {
        let listed =
            "load::a_kernel_tier: test\nkernel_tier::a: test\nkernel_tier::b: test\nother: benchmark\n";
        let tier = |module: &str| module == "kernel_tier";
        assert_eq!(chosen(listed, tier, None), ["kernel_tier::a", "kernel_tier::b"]);
        assert_eq!(chosen(listed, tier, Some("::b")), ["kernel_tier::b"]);
        let others = chosen(listed, |module| !tier(module), None);
        assert_eq!(others, ["load::a_kernel_tier"]);
        assert!(chosen(listed, tier, Some("nothing")).is_empty());
    }
}

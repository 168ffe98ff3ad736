//! The mutants that no test kills, each with its reason: `verifier/appraisal/tests/mutants.txt`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

/// Where they stand, which is no source of a test.
pub const FILE: &str = "verifier/appraisal/tests/mutants.txt";

/// Names and reasons.
#[derive(Debug)]
pub struct Accepted(BTreeMap<String, String>);

impl Accepted {
    /// Reads the list.
    ///
    /// # Errors
    /// When it is not there, or is not as its head says.
    pub fn read(workspace: &Workspace) -> Result<Self> {
        let path = workspace.root.join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| FILE.to_owned())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut all = BTreeMap::new();
        let mut names: Vec<String> = Vec::new();
        let mut reason = String::new();
        let mut end = |names: &mut Vec<String>, reason: &mut String| {
            if let (Some(name), true) = (names.first(), reason.is_empty()) {
                bail!("no reason for `{name}`");
            }
            for name in names.drain(..) {
                if all.insert(name.clone(), reason.clone()).is_some() {
                    bail!("`{name}` stands there twice");
                }
            }
            reason.clear();
            Ok(())
        };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if line.trim().is_empty() {
                end(&mut names, &mut reason)?;
            } else if line.starts_with(' ') {
                if names.is_empty() {
                    bail!("a reason of nothing: `{}`", line.trim());
                }
                reason.push_str(line.trim());
                reason.push(' ');
            } else if reason.is_empty() {
                names.push(line.to_owned());
            } else {
                bail!("`{line}` stands behind a reason: an empty line is missing");
            }
        }
        end(&mut names, &mut reason)?;
        Ok(Self(all))
    }

    pub fn reason(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mutant_has_the_reason_below_it_and_none_stands_without_one() {
        let all = Accepted::parse("# head\n\na: x\nb: y #2\n  one\n  reason\n\nc: z\n  other\n").unwrap();
        assert_eq!(all.reason("a: x"), Some("one reason "));
        assert_eq!(all.reason("b: y #2"), Some("one reason "));
        assert_eq!(all.reason("c: z"), Some("other "));
        assert_eq!(all.names().count(), 3);
        for bad in [
            "a: x\n",
            "a: x\n\nb: y\n  r\n",
            "  r\n",
            "a: x\n  r\nb: y\n  r\n",
            "a\n r\n\na\n r\n",
        ] {
            assert!(Accepted::parse(bad).is_err(), "{bad:?}");
        }
    }
}

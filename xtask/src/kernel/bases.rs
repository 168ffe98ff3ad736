//! What the series are made against: `kernel-patches/bases.json`, and the patches in the directories beside
//! it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// A kernel that a series is made against: an entry of `kernel-patches/bases.json`.
#[derive(Debug, PartialEq, Eq)]
pub struct Base {
    /// The directory of its patches, and the name by which people ask for it.
    pub series: String,
    pub package: String,
    pub suite: String,
    pub made_for: String,
    upstream: String,
    pub full: bool,
    /// The series that this one goes on top of, whose source it shares.
    after: Option<String>,
    /// What checkpatch is not asked about, by its own names; the file says why of each.
    pub accepted: Option<String>,
}

impl Base {
    /// Whose source and configuration are used: `6.12`, also of a series on top of that for 6.12.
    pub fn kernel(&self) -> &str {
        self.after.as_deref().unwrap_or(&self.series)
    }
}

pub fn named<'a>(all: &'a [Base], name: &str) -> Result<&'a Base> {
    all.iter().find(|base| base.series == name).with_context(|| {
        let names: Vec<&str> = all.iter().map(|base| base.series.as_str()).collect();
        format!("no base `{name}`; there are {}", names.join(", "))
    })
}

pub fn patches_dir(workspace: &Workspace) -> PathBuf {
    workspace.root.join("kernel-patches")
}

/// What the series are made against.
pub fn bases(workspace: &Workspace) -> Result<Vec<Base>> {
    let path = patches_dir(workspace).join("bases.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse_bases(&text).with_context(|| format!("in {}", path.display()))
}

/// Reads the file's array; `kernel-patches/README.md` says what each key means.
fn parse_bases(text: &str) -> Result<Vec<Base>> {
    let all: Vec<Value> = serde_json::from_str(text).context("it is no JSON array")?;
    let bases: Vec<Base> = all.iter().map(base).collect::<Result<_>>()?;
    for base in &bases {
        if let Some(after) = &base.after
            && (*after == base.series || !bases.iter().any(|other| other.series == *after))
        {
            bail!(
                "{}: it comes after `{after}`, which is no other base",
                base.series
            );
        }
    }
    if bases.is_empty() {
        bail!("it names no base");
    }
    Ok(bases)
}

fn base(value: &Value) -> Result<Base> {
    let keys = value.as_object().context("a base is no JSON object")?;
    let series = keys.get("series").and_then(Value::as_str).unwrap_or("a base");
    let text = |key: &str| {
        let text = keys
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    let needed = |key: &str| text(key).with_context(|| format!("{series}: it lacks the text `{key}`"));
    let base = Base {
        series: needed("series")?,
        package: needed("package")?,
        suite: needed("suite")?,
        made_for: needed("made_for")?,
        upstream: needed("upstream")?,
        full: keys
            .get("full")
            .and_then(Value::as_bool)
            .with_context(|| format!("{series}: `full` is true or false"))?,
        after: text("after"),
        accepted: keys
            .get("accepted")
            .map(|accepted| names(accepted).with_context(|| format!("{series}: `accepted`")))
            .transpose()?,
    };
    const KNOWN: [&str; 8] = [
        "series", "package", "suite", "made_for", "upstream", "full", "after", "accepted",
    ];
    if let Some(other) = keys.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        bail!("{series}: there is no key `{other}`");
    }
    Ok(base)
}

/// The keys of an object whose values are reasons, with commas between them.
fn names(accepted: &Value) -> Result<String> {
    let reasons = accepted.as_object().context("each name has its reason")?;
    if reasons
        .values()
        .any(|reason| reason.as_str().is_none_or(str::is_empty))
    {
        bail!("each name has its reason");
    }
    Ok(reasons.keys().cloned().collect::<Vec<_>>().join(","))
}

/// The patches of a base in their order, those of the series that it comes after first.
pub fn series(workspace: &Workspace, base: &Base) -> Result<Vec<PathBuf>> {
    let mut patches = Vec::new();
    for name in base.after.iter().chain([&base.series]) {
        patches.extend(patches_of(workspace, name)?);
    }
    Ok(patches)
}

/// The patches of a base's own directory.
pub fn own_patches(workspace: &Workspace, base: &Base) -> Result<Vec<PathBuf>> {
    patches_of(workspace, &base.series)
}

fn patches_of(workspace: &Workspace, name: &str) -> Result<Vec<PathBuf>> {
    let dir = patches_dir(workspace).join(name);
    let mut patches: Vec<PathBuf> = std::fs::read_dir(&dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    patches.sort();
    if patches.is_empty() {
        bail!("{} has no patches", dir.display());
    }
    Ok(patches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_read_and_what_is_not_understood_is_an_error_that_names_it() {
        let good = serde_json::json!({
            "series": "6.12", "package": "p", "suite": "s", "made_for": "1", "upstream": "v", "full": true,
        });
        let with = |key: &str, value: Value| {
            let mut changed = good.clone();
            changed[key] = value;
            Value::Array(vec![changed]).to_string()
        };
        let bases = parse_bases(&with("accepted", serde_json::json!({"A": "why", "B": "why"}))).unwrap();
        assert_eq!(bases.len(), 1);
        assert!(bases[0].full && bases[0].series == "6.12" && bases[0].package == "p");
        assert_eq!(bases[0].accepted.as_deref(), Some("A,B"));
        for (broken, said) in [
            ("[{]".to_owned(), "no JSON array"),
            ("{}".to_owned(), "no JSON array"),
            ("[1]".to_owned(), "no JSON object"),
            (with("colour", "red".into()), "no key `colour`"),
            (with("full", "perhaps".into()), "`full` is true or false"),
            (with("suite", Value::Null), "lacks the text `suite`"),
            (with("after", "6.13".into()), "no other base"),
            (with("after", "6.12".into()), "no other base"),
            (
                with("accepted", serde_json::json!({"A": ""})),
                "each name has its reason",
            ),
            ("[]".to_owned(), "no base"),
        ] {
            let error = format!("{:#}", parse_bases(&broken).unwrap_err());
            assert!(error.contains(said), "{broken}: {error}");
        }
    }
}

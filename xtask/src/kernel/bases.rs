//! What the series are made against: `kernel-patches/bases.toml`, and the patches in the directories beside it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::world::World;

/// A kernel that a series is made against: an entry of `kernel-patches/bases.toml`.
#[derive(Debug, Default, PartialEq, Eq)]
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
    /// What checkpatch is not asked about, by its own names; `bases.toml` says why.
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

pub fn patches_dir(world: &World) -> PathBuf {
    world.root.join("kernel-patches")
}

/// What the series are made against.
pub fn bases(world: &World) -> Result<Vec<Base>> {
    let path = patches_dir(world).join("bases.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse_bases(&text).with_context(|| format!("in {}", path.display()))
}

/// Reads the part of TOML that `bases.toml` uses: tables with quoted names, and strings.
fn parse_bases(text: &str) -> Result<Vec<Base>> {
    let mut bases: Vec<Base> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(series) = line.strip_prefix("[\"").and_then(|rest| rest.strip_suffix("\"]")) {
            bases.push(Base {
                series: series.to_owned(),
                ..Base::default()
            });
            continue;
        }
        let pair = line.split_once('=').and_then(|(key, value)| {
            let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
            Some((key.trim(), value.to_owned()))
        });
        let Some((key, value)) = pair else {
            bail!("line {number}: neither [\"series\"] nor key = \"value\"");
        };
        let base = bases
            .last_mut()
            .with_context(|| format!("line {number}: `{key}` belongs to no [\"series\"]"))?;
        match key {
            "package" => base.package = value,
            "suite" => base.suite = value,
            "made_for" => base.made_for = value,
            "upstream" => base.upstream = value,
            "after" => base.after = Some(value),
            "accepted" => base.accepted = Some(value),
            "full" if value == "yes" || value == "no" => base.full = value == "yes",
            "full" => bail!("line {number}: `full` is \"yes\" or \"no\""),
            other => bail!("line {number}: no key `{other}`"),
        }
    }
    let all: Vec<String> = bases.iter().map(|base| base.series.clone()).collect();
    for base in &bases {
        if let Some(after) = &base.after
            && (*after == base.series || !all.contains(after))
        {
            bail!(
                "[\"{}\"] comes after `{after}`, which is no other base",
                base.series
            );
        }
        let needed = [&base.package, &base.suite, &base.made_for, &base.upstream];
        if needed.into_iter().any(String::is_empty) {
            bail!(
                "[\"{}\"] lacks one of package, suite, made_for, upstream",
                base.series
            );
        }
    }
    if bases.is_empty() {
        bail!("it names no base");
    }
    Ok(bases)
}

/// The patches of a base in their order, those of the series that it comes after first.
pub fn series(world: &World, base: &Base) -> Result<Vec<PathBuf>> {
    let mut patches = Vec::new();
    for name in base.after.iter().chain([&base.series]) {
        patches.extend(patches_of(world, name)?);
    }
    Ok(patches)
}

/// The patches of a base's own directory.
pub fn own_patches(world: &World, base: &Base) -> Result<Vec<PathBuf>> {
    patches_of(world, &base.series)
}

fn patches_of(world: &World, name: &str) -> Result<Vec<PathBuf>> {
    let dir = patches_dir(world).join(name);
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
    fn bases_are_read_and_what_is_not_understood_is_an_error_with_its_line() {
        let text = "# x\n[\"6.12\"]\npackage = \"p\"\nsuite = \"s\"\nmade_for = \"1\"\nupstream = \"v\"\nfull = \"yes\"\n";
        let bases = parse_bases(text).unwrap();
        assert_eq!(bases.len(), 1);
        assert!(bases[0].full && bases[0].series == "6.12" && bases[0].package == "p");
        for (broken, said) in [
            ("package = \"p\"\n", "line 1"),
            ("[\"6.12\"]\npackage = p\n", "line 2"),
            ("[\"6.12\"]\ncolour = \"red\"\n", "line 2"),
            ("[\"6.12\"]\nfull = \"perhaps\"\n", "line 2"),
            ("[\"6.12\"]\npackage = \"p\"\n", "lacks"),
            ("[\"6.12\"]\nafter = \"6.13\"\n", "no other base"),
            ("[\"6.12\"]\nafter = \"6.12\"\n", "no other base"),
            ("", "no base"),
        ] {
            let error = parse_bases(broken).unwrap_err().to_string();
            assert!(error.contains(said), "{broken}: {error}");
        }
    }
}

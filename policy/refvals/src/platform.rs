//! Platforms of images, compared as containerd does.
//!
//! Promise: two names of one platform are one, and where an image has several, the one is meant that a node
//! of the platform would take. Source: containerd/platforms, database.go (`normalizeArch`), compare.go
//! (`platformVector`).

use serde::Deserialize;

/// An operating system and a processor, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`…
    pub architecture: String,
    /// `v7`, `v8`…; left out, it is the architecture's usual one: `v1` of amd64, `v7` of arm, `v8` of arm64.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// Reads `OS/ARCHITECTURE[/VARIANT]`.
    pub fn parse(text: &str) -> Option<Platform> {
        let mut parts = text.split('/');
        let (os, architecture) = (parts.next()?, parts.next()?);
        let variant = parts.next().map(str::to_owned);
        let fits = parts.next().is_none() && !os.is_empty() && !architecture.is_empty();
        fits.then(|| Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant,
        })
    }

    /// The platform that this program runs on.
    pub fn this() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: None,
        }
        .normalized()
    }

    /// The one name of this platform; no variant where it is the usual one, but for arm.
    fn normalized(&self) -> Platform {
        let os = match &self.os.to_lowercase()[..] {
            "macos" => "darwin".into(),
            os => os.to_owned(),
        };
        let variant = self.variant.as_deref().unwrap_or_default().to_lowercase();
        let (architecture, variant) = match (&self.architecture.to_lowercase()[..], &variant[..]) {
            ("i386", _) => ("386".into(), ""),
            ("x86_64" | "x86-64" | "amd64", variant) => {
                ("amd64".into(), if variant == "v1" { "" } else { variant })
            }
            ("aarch64" | "arm64", variant) => (
                "arm64".into(),
                if matches!(variant, "8" | "v8") {
                    ""
                } else {
                    variant
                },
            ),
            ("armhf", _) => ("arm".into(), "v7"),
            ("armel", _) => ("arm".into(), "v6"),
            ("arm", "" | "7") => ("arm".into(), "v7"),
            ("arm", "5") => ("arm".into(), "v5"),
            ("arm", "6") => ("arm".into(), "v6"),
            ("arm", "8") => ("arm".into(), "v8"),
            (other, variant) => (other.to_owned(), variant),
        };
        Platform {
            os,
            architecture,
            variant: Some(variant.to_owned()).filter(|variant| !variant.is_empty()),
        }
    }

    fn with(&self, architecture: &str, variant: &str) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: architecture.to_owned(),
            variant: Some(variant.to_owned()).filter(|variant| !variant.is_empty()),
        }
    }

    /// The platforms whose images a node of this one runs, the best first: an arm/v7 takes those of v6 and
    /// v5.
    fn accepted(&self) -> Vec<Platform> {
        let this = self.normalized();
        let mut all = vec![this.clone()];
        let version = |text: &str| text.trim_start_matches('v').parse::<u8>().ok();
        let variant = this.variant.as_deref().unwrap_or_default();
        match &this.architecture[..] {
            "amd64" => {
                let lower = (1..version(variant).unwrap_or(1)).rev();
                all.extend(lower.map(|n| this.with("amd64", &format!("v{n}"))));
                all.push(this.with("386", ""));
            }
            "arm" => {
                let lower = (5..version(variant).unwrap_or(5)).rev();
                all.extend(lower.map(|n| this.with("arm", &format!("v{n}"))));
            }
            "arm64" => {
                let (major, minor) = variant.split_once('.').unwrap_or((variant, ""));
                let mut minor = version(minor).unwrap_or(0);
                let name = |major: u8, minor: u8| match minor {
                    0 => format!("v{major}"),
                    minor => format!("v{major}.{minor}"),
                };
                let major = if variant.is_empty() {
                    Some(8)
                } else {
                    version(major)
                };
                if major == Some(9) {
                    all.extend((0..minor).rev().map(|n| this.with("arm64", &name(9, n))));
                    // v9.0 has what v8.5 has.
                    minor = minor.saturating_add(5);
                    all.push(this.with("arm64", &name(8, minor)));
                }
                if matches!(major, Some(8 | 9)) {
                    all.extend((0..minor).rev().map(|n| this.with("arm64", &name(8, n))));
                    all.extend((5..=8).rev().map(|n| this.with("arm", &format!("v{n}"))));
                }
            }
            _ => {}
        }
        all.into_iter().map(|platform| platform.normalized()).collect()
    }

    /// How well an image of `other` fits a node of this platform: 0 is best, `None` where it does not run.
    pub(super) fn fit(&self, other: &Platform) -> Option<usize> {
        let other = other.normalized();
        self.accepted().iter().position(|platform| *platform == other)
    }
}

impl core::fmt::Display for Platform {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |v| write!(f, "/{v}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    #[test]
    fn names_of_one_platform_are_one_as_containerd_has_them() {
        // containerd/platforms, platforms_test.go and database.go.
        for (text, normalized) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/x86-64/v1", "linux/amd64"),
            ("linux/i386/x", "linux/386"),
            ("linux/arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm/5", "linux/arm/v5"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/arm/8", "linux/arm/v8"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert_eq!(platform(text).normalized().to_string(), normalized, "{text}");
        }
    }

    #[test]
    fn a_node_takes_what_its_processor_runs_and_the_best_first() {
        // containerd/platforms, compare.go, `platformVector`.
        for (node, images) in [
            ("linux/amd64", &["linux/amd64/v1", "linux/386"][..]),
            (
                "linux/amd64/v3",
                &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"],
            ),
            ("linux/arm/v7", &["linux/arm", "linux/arm/v6", "linux/arm/v5"]),
            ("linux/arm/v5", &["linux/arm/v5"]),
            (
                "linux/arm64/v8",
                &[
                    "linux/arm64",
                    "linux/arm/v8",
                    "linux/arm/v7",
                    "linux/arm/v6",
                    "linux/arm/v5",
                ],
            ),
            (
                "linux/arm64/v8.2",
                &["linux/arm64/v8.2", "linux/arm64/v8.1", "linux/arm64/v8"],
            ),
            (
                "linux/arm64/v9",
                &["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64/v8.4"],
            ),
            ("linux/s390x", &["linux/s390x"]),
        ] {
            let fits: Vec<_> = images
                .iter()
                .map(|image| platform(node).fit(&platform(image)))
                .collect();
            let expected: Vec<_> = (0..images.len()).map(Some).collect();
            assert_eq!(fits, expected, "{node}");
        }
        for (node, image) in [
            ("linux/amd64", "linux/amd64/v2"),
            ("linux/amd64", "linux/arm64"),
            ("linux/386", "linux/amd64"),
            ("linux/arm/v6", "linux/arm"),
            ("linux/arm", "linux/arm64"),
            ("linux/arm64", "linux/arm64/v9"),
            ("linux/amd64", "windows/amd64"),
        ] {
            assert_eq!(platform(node).fit(&platform(image)), None, "{node} {image}");
        }
    }
}

//! What apt would do to this machine, and whether that may be done: read from what apt and dpkg say, decided
//! here.
//!
//! Pure: text goes in, a decision comes out. Promises: a plan removes nothing, downgrades nothing, touches
//! nothing that is held, and upgrades only what a new package demands, within the suite that it came from.
//! Where apt's first answer breaks that, the suites are preferred from which the machine's own packages came;
//! where that does not help either, the packages that stand against each other are named. Not here: running
//! apt (`apt`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Above the 500 of every configured suite, below the 1000 from which apt downgrades.
const PREFERRED: u32 = 600;

/// What apt is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Names of packages.
    pub packages: Vec<String>,
    /// Installed packages with their versions, named so that apt looks for an answer that keeps them.
    pub keep: BTreeMap<String, String>,
    /// Which packages are rather taken from which suite.
    pub prefer: Preferences,
}

impl Request {
    /// The arguments of `apt-get install`.
    pub fn arguments(&self) -> Vec<String> {
        let kept = self
            .keep
            .iter()
            .map(|(name, version)| format!("{name}={version}"));
        self.packages.iter().cloned().chain(kept).collect()
    }
}

/// Package names (or `src:` and a source package's name) by the suite that they are taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preferences(pub BTreeMap<Suite, BTreeSet<String>>);

impl Preferences {
    /// For a file of apt_preferences(5).
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (suite, packages) in &self.0 {
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            let _ = writeln!(
                text,
                "Package: {}\nPin: release n={}\nPin-Priority: {PREFERRED}\n",
                packages.join(" "),
                suite.codename
            );
        }
        text
    }

    /// The suites, for a person.
    pub fn suites(&self) -> Vec<&str> {
        self.0.keys().map(|suite| suite.codename.as_str()).collect()
    }
}

/// A suite of an archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suite {
    /// Such as `bookworm-backports`; for an archive that names none, what its source line says.
    pub codename: String,
    /// Such as `Debian`.
    pub origin: String,
}

impl Suite {
    /// Point releases reach a suite by these as well.
    fn family(&self) -> (&str, &str) {
        let parts = ["-proposed-updates", "-updates", "-security"];
        let base = parts.iter().find_map(|part| self.codename.strip_suffix(part));
        (&self.origin, base.unwrap_or(&self.codename))
    }

    fn backports(codename: &str) -> Self {
        Self {
            codename: format!("{codename}-backports"),
            origin: "Debian Backports".to_owned(),
        }
    }
}

/// The release that this machine runs.
#[derive(Clone, Debug)]
pub struct Release {
    /// Such as `bookworm`.
    pub codename: String,
    /// Such as `12`.
    pub number: String,
}

impl Release {
    fn suite(&self) -> Suite {
        Suite {
            codename: self.codename.clone(),
            origin: "Debian".to_owned(),
        }
    }
}

/// The installed packages, by name.
#[derive(Clone, Debug, Default)]
pub struct Installed(BTreeMap<String, Package>);

#[derive(Clone, Debug)]
struct Package {
    version: String,
    /// The name of its source package.
    source: String,
    held: bool,
}

/// The format that [`Installed::read`] reads, for `dpkg-query -W -f`.
pub const INSTALLED_FORMAT: &str =
    "${Package} ${Architecture} ${db:Status-Want} ${db:Status-Status} ${Version} ${source:Package}\n";

impl Installed {
    /// Reads what `dpkg-query` prints in [`INSTALLED_FORMAT`].
    pub fn read(text: &str) -> Self {
        let read = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, architecture, want, "installed", version, source] = words[..] else {
                return None;
            };
            let entry = Package {
                version: version.to_owned(),
                source: source.to_owned(),
                held: want == "hold",
            };
            // apt writes the architecture where it is not the machine's own.
            Some([
                (name.to_owned(), entry.clone()),
                (format!("{name}:{architecture}"), entry),
            ])
        };
        Self(text.lines().filter_map(read).flatten().collect())
    }
}

/// Which suites offer which versions, as `apt-cache policy` states.
#[derive(Clone, Debug, Default)]
pub struct Offers {
    suites: BTreeMap<String, Suite>,
    versions: BTreeMap<(String, String), BTreeSet<Suite>>,
}

impl Offers {
    /// Reads `apt-cache policy`, which states suites, and `apt-cache policy PACKAGE…`, which states versions.
    pub fn read(general: &str, packages: &str) -> Self {
        let mut offers = Self::default();
        let mut place = None;
        for line in general.lines() {
            let line = line.trim();
            if let Some(release) = line.strip_prefix("release ") {
                let field = |key: &str| release.split(',').find_map(|field| field.strip_prefix(key));
                if let (Some(place), Some(codename)) = (
                    place.take(),
                    field("n=").or(field("a=")).filter(|name| *name != "now"),
                ) {
                    let suite = Suite {
                        codename: codename.to_owned(),
                        origin: field("o=").unwrap_or_default().to_owned(),
                    };
                    offers.suites.insert(place, suite);
                }
            } else if line.starts_with(|first: char| first.is_ascii_digit()) {
                place = Self::place(line);
            }
        }
        let (mut name, mut version) = (None, None);
        for line in packages.lines() {
            let words: Vec<&str> = line.trim_start_matches(" ***").split_whitespace().collect();
            match words[..] {
                _ if !line.starts_with(' ') => {
                    name = line.strip_suffix(':').map(str::to_owned);
                    version = None;
                }
                [found, priority] if priority.parse::<i32>().is_ok() && !found.ends_with(':') => {
                    version = Some(found.to_owned());
                }
                _ => {
                    if let (Some(name), Some(version), Some(place)) = (&name, &version, Self::place(line)) {
                        let suite = offers.suites.get(&place).cloned().unwrap_or_else(|| Suite {
                            codename: place.clone(),
                            origin: String::new(),
                        });
                        let key = (name.clone(), version.clone());
                        offers.versions.entry(key).or_default().insert(suite);
                    }
                }
            }
        }
        offers
    }

    /// ` 500 http://archive/debian bookworm/main amd64 Packages` without the priority; `None` for dpkg's own
    /// file.
    fn place(line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [priority, address, dist, ..] = words[..] else {
            return None;
        };
        priority.parse::<i32>().ok()?;
        Some(format!("{address} {dist}"))
    }

    /// Whether the machine has a source for this suite.
    pub fn configured(&self, suite: &Suite) -> bool {
        self.suites.values().any(|known| known.codename == suite.codename)
    }

    fn of(&self, name: &str, version: &str) -> BTreeSet<Suite> {
        // The table is headed by the bare name for packages of the machine's own architecture.
        let key = |name: &str| (name.to_owned(), version.to_owned());
        let bare = name.split(':').next().unwrap_or(name);
        let found = self.versions.get(&key(name)).or(self.versions.get(&key(bare)));
        found.cloned().unwrap_or_default()
    }
}

/// A package that would be new or get another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    name: String,
    old: Option<String>,
    new: String,
}

/// Something that apt could not satisfy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unmet {
    package: String,
    /// The package that it needs, or that it does not bear.
    other: String,
    /// Apt's own words.
    said: String,
}

/// What a simulation of `apt-get install` says.
#[derive(Clone, Debug, Default)]
pub struct Simulation {
    /// With the versions that go.
    removed: BTreeMap<String, String>,
    changes: Vec<Change>,
    downgraded: BTreeSet<String>,
    held: BTreeSet<String>,
    unmet: Vec<Unmet>,
    unknown: BTreeSet<String>,
    /// Each package that another one pulled in, with that other one.
    causes: BTreeMap<String, String>,
    errors: Vec<String>,
}

/// Apt's option that makes it name causes.
pub const NAMES_CAUSES: &str = "Debug::pkgDepCache::AutoInstall=1";

impl Simulation {
    /// Reads both outputs of `apt-get --simulate install`, in the C locale and with [`NAMES_CAUSES`].
    pub fn read(stdout: &str, stderr: &str) -> Self {
        let mut read = Self::default();
        let mut section = "";
        let mut last: Option<String> = None;
        for line in stdout.lines() {
            if !line.starts_with(' ') {
                section = line;
                last = None;
                if let Some(rest) = line.strip_prefix("Remv ") {
                    read.removal(rest);
                } else if let Some(rest) = line.strip_prefix("Inst ") {
                    read.change(rest);
                }
                continue;
            }
            let names = line
                .split_whitespace()
                .map(|name| name.trim_end_matches('*').to_owned());
            if section.contains("DOWNGRADED") {
                read.downgraded.extend(names);
            } else if section.contains("held packages will be changed") {
                read.held.extend(names);
            } else if section.contains("unmet dependencies") {
                read.unmet_line(line, &mut last);
            }
        }
        for line in stderr.lines().chain(stdout.lines()) {
            let line = line.trim();
            read.error_line(line);
            read.cause_line(line);
        }
        read
    }

    /// `qemu-utils [1:10.0.2+ds-2]`, perhaps with more behind.
    fn removal(&mut self, rest: &str) {
        let mut words = rest.split_whitespace();
        if let Some(name) = words.next() {
            let version = words.next().unwrap_or_default();
            let version = version.trim_matches(|c| c == '[' || c == ']');
            self.removed.insert(name.to_owned(), version.to_owned());
        }
    }

    /// `systemd [252.38-1~deb12u1] (252.39-1~deb12u2 Debian:12.15/oldstable [amd64]) []`; new ones have no
    /// first bracket.
    fn change(&mut self, rest: &str) {
        let mut words = rest.split_whitespace();
        let (Some(name), Some(mut word)) = (words.next(), words.next()) else {
            return;
        };
        let old = word.strip_prefix('[').and_then(|word| word.strip_suffix(']'));
        if old.is_some() {
            word = words.next().unwrap_or_default();
        }
        if let Some(new) = word.strip_prefix('(') {
            self.changes.push(Change {
                name: name.to_owned(),
                old: old.map(str::to_owned),
                new: new.trim_end_matches(')').to_owned(),
            });
        }
    }

    /// ` qemu-utils : Breaks: qemu-system-common (< 8) but 7.2 is to be installed`; lines that go on have no
    /// name.
    fn unmet_line(&mut self, line: &str, last: &mut Option<String>) {
        let line = line.trim();
        // Apt 3 puts its error on the same line when it has nothing to say of the version.
        let line = line.split("E: ").next().unwrap_or(line);
        let (package, said) = match (line.split_once(" : "), last.clone()) {
            (Some((package, said)), _) => (package.to_owned(), said),
            (None, Some(package)) => (package, line),
            (None, None) => return,
        };
        *last = Some(package.clone());
        let Some((_, behind)) = said.split_once(": ") else {
            return;
        };
        if let Some(other) = behind.split_whitespace().next() {
            self.unmet.push(Unmet {
                said: format!("{package} : {said}"),
                package,
                other: other.to_owned(),
            });
        }
    }

    fn error_line(&mut self, line: &str) {
        let Some(error) = line.strip_prefix("E: ") else {
            return;
        };
        self.errors.push(error.to_owned());
        if let Some(name) = error.strip_prefix("Unable to locate package ") {
            self.unknown.insert(name.to_owned());
        } else if let Some(rest) = error.strip_prefix("Package '") {
            // Package 'x' has no installation candidate
            self.unknown.extend(rest.split('\'').next().map(str::to_owned));
        }
    }

    /// `Installing udev:amd64 as Depends of tpm-udev:amd64`,
    /// `Upgrading systemd:amd64 < a | b @ii > due to udev:amd64`.
    fn cause_line(&mut self, line: &str) {
        let found = if let Some(rest) = line.strip_prefix("Installing ") {
            rest.split_once(" as ")
                .and_then(|(name, rest)| Some((name, rest.split_once(" of ")?.1)))
        } else if let Some(rest) = line.strip_prefix("Upgrading ") {
            rest.split_once(" due to ")
        } else {
            None
        };
        if let Some((name, cause)) = found {
            let bare = |text: &str| {
                let word = text.split_whitespace().next().unwrap_or_default();
                word.split(':').next().unwrap_or_default().to_owned()
            };
            let (name, cause) = (bare(name), bare(cause));
            if name != cause {
                self.causes.entry(name).or_insert(cause);
            }
        }
    }

    /// The packages whose offers decide.
    pub fn names(&self) -> BTreeSet<String> {
        let changed = self.changes.iter().filter(|change| change.old.is_some());
        let unmet = self.unmet.iter().flat_map(|unmet| [&unmet.package, &unmet.other]);
        let names = changed
            .map(|change| &change.name)
            .chain(self.removed.keys())
            .chain(unmet);
        names.cloned().collect()
    }

    /// From a package to the one that was asked for: `udev`, `tpm-udev`, …, `libtss2-dev`.
    fn chain(&self, name: &str) -> Vec<String> {
        let mut chain: Vec<String> = Vec::new();
        let mut at = name.split(':').next().unwrap_or(name);
        while let Some(cause) = self.causes.get(at) {
            if chain.contains(cause) {
                break;
            }
            chain.push(cause.clone());
            at = cause;
        }
        chain
    }
}

/// An installed package that gets a newer version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    pub name: String,
    pub old: String,
    pub new: String,
    /// What pulls it in, and what pulls that in, up to what was asked for.
    pub chain: Vec<String>,
}

/// What may be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Names of packages that were not there.
    pub new: Vec<String>,
    pub upgrades: Vec<Upgrade>,
}

impl Plan {
    /// The upgrades for a person, those of one chain in one line.
    pub fn shown_upgrades(&self) -> Vec<String> {
        let mut groups: BTreeMap<(&[String], &str, &str), Vec<&str>> = BTreeMap::new();
        for upgrade in &self.upgrades {
            let key = (
                upgrade.chain.as_slice(),
                upgrade.old.as_str(),
                upgrade.new.as_str(),
            );
            groups.entry(key).or_default().push(&upgrade.name);
        }
        let shown = |((chain, old, new), names): (&(&[String], &str, &str), &Vec<&str>)| {
            let because = match chain.split_last() {
                None => String::new(),
                Some((wanted, between)) => {
                    let steps = between
                        .iter()
                        .rev()
                        .fold(wanted.clone(), |text, step| format!("{text} needs {step}, which"));
                    let pulled = if between.is_empty() {
                        " needs this"
                    } else {
                        " comes with this"
                    };
                    format!(": {steps}{pulled}")
                }
            };
            format!("{} from {old} to {new}{because}", names.join(", "))
        };
        groups.iter().map(shown).collect()
    }
}

/// What to do with a simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This may be done.
    Do(Plan),
    /// Not this; asked like that, apt may find better.
    Again(Request),
    /// There is nothing left to try: what stands against what.
    Stop(Vec<String>),
}

/// Decides whether what apt would do for `request` may be done.
pub fn decide(
    request: &Request,
    said: &Simulation,
    installed: &Installed,
    offers: &Offers,
    release: &Release,
) -> Decision {
    let review = Review {
        said,
        installed,
        offers,
        release,
    };
    let mut faults: Vec<String> = Vec::new();
    faults.extend(
        said.unknown
            .iter()
            .map(|name| format!("no package list of this machine has {name}")),
    );
    faults.extend(said.unmet.iter().map(|unmet| {
        let held = |name: &&String| installed.0.get(*name).is_some_and(|package| package.held);
        match [&unmet.package, &unmet.other].into_iter().find(held) {
            Some(name) => format!("{} ({name} is held)", unmet.said),
            None => unmet.said.clone(),
        }
    }));
    for (name, version) in &said.removed {
        faults.push(format!(
            "{name} {version} would be removed{}",
            review.because(name)
        ));
    }
    for change in &said.changes {
        faults.extend(review.fault(change));
    }
    faults.extend(
        said.held
            .iter()
            .map(|name| format!("{name} is held, and would be changed{}", review.because(name))),
    );
    if faults.is_empty() {
        if said.errors.is_empty() {
            return Decision::Do(review.plan());
        }
        return Decision::Stop(said.errors.clone());
    }
    let mut better = request.clone();
    for (name, version) in &said.removed {
        better.keep.insert(name.clone(), version.clone());
    }
    if better == *request {
        review.prefer(&mut better.prefer);
    }
    if better == *request {
        Decision::Stop(faults)
    } else {
        Decision::Again(better)
    }
}

/// Where an installed package came from.
enum Home {
    /// The machine's release, or nothing says otherwise: a point release that was replaced is in no list.
    Release,
    /// Other suites.
    Other(BTreeSet<Suite>),
}

struct Review<'a> {
    said: &'a Simulation,
    installed: &'a Installed,
    offers: &'a Offers,
    release: &'a Release,
}

impl Review<'_> {
    fn home(&self, name: &str, version: &str) -> Home {
        let suites = self.offers.of(name, version);
        let own = self.release.suite();
        if suites.iter().any(|suite| suite.family() == own.family()) {
            return Home::Release;
        }
        if !suites.is_empty() {
            return Home::Other(suites);
        }
        let backported = version
            .split_once("~bpo")
            .and_then(|(_, rest)| rest.split_once('+'))
            .is_some_and(|(number, _)| number == self.release.number);
        if backported {
            Home::Other([Suite::backports(&self.release.codename)].into())
        } else {
            Home::Release
        }
    }

    fn because(&self, name: &str) -> String {
        let chain = self.said.chain(name);
        if chain.is_empty() {
            String::new()
        } else {
            format!(" (for {})", chain.join(", for "))
        }
    }

    /// What is wrong with giving an installed package another version.
    fn fault(&self, change: &Change) -> Option<String> {
        let Change { name, old, new } = change;
        let old = old.as_ref()?;
        if self.said.downgraded.contains(name) {
            return Some(format!(
                "{name} would be downgraded from {old} to {new}{}",
                self.because(name)
            ));
        }
        let from = match self.home(name, old) {
            Home::Release => [self.release.suite()].into(),
            Home::Other(suites) => suites,
        };
        let to = self.offers.of(name, new);
        let same = to.iter().any(|new| from.iter().any(|old| same_family(old, new)));
        if same {
            return None;
        }
        let names = |suites: &BTreeSet<Suite>| {
            let names: Vec<&str> = suites.iter().map(|suite| suite.codename.as_str()).collect();
            if names.is_empty() {
                "no suite".to_owned()
            } else {
                names.join(" or ")
            }
        };
        Some(format!(
            "{name} {old}, of {}, would be upgraded to {new}, of {}{}",
            names(&from),
            names(&to),
            self.because(name)
        ))
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for change in &self.said.changes {
            match &change.old {
                None => plan.new.push(change.name.clone()),
                Some(old) => plan.upgrades.push(Upgrade {
                    name: change.name.clone(),
                    old: old.clone(),
                    new: change.new.clone(),
                    chain: self.said.chain(&change.name),
                }),
            }
        }
        plan
    }

    /// Adds what may help: packages that stand against an installed one come from the suite of that one, and
    /// so does what these lack then.
    fn prefer(&self, prefer: &mut Preferences) {
        let before = prefer.clone();
        for unmet in &self.said.unmet {
            for name in [&unmet.package, &unmet.other] {
                let Some(Package { version, source, .. }) = self.installed.0.get(name) else {
                    continue;
                };
                let Home::Other(suites) = self.home(name, version) else {
                    continue;
                };
                for suite in suites {
                    prefer.0.entry(suite).or_default().insert(format!("src:{source}"));
                }
            }
        }
        if *prefer == before {
            for unmet in &self.said.unmet {
                if !self.installed.0.contains_key(&unmet.other) {
                    for packages in prefer.0.values_mut() {
                        packages.insert(unmet.other.clone());
                    }
                }
            }
        }
    }
}

fn same_family(a: &Suite, b: &Suite) -> bool {
    let (a, b) = (a.family(), b.family());
    // Backports that are not configured have only been guessed, and their origin with them.
    a.1 == b.1 && (a.0 == b.0 || a.1.ends_with("-backports"))
}

#[cfg(test)]
mod tests;

//! Reports over a directory tree that behaves as configfs does, with others who meddle at any step.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::sync::Mutex;

/// What happens right before an operation on an attribute.
#[derive(Debug, Clone)]
enum Happening {
    /// Somebody else writes 64 bytes to the same report.
    OtherWrites,
    /// The module is unloaded and another one loaded.
    Provider(&'static str),
    /// The operation fails with this.
    Fails(i32),
}

/// A directory tree with the files that the kernel makes, and its rules about them.
struct Tsm {
    root: tempfile::TempDir,
    /// What happens before the operations, in their order.
    script: Mutex<Vec<Option<Happening>>>,
    provider: Mutex<&'static str>,
    has_auxblob: bool,
    /// Bytes of `outblob`.
    out_len: usize,
}

impl Tsm {
    fn new() -> Tsm {
        Tsm {
            root: tempfile::tempdir().unwrap(),
            script: Mutex::default(),
            provider: Mutex::new("tdx_guest"),
            has_auxblob: false,
            out_len: 96,
        }
    }

    /// These happen before the first operation, the second, and so on.
    fn with(script: impl IntoIterator<Item = Option<Happening>>) -> Tsm {
        let tree = Tsm::new();
        let mut script: Vec<_> = script.into_iter().collect();
        script.reverse();
        *tree.script.lock().unwrap() = script;
        tree
    }

    fn generation(&self, report: &Path) -> u64 {
        let text = fs::read_to_string(report.join("generation")).unwrap();
        text.trim().parse().unwrap()
    }

    /// The kernel takes what was written to `inblob`.
    fn take(&self, report: &Path, inblob: &[u8]) -> io::Result<()> {
        if inblob.len() > INBLOB_LEN {
            return Err(io::Error::from_raw_os_error(nix::libc::EFBIG));
        }
        fs::write(report.join("inblob"), inblob)?;
        let generation = self.generation(report) + 1;
        fs::write(report.join("generation"), format!("{generation}\n"))
    }

    /// What happens before this operation.
    fn happens(&self, report: &Path) -> io::Result<()> {
        match self.script.lock().unwrap().pop().flatten() {
            None => Ok(()),
            Some(Happening::OtherWrites) => self.take(report, &[0xee; 64]),
            Some(Happening::Provider(name)) => {
                *self.provider.lock().unwrap() = name;
                Ok(())
            }
            Some(Happening::Fails(errno)) => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// The report over these bytes, so long.
fn answer(inblob: &[u8], len: usize) -> Vec<u8> {
    let mut answer = b"a report over ".to_vec();
    answer.extend(inblob);
    answer.resize(len, 0);
    answer
}

impl Tree for &Tsm {
    fn make(&self, report: &Path) -> io::Result<()> {
        fs::create_dir(report)?;
        fs::write(report.join("generation"), "0\n")?;
        if self.has_auxblob {
            fs::write(report.join("auxblob"), b"certificates")?;
        }
        Ok(())
    }

    fn remove(&self, report: &Path) -> io::Result<()> {
        // Of configfs, rmdir takes the attributes along.
        fs::remove_dir_all(report)
    }

    fn read(&self, attribute: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let report = attribute.parent().unwrap();
        self.happens(report)?;
        match attribute.file_name().unwrap().to_str().unwrap() {
            "provider" => fs::write(attribute, format!("{}\n", self.provider.lock().unwrap()))?,
            "outblob" => {
                let inblob = fs::read(report.join("inblob"))
                    .map_err(|_| io::Error::from_raw_os_error(nix::libc::EINVAL))?;
                fs::write(attribute, answer(&inblob, self.out_len))?;
            }
            _ => {}
        }
        Configfs.read(attribute, limit)
    }

    fn write(&self, attribute: &Path, bytes: &[u8]) -> io::Result<()> {
        let report = attribute.parent().unwrap();
        self.happens(report)?;
        assert_eq!(attribute.file_name().unwrap(), "inblob");
        self.take(report, bytes)
    }
}

fn reports(tree: &Tsm) -> Reports<&Tsm> {
    Reports::over(tree, tree.root.path(), "tdx_guest")
}

/// Nothing is left behind.
fn is_empty(tree: &Tsm) -> bool {
    fs::read_dir(tree.root.path()).unwrap().next().is_none()
}

const OURS: [u8; 64] = [0x5a; 64];

#[test]
fn a_report_is_over_what_was_written_and_its_directory_goes_away() {
    let mut tree = Tsm::new();
    let report = reports(&tree).report(&OURS).unwrap();
    assert_eq!(report.outblob, answer(&OURS, 96));
    assert_eq!((report.auxblob, is_empty(&tree)), (None, true));
    tree.has_auxblob = true;
    let report = reports(&tree).report(&OURS).unwrap();
    assert_eq!(report.auxblob.as_deref(), Some(&b"certificates"[..]));
    assert_eq!(reports(&tree).present().unwrap(), "tdx_guest");
    assert!(is_empty(&tree));
}

/// Operations of one try, behind the first look at the provider: generation, inblob, outblob, auxblob,
/// generation, provider.
const OF_A_TRY: usize = 6;

#[test]
fn what_somebody_else_asked_for_is_never_the_answer() {
    for at in 0..=OF_A_TRY {
        let script = (0..at).map(|_| None).chain([Some(Happening::OtherWrites)]);
        let tree = Tsm::with(script);
        let report = reports(&tree).report(&OURS).unwrap();
        assert_eq!(report.outblob, answer(&OURS, 96), "before operation {at}");
        assert!(is_empty(&tree));
    }
    let tree = Tsm::with((0..100).map(|_| Some(Happening::OtherWrites)));
    let error = reports(&tree).report(&OURS).unwrap_err();
    assert!(matches!(error, TsmError::Race { .. }), "{error}");
    assert!(is_empty(&tree));
}

proptest! {
    #[test]
    fn whenever_others_write_the_answer_is_ours_or_there_is_none(
        others in prop::collection::vec(prop::bool::weighted(0.3), 0..60),
    ) {
        let script = others.iter().map(|writes| writes.then_some(Happening::OtherWrites));
        let tree = Tsm::with(script);
        match reports(&tree).report(&OURS) {
            Ok(report) => prop_assert_eq!(report.outblob, answer(&OURS, 96)),
            Err(error) => prop_assert!(matches!(error, TsmError::Race { .. }), "{}", error),
        }
        prop_assert!(is_empty(&tree));
    }
}

#[test]
fn another_provider_is_refused_before_and_behind_the_report() {
    let tree = Tsm::with([Some(Happening::Provider("sev_guest"))]);
    let error = reports(&tree).report(&OURS).unwrap_err();
    assert!(
        matches!(&error, TsmError::Provider { expected, found } if expected == "tdx_guest"
            && found == "sev_guest"),
        "{error}"
    );
    for at in 1..=OF_A_TRY {
        let tree = Tsm::with(
            (0..at)
                .map(|_| None)
                .chain([Some(Happening::Provider("sev_guest"))]),
        );
        let error = reports(&tree).report(&OURS).unwrap_err();
        assert!(
            matches!(&error, TsmError::ProviderChanged { after, .. } if after == "sev_guest"),
            "before operation {at}: {error}"
        );
        assert!(is_empty(&tree));
    }
}

#[test]
fn what_the_kernel_refuses_is_an_error_that_names_the_attribute() {
    for (at, name) in [
        "provider",
        "generation",
        "inblob",
        "outblob",
        "auxblob",
        "generation",
        "provider",
    ]
    .into_iter()
    .enumerate()
    {
        for errno in [
            nix::libc::EIO,
            nix::libc::ENXIO,
            nix::libc::EBUSY,
            nix::libc::ETIMEDOUT,
        ] {
            let tree = Tsm::with((0..at).map(|_| None).chain([Some(Happening::Fails(errno))]));
            let error = reports(&tree).report(&OURS).unwrap_err();
            assert!(matches!(error, TsmError::Io { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
            assert!(is_empty(&tree));
        }
    }
    // EFBIG, as the kernel says where a blob is longer than it gives out.
    let tree = Tsm::with(
        (0..3)
            .map(|_| None)
            .chain([Some(Happening::Fails(nix::libc::EFBIG))]),
    );
    let error = reports(&tree).report(&OURS).unwrap_err();
    assert!(
        matches!(&error, TsmError::TooLong { path, .. } if path.ends_with("outblob")),
        "{error}"
    );
}

#[test]
fn a_report_beyond_the_limit_an_empty_one_and_odd_attributes_are_refused() {
    let mut tree = Tsm::new();
    tree.out_len = MAX_OUTBLOB_LEN;
    assert_eq!(
        reports(&tree).report(&OURS).unwrap().outblob.len(),
        MAX_OUTBLOB_LEN
    );
    tree.out_len += 1;
    let error = reports(&tree).report(&OURS).unwrap_err();
    assert!(
        matches!(
            error,
            TsmError::TooLong {
                limit: MAX_OUTBLOB_LEN,
                ..
            }
        ),
        "{error}"
    );
    tree.out_len = 0;
    let error = reports(&tree).report(&OURS).unwrap_err();
    assert!(matches!(error, TsmError::Form { .. }), "{error}");
    for name in ["", "two words", "\u{1b}[2J"] {
        let tree = Tsm::with([Some(Happening::Provider(name))]);
        let error = reports(&tree).report(&OURS).unwrap_err();
        assert!(matches!(error, TsmError::Form { .. }), "{error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    let long: &'static str = Box::leak("x".repeat(65).into_boxed_str());
    let tree = Tsm::with([Some(Happening::Provider(long))]);
    assert!(matches!(
        reports(&tree).report(&OURS),
        Err(TsmError::TooLong { .. })
    ));
}

#[test]
fn without_configfs_the_error_says_what_is_missing() {
    let reports = Reports::new(Path::new("/nonexistent/tsm/report"), "tdx_guest");
    let error = reports.report(&OURS).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, TsmError::Unavailable { .. }), "{text}");
    assert!(
        text.contains("configfs") && text.contains("CONFIG_TSM_REPORTS"),
        "{text}"
    );
}

#[test]
fn directories_of_a_collector_that_died_are_removed_and_no_others() {
    let root = tempfile::tempdir().unwrap();
    // A process that ended, and no other one has its number.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let ours = format!("{PREFIX}{}-4711", std::process::id());
    let theirs = format!("{PREFIX}{}-7", child.id());
    for name in [ours.as_str(), theirs.as_str(), "attestation-agent", "cgpathd-x"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    Reports::new(root.path(), "tdx_guest");
    let mut left: Vec<_> = fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut expected = vec!["attestation-agent".to_owned(), ours, "cgpathd-x".to_owned()];
    expected.sort();
    assert_eq!(left, expected);
}

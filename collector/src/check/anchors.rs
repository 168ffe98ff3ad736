//! The rows of anchors and quotes that a trust domain has, and which rows a node without a TPM does not need.
//!
//! Promise: pure. Not here: how facts are had (see [`super::facts`]), the TPM's own rows (see
//! [`super::assess`]).

use super::assess::{absent, row};
use super::facts::{Facts, Unknown};
use super::{Row, State};
use crate::anchor::rtmr::file_name;
use crate::config::Config;
use cgpath_evidence::td::{PROVIDER_TDX, REGISTER_LEN};

/// The kernel that shows a trust domain's registers first.
const SINCE: (u32, u32) = (6, 16);

/// What a directory of configfs says of who makes reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdFacts {
    /// Bytes of the register's file.
    pub register: Result<usize, Unknown>,
    /// Whether the driver's device is there.
    pub has_device: bool,
    /// Whether it shows any register.
    pub has_registers: bool,
    /// The file system at the reports' directory.
    pub configfs: Result<String, Unknown>,
    /// Who makes reports; `None` without the directory.
    pub provider: Option<Result<String, String>>,
}

/// The row, if PCR 10 is an anchor of this node and the TPM signs for it.
pub(super) fn with_tpm(config: &Config, wanted: Row) -> Row {
    if config.has_tpm() {
        return wanted;
    }
    row(
        wanted.id,
        State::Ok,
        "not needed: no TPM signs for this node (quote.by)",
    )
}

/// Whether a kernel of this release is older than the first that shows registers.
fn is_old(release: &str) -> Option<bool> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().ok());
    let version = (numbers.next()??, numbers.next()??);
    Some(version < SINCE)
}

pub(super) fn rtmr(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "rtmr";
    let td = &facts.td;
    let name = format!("RTMR {}", config.anchor.rtmr);
    let path = config.anchor.registers.join(file_name(config.anchor.rtmr));
    if config.anchor_rtmr().is_none() {
        let found = match td.register {
            Ok(REGISTER_LEN) => format!("{name} is there; anchor.to does not have \"rtmr\""),
            _ => "none, and none is an anchor of this node (anchor.to)".to_owned(),
        };
        return row(ID, State::Ok, found);
    }
    match &td.register {
        Ok(REGISTER_LEN) => row(ID, State::Ok, format!("{name} at {}", path.display())),
        Ok(other) => row(
            ID,
            State::Fail,
            format!("{} has {other} bytes, not {REGISTER_LEN}", path.display()),
        )
        .remedy("set anchor.registers to the directory in which the kernel shows the registers"),
        Err(Unknown::Absent(_)) if td.has_registers => {
            row(ID, State::Fail, format!("{} is not there", path.display())).remedy("set anchor.rtmr")
        }
        Err(Unknown::Absent(_)) => match facts.release.as_deref().map(|release| (release, is_old(release))) {
            Ok((release, Some(true))) => row(
                ID,
                State::Fail,
                format!(
                    "{release} does not show registers: kernels from {}.{} on do",
                    SINCE.0, SINCE.1
                ),
            )
            .reboot("use a newer kernel"),
            _ if td.has_device => row(
                ID,
                State::Fail,
                "the driver of the trust domain is there and shows no registers",
            )
            .reboot("use a kernel with CONFIG_TSM_MEASUREMENTS"),
            _ => row(
                ID,
                State::Fail,
                "this is no trust domain, or its driver is not loaded",
            )
            .remedy("modprobe tdx-guest"),
        },
        Err(why) => absent(ID, why),
    }
}

pub(super) fn report(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "td-report";
    let td = &facts.td;
    let Some(expected) = config.provider() else {
        let found = match &td.provider {
            Some(Ok(provider)) => format!("{provider} is there; quote.by does not have it"),
            _ => "nobody makes reports, and quote.by names nobody who should".to_owned(),
        };
        return row(ID, State::Ok, found);
    };
    match (&td.configfs, &td.provider) {
        (Ok(_), Some(Ok(found))) if found != expected => row(
            ID,
            State::Fail,
            format!("{found} makes reports; quote.by has {expected}"),
        )
        .remedy("set quote.by"),
        (Ok(_), Some(Ok(found))) if found == PROVIDER_TDX => row(
            ID,
            State::Ok,
            format!("{found} at {}", config.quote.reports.display()),
        ),
        (Ok(_), Some(Ok(found))) => row(
            ID,
            State::Warn,
            format!("{found} makes reports; reports of this provider have not been tested"),
        ),
        (Ok(_), Some(Err(why))) => row(ID, State::Fail, why).remedy("load the module of the provider"),
        (Ok(kind), None) if kind != "configfs" => row(
            ID,
            State::Fail,
            format!(
                "{} is not on configfs but on {kind}",
                config.quote.reports.display()
            ),
        )
        .remedy("mount -t configfs configfs /sys/kernel/config"),
        (Ok(_), None) => row(
            ID,
            State::Fail,
            format!("{} is not there", config.quote.reports.display()),
        )
        .remedy("modprobe tdx-guest (the kernel must have CONFIG_TSM_REPORTS)"),
        (Err(why), _) => absent(ID, why),
    }
}

//! `cgpath policy from-boot` and `from-uki`: what a good boot measured, or what an image will have measured,
//! as a part of a node's policy.

use crate::export;
use crate::input;
use crate::kept::Source;
use crate::output::{Failure, Output, Status, escape};
use cgpath_evidence::Bank;
use cgpath_refvals::domain::from_domain;
use cgpath_refvals::learned_boot::from_boot;
use cgpath_refvals::uki::{MAX_IMAGE_LEN, from_uki, from_uki_of_domain};
use cgpath_service::files::read_bounded;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct FromBoot {
    #[command(flatten)]
    source: Source,
    /// Where to write it; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl FromBoot {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Evidence that cannot be read, whose quote does not fit, or without a boot log.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let evidence = self.source.evidence()?;
        let (mut yaml, mut remarks) = (String::new(), Vec::new());
        if evidence.quote.td.is_some() {
            let domain = from_domain(&evidence).map_err(|e| Failure::new("boot", e.to_string()))?;
            (yaml, remarks) = (domain.yaml(), domain.remarks());
        }
        if evidence.quote.tpm.is_some() || yaml.is_empty() {
            // Registers that the quote's digest does not vouch for are none.
            export::quoted(&evidence)?;
            let nothing = "the quote covers PCR 10 alone: the evidence says nothing of the boot";
            let boot = evidence.boot.as_ref().ok_or_else(|| nothing.to_owned());
            match boot.and_then(|boot| from_boot(boot).map_err(|e| e.to_string())) {
                Ok(learned) => {
                    yaml.insert_str(0, &learned.yaml());
                    remarks.splice(0..0, learned.remarks);
                }
                Err(why) if yaml.is_empty() => return Err(Failure::new("boot", why)),
                Err(why) => remarks.insert(0, format!("of PCR 0 to 9: {why}")),
            }
        }
        if !out.json() {
            for remark in &remarks {
                eprintln!("note: {}", escape(remark.as_bytes()));
            }
        }
        write(self.output.as_deref(), &yaml, &remarks, out)
    }
}

#[derive(Args)]
pub struct FromUki {
    /// The unified kernel image, as it lies on the EFI system partition
    image: PathBuf,
    /// What the policy calls it; the file's name by default
    #[arg(long)]
    name: Option<String>,
    /// Accepted PCR banks; may be given several times
    #[arg(long = "bank", value_name = "BANK", default_value = "sha256", value_parser = super::algorithm)]
    banks: Vec<Bank>,
    /// The values of a trust domain without a TPM: `boot` of the policy's `tdx`
    #[arg(long, conflicts_with = "banks")]
    tdx: bool,
    /// Where to write it; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl FromUki {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// A file that cannot be read or is no unified kernel image.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let bytes =
            read_bounded(&self.image, MAX_IMAGE_LEN as u64).map_err(|e| Failure::file(&self.image, &e))?;
        if bytes.len() > MAX_IMAGE_LEN {
            let text = format!("{}: longer than {MAX_IMAGE_LEN} bytes", self.image.display());
            return Err(Failure::new("limit", text));
        }
        let name = self.name.unwrap_or_else(|| {
            let name = self.image.file_name().unwrap_or(self.image.as_os_str());
            name.to_string_lossy().into_owned()
        });
        let yaml = if self.tdx {
            from_uki_of_domain(&name, &bytes)
        } else {
            from_uki(&name, &bytes, &self.banks)
        };
        let yaml = yaml.map_err(|e| Failure::new("image", format!("{}: {e}", self.image.display())))?;
        write(self.output.as_deref(), &yaml, &[], out)
    }
}

/// Remarks are comments in the values, too.
fn write(output: Option<&Path>, yaml: &str, remarks: &[String], out: &mut Output) -> Result<Status, Failure> {
    match output.filter(|path| *path != Path::new("-")) {
        Some(path) => input::replace(path, yaml.as_bytes())?,
        None if out.json() => out.object(&serde_json::json!({ "boot": yaml, "remarks": remarks }))?,
        None => out.line(yaml.trim_end())?,
    }
    Ok(Status::Clean)
}

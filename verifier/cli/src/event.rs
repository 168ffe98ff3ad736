//! `cgpath event`: what a receiver of webhooks does with a delivery, as a command. Reads files, asks the
//! library, prints.
//!
//! Not here: any rule (see `cgpath_appraisal::event`).

use crate::input::{self, file_or_stdin, replace};
use crate::output::{Failure, Output, Status, escape};
use crate::tenant::public_key;
use cgpath_appraisal::event::{self, Data, Refused, Taken};
use std::io;
use std::path::PathBuf;

/// A delivery or what is remembered is never longer than this many bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Checks a webhook's delivery: who signed it, when it was sent, and that it was not taken before
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 taken, 1 refused.\n\n\
                  Example (a receiver's handler, with the request's body on standard input):\n  \
                  cgpath event - --signature \"$HTTP_CGPATH_SIGNATURE\" --key verdict.pub.pem --state \
                  taken.json")]
pub struct Event {
    /// The request's body; `-` reads standard input
    body: PathBuf,
    /// The request's header Cgpath-Signature
    #[arg(long, value_name = "TEXT")]
    signature: String,
    /// The verifier's public key: verdict.pub.pem
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What was taken so far; made where there is none, and replaced when a delivery is taken
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// How old a delivery may be
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    max_age: u64,
}

impl Event {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Files that cannot be read or written. A delivery that is refused is none.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let key = public_key(&self.key)?;
        let body = file_or_stdin(&self.body, MAX_FILE).map_err(|e| Failure::input(&self.body, &e))?;
        let mut taken = match file_or_stdin(&self.state, MAX_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Taken::default(),
            other => {
                let bytes = other.map_err(|e| Failure::file(&self.state, &e))?;
                serde_json::from_slice(&bytes).map_err(|e| {
                    let name = escape(self.state.as_os_str().as_encoded_bytes());
                    Failure::new("state", format!("{name}: {e}"))
                        .hint("without the file anything that is young enough is taken once more")
                })?
            }
        };
        let now = input::now()?;
        let result = event::take(&body, &self.signature, &key, now, self.max_age, &mut taken);
        let accepted = match result {
            Ok(accepted) => accepted,
            Err(refused) => {
                let replayed = matches!(refused, Refused::Replayed { .. });
                let text = escape(refused.to_string().as_bytes());
                if out.json() {
                    out.object(&serde_json::json!({"taken": false, "replayed": replayed, "why": text}))?;
                } else {
                    out.line(format_args!("refused: {text}"))?;
                }
                return Ok(Status::Dirty);
            }
        };
        let state = serde_json::to_vec(&taken).map_err(|e| Failure::new("encoding", e.to_string()))?;
        replace(&self.state, &state)?;
        if out.json() {
            let object = serde_json::json!({
                "taken": true, "event": accepted.event, "missing": accepted.missing,
            });
            out.object(&object)?;
            return Ok(Status::Clean);
        }
        if let Some((first, last)) = accepted.missing {
            out.line(format_args!("events {first} to {last} never came"))?;
        }
        match &accepted.event.data {
            Data::Change(change) => {
                let subject = accepted.event.subject.as_deref().unwrap_or_default();
                let word = |state: Option<cgpath_appraisal::State>| {
                    state.map_or_else(|| "not there".to_owned(), |state| out.state(&state.to_string()))
                };
                let subject = escape(subject.as_bytes());
                let (old, new) = (word(change.old), word(change.new));
                out.line(format_args!(
                    "event {}: {subject} was {old}, is {new}",
                    change.number
                ))?;
            }
            Data::Dropped(dropped) => out.line(format_args!(
                "events {} to {} were dropped by the verifier, since too many waited",
                dropped.first, dropped.last
            ))?,
        }
        Ok(Status::Clean)
    }
}

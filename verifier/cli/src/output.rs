//! What all subcommands share: how results, errors, hints and colours are written, and exit codes.
//!
//! Standard output carries results only; errors go to standard error as one line with a hint, or as one JSON
//! object with `--json`. No byte that a terminal could act upon is written: see [`escape`].

use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;

pub use cgpath_appraisal::text::escape;
use cgpath_appraisal::text::{MAX_FOREIGN, foreign};

/// Where the help has what every subcommand takes: behind the subcommand's own options.
const LAST: usize = 900;

/// Flags that every subcommand takes.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct OutputOptions {
    /// Writes results and errors as JSON
    #[arg(long, global = true, display_order = LAST)]
    pub json: bool,
    /// When to use colours: always, never, or auto (on a terminal, and never when NO_COLOR is set)
    #[arg(
        long,
        global = true,
        display_order = LAST,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub color: When,
}

/// When to use colours.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl When {
    fn on(self, is_terminal: bool) -> bool {
        match self {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
                is_terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
            }
        }
    }
}

/// `1 path`, `2 paths`: a number, and the noun that it counts.
pub fn count(n: usize, noun: &str) -> String {
    let ending = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{ending}")
}

/// A text for people in which each long argument of this command is cut as [`foreign`] cuts it. It may stand
/// there as it is, which is clap's way, or as [`escape`] writes it: errors come from many places.
pub fn with_short_arguments(text: &str) -> String {
    let mut text = text.to_owned();
    for argument in std::env::args_os() {
        let all = argument.as_encoded_bytes();
        // Of `--option=VALUE` errors repeat the value.
        let value = all.splitn(2, |byte| *byte == b'=').nth(1);
        for long in [Some(all), value].into_iter().flatten() {
            if long.len() > MAX_FOREIGN {
                let short = foreign(long);
                text = text.replace(&escape(long), &short);
                text = text.replace(&*String::from_utf8_lossy(long), &short);
            }
        }
    }
    text
}

/// What a command found, when its input was usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All is as it should be: exit 0.
    Clean,
    /// Something is not: exit 1.
    Dirty,
    /// A tenant's partition is, and nobody vouches for what was sealed: exit 3.
    PartitionOnly,
}

impl Status {
    /// [`Status::Clean`] if `clean`.
    pub fn clean_if(clean: bool) -> Status {
        if clean { Status::Clean } else { Status::Dirty }
    }
}

/// Why a command could not do what was asked: unusable input, wrong usage, no such file. Exit 2.
#[derive(Debug)]
pub struct Failure {
    kind: &'static str,
    message: String,
    hint: Option<String>,
    /// The reader of standard output is gone: nothing is said.
    silent: bool,
}

impl Failure {
    /// The exit code of a failure.
    pub const CODE: u8 = 2;

    /// `kind` is a stable word for scripts (`io`, `malformed`, `incomplete`, `usage`…), `message` one line.
    pub fn new(kind: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
            hint: None,
            silent: false,
        }
    }

    /// What the reader can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// An error of the file `path`.
    pub fn file(path: &std::path::Path, error: &io::Error) -> Failure {
        let failure = Failure::new(
            "io",
            format!("{}: {error}", escape(path.as_os_str().as_encoded_bytes())),
        );
        match error.kind() {
            io::ErrorKind::NotFound => failure.hint("check the path"),
            io::ErrorKind::PermissionDenied => {
                failure.hint("the kernel's own list is readable by root only: try with sudo")
            }
            io::ErrorKind::IsADirectory => failure.hint("name a file in it"),
            _ => failure,
        }
    }

    /// The same of a file that may be `-`.
    pub fn input(path: &std::path::Path, error: &io::Error) -> Failure {
        let failure = Failure::file(path, error);
        match error.kind() {
            io::ErrorKind::NotFound => failure.hint("check the path; `-` reads standard input"),
            _ => failure,
        }
    }

    /// An error of one of `evidence`'s decoders in the input `source`.
    pub fn decode(source: &str, error: &cgpath_evidence::Error) -> Failure {
        let kind = match error {
            cgpath_evidence::Error::Incomplete { .. } => "incomplete",
            cgpath_evidence::Error::Limit { .. } => "limit",
            cgpath_evidence::Error::BadSignature { .. } => "signature",
            _ => "malformed",
        };
        Failure::new(
            kind,
            format!("{source}: {}", escape(error.to_string().as_bytes())),
        )
    }

    /// Writes the error to standard error.
    pub fn print(&self, json: bool, colour: bool) {
        if self.silent {
            return;
        }
        let message = with_short_arguments(&self.message);
        let mut err = io::stderr().lock();
        // Nothing useful can be done if standard error itself is closed.
        let _ = if json {
            #[derive(Serialize)]
            struct Object<'a> {
                error: &'a str,
                kind: &'a str,
                #[serde(skip_serializing_if = "Option::is_none")]
                hint: Option<&'a str>,
            }
            let object = Object {
                error: &message,
                kind: self.kind,
                hint: self.hint.as_deref(),
            };
            writeln!(err, "{}", serde_json::to_string(&object).unwrap_or_default())
        } else {
            let (label, hint) = (
                paint(Colour::Red, "error", colour),
                paint(Colour::Cyan, "hint", colour),
            );
            match &self.hint {
                Some(text) => writeln!(err, "{label}: {message}\n{hint}: {text}"),
                None => writeln!(err, "{label}: {message}"),
            }
        };
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<io::Error> for Failure {
    /// For writes to standard output; files have [`Failure::file`].
    fn from(error: io::Error) -> Failure {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        Failure {
            silent,
            ..Failure::new("io", format!("standard output: {error}"))
        }
    }
}

/// The few colours in use.
#[derive(Debug, Clone, Copy)]
pub enum Colour {
    /// Bad.
    Red,
    /// Good.
    Green,
    /// Look here.
    Yellow,
    /// Aside.
    Cyan,
}

fn paint(colour: Colour, text: &str, on: bool) -> String {
    let code = match colour {
        Colour::Red => "31",
        Colour::Green => "32",
        Colour::Yellow => "33",
        Colour::Cyan => "36",
    };
    if on {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Standard output of one run.
pub struct Output {
    options: OutputOptions,
    colour: bool,
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    /// Takes standard output.
    pub fn new(options: OutputOptions) -> Output {
        let out = io::stdout().lock();
        let colour = options.color.on(out.is_terminal()) && !options.json;
        Output {
            options,
            colour,
            out: BufWriter::with_capacity(64 * 1024, out),
        }
    }

    /// Whether results are to be JSON.
    pub fn json(&self) -> bool {
        self.options.json
    }

    /// `text` in `colour` where colours are used. `text` must already be safe: see [`escape`].
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        paint(colour, text, self.colour)
    }

    /// Writes one line. `text` must already be safe: see [`escape`].
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn line(&mut self, text: impl core::fmt::Display) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Writes one value as one line of JSON.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn object(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn raw(&mut self, text: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(text)?)
    }

    /// Hands everything written so far to who reads it; for commands that go on for long.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// Flushes, prints the error if there is one, and gives the exit code.
    pub fn finish(mut self, result: Result<Status, Failure>) -> ExitCode {
        let flushed = self.out.flush().map_err(Failure::from);
        match result.and_then(|status| flushed.map(|()| status)) {
            Ok(Status::Clean) => ExitCode::SUCCESS,
            Ok(Status::Dirty) => ExitCode::from(1),
            Ok(Status::PartitionOnly) => ExitCode::from(3),
            // As a process that was ended by SIGPIPE: the answer did not get through, so neither 0 nor 1.
            Err(failure) if failure.silent => ExitCode::from(128 + 13),
            Err(failure) => {
                let colour = self.options.color.on(io::stderr().is_terminal());
                failure.print(self.options.json, colour);
                ExitCode::from(Failure::CODE)
            }
        }
    }
}

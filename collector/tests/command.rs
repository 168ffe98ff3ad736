//! `cgpathd` as people and scripts call it: what needs neither a TPM nor a daemon.

use std::process::{Command, Stdio};

#[test]
fn an_answer_that_nobody_reads_is_no_success_and_no_error_message() {
    for args in [["config", "--example"], ["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_cgpathd"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        // As a process that SIGPIPE ends, and as `cgpath` ends.
        assert_eq!(
            (output.status.code(), output.stderr),
            (Some(141), vec![]),
            "{args:?}"
        );
    }
}

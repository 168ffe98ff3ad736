//! Colours in the text of a verdict: the words that say how something was appraised.
//!
//! Promises: without its colours it is the same text; words are found where the text's form has them, so that
//! a name or a path that reads like one has no colour. Not here: when there are colours (see `output`), and
//! the text (see `cgpath_appraisal`).

use crate::output::{Colour, Failure, Output};

/// How a node, a pod or a boot was appraised.
const STATES: &[(&str, Colour)] = &[
    ("trusted", Colour::Green),
    ("UNTRUSTED", Colour::Red),
    ("UNKNOWN", Colour::Red),
    ("NOT THERE", Colour::Red),
    ("PARTITION ONLY", Colour::Yellow),
    ("predates collector", Colour::Yellow),
    ("pending", Colour::Yellow),
];

/// How a finding counts: its first word, before a colon.
const MARKS: &[(&str, Colour)] = &[
    ("FAIL", Colour::Red),
    ("tolerated", Colour::Yellow),
    ("accepted", Colour::Yellow),
];

/// What a line about the whole verdict begins with.
const LABELS: &[(&str, Colour)] = &[
    ("DANGEROUS", Colour::Red),
    ("LEARNED", Colour::Yellow),
    ("RELAXED", Colour::Yellow),
    ("ACCEPTED until", Colour::Yellow),
];

/// Where a tenant's verdict has the state of the partition.
const PARTITION: &str = "    its partition: ";

/// A word of a line: where it begins.
type Word = (usize, &'static str, Colour);

impl Output {
    /// Writes the text of a verdict, of a node or of a tenant's pod.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn verdict(&mut self, text: &str) -> Result<(), Failure> {
        let text = verdict(text, |colour, word| self.paint(colour, word));
        self.raw(text.as_bytes())
    }

    /// The first line of a finding's text.
    pub fn finding(&self, line: &str) -> String {
        mark(line).map_or_else(
            || line.to_owned(),
            |(_, word, colour)| {
                let rest = line.strip_prefix(word).unwrap_or_default();
                format!("{}{rest}", self.paint(colour, word))
            },
        )
    }

    /// The word for a state that stands by itself.
    pub fn state(&self, word: &str) -> String {
        match state_at(word, 0) {
            Some((_, state, colour)) if state == word => self.paint(colour, word),
            _ => word.to_owned(),
        }
    }
}

fn verdict(text: &str, paint: impl Fn(Colour, &str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = None;
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        let mut done = 0;
        for (at, word, colour) in words(line, column) {
            let (before, from) = rest.split_at(at - done);
            out.push_str(before);
            out.push_str(&paint(colour, word));
            rest = &from[word.len()..];
            done = at + word.len();
        }
        out.push_str(rest);
        // The table's head says where its rows have the state.
        let head = || line.starts_with("POD  ").then(|| line.find("  STATE  "))?;
        column = column.or_else(|| Some(head()? + 2));
    }
    out
}

/// The words of a line, from its beginning on. `column`: of the states in the table, in characters, once its
/// head was seen.
fn words(line: &str, column: Option<usize>) -> Vec<Word> {
    if let Some(finding) = line.strip_prefix("    ") {
        let state = line
            .starts_with(PARTITION)
            .then(|| state_at(line, PARTITION.len()));
        let mark = mark(finding).map(|(at, word, colour)| (at + 4, word, colour));
        return mark.or(state.flatten()).into_iter().collect();
    }
    if line.starts_with("NODE ") {
        // What follows is the verifier's own, the name before it is not.
        let state = line.rfind("  tier ").and_then(|end| state_before(line, end));
        let boot = state_before(line, line.trim_end().len());
        return state.into_iter().chain(boot).collect();
    }
    if line.starts_with("POD ") {
        let state = line.find("  on node ").and_then(|end| state_before(line, end));
        return state.into_iter().collect();
    }
    if is_row(line) {
        let place = column.and_then(|column| line.char_indices().nth(column));
        return place.and_then(|(at, _)| state_at(line, at)).into_iter().collect();
    }
    let label = LABELS.iter().find(|(label, _)| line.starts_with(label));
    label
        .map(|(label, colour)| (0, *label, *colour))
        .into_iter()
        .collect()
}

/// Whether it begins with a pod's UID.
fn is_row(line: &str) -> bool {
    let uid = line.as_bytes().get(..32).unwrap_or_default();
    !uid.is_empty() && uid.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
}

fn state_at(line: &str, at: usize) -> Option<Word> {
    let from = line.get(at..)?;
    let state = STATES.iter().find(|(word, _)| from.starts_with(word));
    state.map(|(word, colour)| (at, *word, *colour))
}

fn state_before(line: &str, end: usize) -> Option<Word> {
    let before = line.get(..end)?;
    let is_last = |word: &str| before.strip_suffix(word).is_some_and(|name| name.ends_with(' '));
    let state = STATES.iter().find(|(word, _)| is_last(word));
    state.map(|(word, colour)| (end - word.len(), *word, *colour))
}

fn mark(finding: &str) -> Option<Word> {
    let is_first = |mark: &str| {
        finding
            .strip_prefix(mark)
            .is_some_and(|text| text.starts_with(": "))
    };
    let mark = MARKS.iter().find(|(mark, _)| is_first(mark));
    mark.map(|(mark, colour)| (0, *mark, *colour))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each painted word between brackets.
    fn bracketed(text: &str) -> String {
        let painted = verdict(text, |colour, word| format!("[{word}|{colour:?}]"));
        let plain = verdict(text, |_, word| word.to_owned());
        assert_eq!(plain, text, "without its colours it is the same text");
        painted
    }

    #[test]
    fn states_and_marks_are_painted_where_the_form_has_them() {
        let uid = "aaaaaaaa-0000-4000-8000-00000000000a";
        let text = format!(
            "NODE n  UNTRUSTED  tier bpf, anchor PCR 10 (sha256), boot: trusted\n    \
             FAIL: a file (V9)\n        \
             found     x\n\
             {:<36}  NAME  {:<18}  ENTRIES\n\
             {uid}  a     {:<18}        6\n\
             DANGEROUS: key\n",
            "POD", "STATE", "predates collector"
        );
        let painted = bracketed(&text);
        for words in [
            "NODE n  [UNTRUSTED|Red]  tier",
            "boot: [trusted|Green]\n",
            "    [FAIL|Red]: a file",
            "  a     [predates collector|Yellow]  ",
            "[DANGEROUS|Red]: key",
        ] {
            assert!(painted.contains(words), "{words}: {painted}");
        }
        let tenant =
            "POD web  PARTITION ONLY  on node n, 2 record(s)\n    its partition: trusted, 2 entries\n";
        let painted = bracketed(tenant);
        assert!(
            painted.contains("web  [PARTITION ONLY|Yellow]  on node"),
            "{painted}"
        );
        assert!(painted.contains("partition: [trusted|Green], 2"), "{painted}");
    }

    #[test]
    fn a_name_or_a_path_that_reads_like_a_state_has_no_colour() {
        let uid = "aaaaaaaa-0000-4000-8000-00000000000a";
        let name = "trusted  trusted";
        let text = format!(
            "NODE trusted  tier  UNTRUSTED  tier bpf, boot: absent\n    \
             note: FAIL: trusted\n        \
             path      FAIL: x\n\
             {:<36}  {:<16}  {:<18}  ENTRIES\n\
             {uid}  {name}  {:<18}        6\n\
             ACCEPTED until x: trusted\n",
            "POD", "NAME", "STATE", "UNTRUSTED"
        );
        let painted = bracketed(&text);
        assert_eq!(painted.matches('[').count(), 3, "{painted}");
        assert!(painted.contains("tier  [UNTRUSTED|Red]  tier bpf"), "{painted}");
        assert!(painted.contains("trusted  trusted  [UNTRUSTED|Red]"), "{painted}");
        assert!(
            painted.contains("[ACCEPTED until|Yellow] x: trusted"),
            "{painted}"
        );
    }
}

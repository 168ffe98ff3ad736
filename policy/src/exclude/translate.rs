//! Python's regular expressions, read and written again in the syntax of `fancy_regex`, with the same
//! meaning.
//!
//! A recursive descent over the grammar of CPython 3.11's `Lib/re/_parser.py`, which alone defines it. Every
//! character is written as an escape or a plain letter, every class as the set of characters that Python has
//! in mind, every anchor as the look-around that it stands for, so that nothing depends on what the other
//! engine understands by the same sign.

use super::{ExcludeError, error};

/// Groups stand in one another no deeper than this.
const MAX_DEPTH: usize = 64;
/// `{m,n}` repeats no more often than this: a longer repeat is a longer program.
const MAX_REPEAT: u64 = 1000;

/// `\w` of text: letters, every kind of number, the underscore. Source: `str.isalnum`, `Modules/_sre/sre.c`.
const WORD: &str = r"\p{L}\p{Nd}\p{Nl}\p{No}_";
/// `\s` of text. Source: `str.isspace`, `Objects/unicodetype_db.h` `_PyUnicode_IsWhitespace`.
const SPACE: &str = r"\x{09}-\x{0d}\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}";
const DIGIT: &str = r"\p{Nd}";
const ASCII_WORD: &str = "a-zA-Z0-9_";
const ASCII_SPACE: &str = r"\x{09}-\x{0d}\x{20}";
const ASCII_DIGIT: &str = "0-9";

/// What a pattern is to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// What it says.
    Itself,
    /// What a measurement list makes of it, which writes `_` for each space: whatever matches a space matches
    /// that, too.
    Listed,
}

/// The list as one pattern that is anchored at the beginning.
pub(super) fn joined(items: &[String], of: Of) -> Result<String, ExcludeError> {
    // As Keylime joins them, so that `["(a", "b)"]` is one group as there.
    let text: Vec<char> = format!("({})", items.join(")|(")).chars().collect();
    let mut parser = Parser {
        of,
        text: &text,
        at: 0,
        depth: 0,
        groups: Vec::new(),
    };
    let result = parser.alternatives(Flags::default()).and_then(|piece| {
        if parser.at < text.len() {
            Err(Bad::new(parser.at, "unbalanced parenthesis"))
        } else {
            Ok(piece)
        }
    });
    match result {
        Ok(piece) => Ok(format!(r"\A(?:{})", piece.out)),
        Err(bad) => {
            // Back from the joined text to the pattern that it is in.
            let mut begin = 1;
            for (item, pattern) in items.iter().enumerate() {
                let length = pattern.chars().count();
                if bad.at <= begin + length + 1 || item + 1 == items.len() {
                    let offset = bad.at.saturating_sub(begin).min(length);
                    return Err(error(items, item, offset, bad.why));
                }
                begin += length + 3;
            }
            Err(error(items, 0, 0, bad.why))
        }
    }
}

/// What is wrong, and where in the joined text.
struct Bad {
    at: usize,
    why: String,
}

impl Bad {
    fn new(at: usize, why: impl Into<String>) -> Bad {
        Bad { at, why: why.into() }
    }
}

type Parsed<T> = Result<T, Bad>;

#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    /// `.` matches a newline.
    dotall: bool,
    /// `^` and `$` match at each line.
    multiline: bool,
    /// `\w`, `\d`, `\s` and `\b` know ASCII alone.
    ascii: bool,
}

/// What was read, in the other syntax, and how many characters it can match: Python asks that of a
/// look-behind.
struct Piece {
    out: String,
    min: u64,
    max: u64,
}

impl Piece {
    fn one(out: String) -> Piece {
        Piece { out, min: 1, max: 1 }
    }

    fn nothing(out: impl Into<String>) -> Piece {
        Piece {
            out: out.into(),
            min: 0,
            max: 0,
        }
    }
}

/// What may be repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `^`, `$`, `\b` and the like: Python refuses to repeat them.
    Anchor,
    /// Repeated already.
    Repeat,
    /// Anything else.
    Item,
}

struct Parser<'a> {
    of: Of,
    text: &'a [char],
    at: usize,
    depth: usize,
    groups: Vec<String>,
}

impl Parser<'_> {
    /// One character, or a set of them, as it is written.
    fn one(&self, out: String) -> Piece {
        let matches = |text: &str| {
            let whole = fancy_regex::Regex::new(&format!(r"\A(?:{out})\z"));
            whole.is_ok_and(|regex| regex.is_match(text).unwrap_or_default())
        };
        // Letters and digits, the most by far, are written as they are.
        let is_spaced = self.of == Of::Listed && out.len() > 1 && matches(" ") && !matches("_");
        Piece::one(if is_spaced { format!("(?:{out}|_)") } else { out })
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn takes(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    fn alternatives(&mut self, flags: Flags) -> Parsed<Piece> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Bad::new(
                self.at,
                format!("groups stand in one another deeper than {MAX_DEPTH}"),
            ));
        }
        let mut all = self.sequence(flags)?;
        while self.takes('|') {
            let next = self.sequence(flags)?;
            all.out.push('|');
            all.out.push_str(&next.out);
            all.min = all.min.min(next.min);
            all.max = all.max.max(next.max);
        }
        self.depth -= 1;
        Ok(all)
    }

    fn sequence(&mut self, flags: Flags) -> Parsed<Piece> {
        let mut pieces: Vec<(Kind, Piece)> = Vec::new();
        while let Some(c) = self.peek() {
            if c == '|' || c == ')' {
                break;
            }
            let begin = self.at;
            self.at += 1;
            match c {
                '*' | '+' | '?' | '{' => {
                    let Some((min, max)) = self.bounds(c, begin)? else {
                        pieces.push((Kind::Item, Piece::one(literal('{'))));
                        continue;
                    };
                    let (kind, piece) = pieces
                        .pop()
                        .filter(|(kind, _)| *kind != Kind::Anchor)
                        .ok_or_else(|| Bad::new(begin, "nothing to repeat"))?;
                    if kind == Kind::Repeat {
                        return Err(Bad::new(begin, "multiple repeat"));
                    }
                    pieces.push((Kind::Repeat, self.repeat(&piece, min, max)));
                }
                '.' => pieces.push((
                    Kind::Item,
                    Piece::one(if flags.dotall { "(?s:.)" } else { r"[^\x{a}]" }.to_owned()),
                )),
                '^' => {
                    let out = if flags.multiline {
                        r"(?:\A|(?<=\x{a}))"
                    } else {
                        r"\A"
                    };
                    pieces.push((Kind::Anchor, Piece::nothing(out)));
                }
                '$' => {
                    let out = if flags.multiline {
                        r"(?=\x{a}|\z)"
                    } else {
                        r"(?=\x{a}?\z)"
                    };
                    pieces.push((Kind::Anchor, Piece::nothing(out)));
                }
                '[' => {
                    let set = self.set(flags, begin)?;
                    pieces.push((Kind::Item, self.one(set)));
                }
                '\\' => pieces.push(self.escape(flags, begin)?),
                '(' => pieces.extend(self.group(flags, begin)?.map(|piece| (Kind::Item, piece))),
                c => pieces.push((Kind::Item, self.one(literal(c)))),
            }
        }
        let mut all = Piece::nothing("");
        for (_, piece) in pieces {
            all.out.push_str(&piece.out);
            all.min = all.min.saturating_add(piece.min);
            all.max = all.max.saturating_add(piece.max);
        }
        if all.out.is_empty() {
            all.out.push_str("(?:)");
        }
        Ok(all)
    }

    /// How often, after `*`, `+`, `?` or `{`; `None` if the brace stands for itself. No upper bound is
    /// `u64::MAX`.
    fn bounds(&mut self, c: char, begin: usize) -> Parsed<Option<(u64, u64)>> {
        Ok(Some(match c {
            '*' => (0, u64::MAX),
            '+' => (1, u64::MAX),
            '?' => (0, 1),
            _ => {
                let back = self.at;
                if self.peek() == Some('}') {
                    return Ok(None);
                }
                let low = self.digits();
                let high = if self.takes(',') {
                    self.digits()
                } else {
                    low.clone()
                };
                if !self.takes('}') {
                    self.at = back;
                    return Ok(None);
                }
                let number = |text: &str, default: u64| {
                    if text.is_empty() {
                        return Ok(default);
                    }
                    text.parse().ok().filter(|n| *n <= MAX_REPEAT).ok_or_else(|| {
                        Bad::new(
                            begin,
                            format!("repeats more often than {MAX_REPEAT} times are not taken here"),
                        )
                    })
                };
                let (min, max) = (number(&low, 0)?, number(&high, u64::MAX)?);
                if max < min {
                    return Err(Bad::new(begin, "min repeat greater than max repeat"));
                }
                (min, max)
            }
        }))
    }

    fn digits(&mut self) -> String {
        let mut digits = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            digits.push(c);
            self.at += 1;
        }
        digits
    }

    fn repeat(&mut self, piece: &Piece, min: u64, max: u64) -> Piece {
        let times = match (min, max) {
            (0, u64::MAX) => "*".to_owned(),
            (1, u64::MAX) => "+".to_owned(),
            (0, 1) => "?".to_owned(),
            (min, u64::MAX) => format!("{{{min},}}"),
            (min, max) => format!("{{{min},{max}}}"),
        };
        let inner = &piece.out;
        let is_lazy = self.takes('?');
        let is_possessive = !is_lazy && self.takes('+');
        if piece.max == 0 {
            // What is no character long matches as often as one likes, or not at all. The other engine wants
            // to know it.
            return Piece::nothing(if min == 0 { "(?:)" } else { inner });
        }
        let out = if is_lazy {
            format!("(?:{inner}){times}?")
        } else if is_possessive {
            format!("(?>(?:{inner}){times})")
        } else {
            format!("(?:{inner}){times}")
        };
        Piece {
            out,
            min: piece.min.saturating_mul(min),
            max: piece.max.saturating_mul(max),
        }
    }

    /// After the opening parenthesis; `None` for a comment.
    fn group(&mut self, mut flags: Flags, begin: usize) -> Parsed<Option<Piece>> {
        if !self.takes('?') {
            return self.close(flags, begin, "(?:").map(Some);
        }
        let sign = self
            .next()
            .ok_or_else(|| Bad::new(begin, "unexpected end of pattern"))?;
        match sign {
            ':' => self.close(flags, begin, "(?:").map(Some),
            '>' => self.close(flags, begin, "(?>").map(Some),
            '#' => {
                while let Some(c) = self.next() {
                    if c == ')' {
                        return Ok(None);
                    }
                }
                Err(Bad::new(begin, "missing ), unterminated comment"))
            }
            '=' | '!' => {
                let opening = if sign == '=' { "(?=" } else { "(?!" };
                let piece = self.close(flags, begin, opening)?;
                Ok(Some(Piece::nothing(piece.out)))
            }
            '<' => {
                let opening = match self.next() {
                    Some('=') => "(?<=",
                    Some('!') => "(?<!",
                    _ => {
                        return Err(Bad::new(
                            begin,
                            "unknown extension after (?<; look-behinds are (?<= and (?<!",
                        ));
                    }
                };
                let piece = self.close(flags, begin, opening)?;
                if piece.min != piece.max {
                    return Err(Bad::new(begin, "look-behind requires fixed-width pattern"));
                }
                Ok(Some(Piece::nothing(piece.out)))
            }
            'P' => {
                if self.takes('=') {
                    return Err(Bad::new(begin, "back-references have no equal here"));
                }
                if !self.takes('<') {
                    return Err(Bad::new(begin, "unknown extension after (?P"));
                }
                let mut name = String::new();
                loop {
                    match self.next() {
                        Some('>') => break,
                        Some(c) => name.push(c),
                        None => return Err(Bad::new(begin, "missing >, unterminated name")),
                    }
                }
                let is_name = name
                    .chars()
                    .enumerate()
                    .all(|(i, c)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit()));
                if name.is_empty() || !is_name {
                    return Err(Bad::new(
                        begin,
                        "bad character in the name of a group; ASCII identifiers are taken".to_owned(),
                    ));
                }
                if self.groups.contains(&name) {
                    return Err(Bad::new(begin, "redefinition of a group's name"));
                }
                self.groups.push(name);
                self.close(flags, begin, "(?:").map(Some)
            }
            '(' => Err(Bad::new(begin, "conditions have no equal here")),
            sign => {
                let mut on = true;
                let mut letter = sign;
                let mut seen = String::new();
                loop {
                    if seen.contains(letter) || (matches!(letter, 'a' | 'u') && seen.contains(['a', 'u'])) {
                        return Err(Bad::new(
                            begin,
                            "flags that stand twice or exclude each other are not taken here",
                        ));
                    }
                    if letter == ':' && seen.ends_with('-') {
                        return Err(Bad::new(begin, "missing flag"));
                    }
                    match letter {
                        's' => flags.dotall = on,
                        'm' => flags.multiline = on,
                        'a' | 'u' if on => flags.ascii = letter == 'a',
                        'i' => {
                            return Err(Bad::new(
                                begin,
                                "ignoring case has no equal here, since Python folds a few letters in its \
                                 own way; write [Aa]",
                            ));
                        }
                        'x' => return Err(Bad::new(begin, "verbose patterns are not taken here")),
                        '-' if on => on = false,
                        ':' => return self.close(flags, begin, "(?:").map(Some),
                        ')' => {
                            return Err(Bad::new(
                                begin,
                                "flags for the whole expression are not taken here: the list is joined as \
                                 (a)|(b); write (?s:…)",
                            ));
                        }
                        c => return Err(Bad::new(begin, format!("unknown extension or flag (?{c}"))),
                    }
                    seen.push(letter);
                    letter = self.next().ok_or_else(|| Bad::new(begin, "missing -, : or )"))?;
                }
            }
        }
    }

    /// The rest of a group up to its closing parenthesis.
    fn close(&mut self, flags: Flags, begin: usize, opening: &str) -> Parsed<Piece> {
        let mut piece = self.alternatives(flags)?;
        if !self.takes(')') {
            return Err(Bad::new(begin, "missing ), unterminated subpattern"));
        }
        piece.out = format!("{opening}{})", piece.out);
        Ok(piece)
    }

    fn escape(&mut self, flags: Flags, begin: usize) -> Parsed<(Kind, Piece)> {
        let c = self
            .next()
            .ok_or_else(|| Bad::new(begin, "bad escape (end of pattern)"))?;
        let word = if flags.ascii { ASCII_WORD } else { WORD };
        let anchor = |out: String| Ok((Kind::Anchor, Piece::nothing(out)));
        match c {
            'A' => return anchor(r"\A".into()),
            'Z' => return anchor(r"\z".into()),
            'b' => return anchor(format!("(?:(?<=[{word}])(?![{word}])|(?<![{word}])(?=[{word}]))")),
            'B' => return anchor(format!("(?:(?<=[{word}])(?=[{word}])|(?<![{word}])(?![{word}]))")),
            '1'..='9' => {
                // Three octal digits are a character, anything else is a group.
                let digits: String = self.text[begin + 1..].iter().take(3).collect();
                if digits.len() == 3 && digits.chars().all(|c| c.is_digit(8)) {
                    self.at = begin + 4;
                    return Ok((Kind::Item, self.one(octal(&digits, begin)?)));
                }
                return Err(Bad::new(begin, "back-references have no equal here"));
            }
            _ => {}
        }
        if let Some(class) = class(c, flags) {
            return Ok((Kind::Item, self.one(format!("[{class}]"))));
        }
        let out = literal(self.character(c, begin)?);
        Ok((Kind::Item, self.one(out)))
    }

    /// A character written as an escape, the same in and out of sets; `c` follows the backslash.
    fn character(&mut self, c: char, begin: usize) -> Parsed<char> {
        Ok(match c {
            'a' => '\x07',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            'x' => return self.hex(2, begin),
            'u' => return self.hex(4, begin),
            'U' => return self.hex(8, begin),
            '0'..='7' => {
                let mut digits = c.to_string();
                while digits.len() < 3
                    && let Some(c) = self.peek().filter(|c| c.is_digit(8))
                {
                    digits.push(c);
                    self.at += 1;
                }
                return octal_value(&digits, begin);
            }
            'N' => return Err(Bad::new(begin, r"names of characters (\N{…}) are not taken here")),
            c if c.is_ascii_alphanumeric() => return Err(Bad::new(begin, format!("bad escape \\{c}"))),
            c => c,
        })
    }

    fn hex(&mut self, length: usize, begin: usize) -> Parsed<char> {
        let digits: String = self.text[self.at..].iter().take(length).collect();
        if digits.len() != length || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Bad::new(begin, "incomplete escape"));
        }
        self.at += length;
        u32::from_str_radix(&digits, 16)
            .ok()
            .and_then(char::from_u32)
            .ok_or_else(|| {
                Bad::new(
                    begin,
                    "numbers that are no character, or a surrogate, are not taken here",
                )
            })
    }

    /// A set, after its opening bracket.
    fn set(&mut self, flags: Flags, begin: usize) -> Parsed<String> {
        let unterminated = || Bad::new(begin, "unterminated character set");
        let mut out = if self.takes('^') { "[^" } else { "[" }.to_owned();
        let empty = out.len();
        loop {
            let at = self.at;
            let c = self.next().ok_or_else(unterminated)?;
            if c == ']' && out.len() > empty {
                break;
            }
            let low = self.member(c, flags, at)?;
            if !self.takes('-') {
                out.push_str(&low.written());
                continue;
            }
            let c = self.next().ok_or_else(unterminated)?;
            if c == ']' {
                out.push_str(&low.written());
                out.push_str(&literal('-'));
                break;
            }
            let high = self.member(c, flags, self.at - 1)?;
            match (low, high) {
                (Member::One(low), Member::One(high)) if low <= high => {
                    out.push_str(&format!("{}-{}", literal(low), literal(high)));
                }
                _ => return Err(Bad::new(at, "bad character range")),
            }
        }
        out.push(']');
        Ok(out)
    }

    fn member(&mut self, c: char, flags: Flags, at: usize) -> Parsed<Member> {
        if c != '\\' {
            return Ok(Member::One(c));
        }
        let c = self
            .next()
            .ok_or_else(|| Bad::new(at, "bad escape (end of pattern)"))?;
        if c == 'b' {
            return Ok(Member::One('\x08'));
        }
        match class(c, flags) {
            Some(class) => Ok(Member::Class(class)),
            None => self.character(c, at).map(Member::One),
        }
    }
}

enum Member {
    One(char),
    Class(String),
}

impl Member {
    fn written(self) -> String {
        match self {
            Member::One(c) => literal(c),
            Member::Class(class) => format!("[{class}]"),
        }
    }
}

/// What stands in the brackets for `\d`, `\s`, `\w` and their opposites.
fn class(c: char, flags: Flags) -> Option<String> {
    let members = match (c.to_ascii_lowercase(), flags.ascii) {
        ('d', false) => DIGIT,
        ('d', true) => ASCII_DIGIT,
        ('s', false) => SPACE,
        ('s', true) => ASCII_SPACE,
        ('w', false) => WORD,
        ('w', true) => ASCII_WORD,
        _ => return None,
    };
    Some(if c.is_ascii_uppercase() {
        format!("^{members}")
    } else {
        members.to_owned()
    })
}

/// One character that stands for itself.
fn literal(c: char) -> String {
    if c.is_ascii_alphanumeric() || c == '/' || c == '_' {
        c.to_string()
    } else {
        format!("\\x{{{:x}}}", u32::from(c))
    }
}

fn octal(digits: &str, begin: usize) -> Parsed<String> {
    octal_value(digits, begin).map(literal)
}

fn octal_value(digits: &str, begin: usize) -> Parsed<char> {
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|value| *value <= 0o377)
        .and_then(char::from_u32)
        .ok_or_else(|| Bad::new(begin, "octal escape value outside of range 0-0o377"))
}

//! The text of server-sent events, as bytes arrive (WHATWG HTML, section 9.2.6), within a bound.

use cgpath_evidence::bundle::MAX_BUNDLE_LEN;

/// No event is longer: a bundle in base64, and a verdict beside it.
const MAX_EVENT: usize = MAX_BUNDLE_LEN / 3 * 4 + (16 << 20);

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Its id, the last one where it has none of its own.
    pub id: String,
    /// What it says.
    pub data: String,
}

/// What arrived and is not an event yet.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
    data: String,
    id: String,
}

impl Lines {
    /// Takes bytes and gives the events that end with them.
    ///
    /// # Errors
    /// What is too long, or not UTF-8.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Received>, String> {
        let searched = self.rest.len();
        self.rest.extend_from_slice(bytes);
        if self.rest.len() + self.data.len() > MAX_EVENT {
            return Err(format!("an event of more than {MAX_EVENT} bytes"));
        }
        let mut events = Vec::new();
        let (mut start, mut look) = (0, searched);
        while let Some(end) = self.rest[look..].iter().position(|b| *b == b'\n') {
            let line = &self.rest[start..look + end];
            let line = core::str::from_utf8(line).map_err(|e| e.to_string())?;
            let line = line.strip_suffix('\r').unwrap_or(line);
            (start, look) = (look + end + 1, look + end + 1);
            if line.is_empty() {
                if !self.data.is_empty() {
                    events.push(Received {
                        id: self.id.clone(),
                        data: std::mem::take(&mut self.data),
                    });
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => {
                    if !self.data.is_empty() {
                        self.data.push('\n');
                    }
                    self.data.push_str(value);
                }
                "id" => value.clone_into(&mut self.id),
                _ => {}
            }
        }
        self.rest.drain(..start);
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_their_bytes_arrive() {
        let text =
            ": hello\n\nevent: verdict\nid: a1\ndata: {\ndata: }\r\n\r\n:\n\ndata:x\n\nid: b\n\ndata: half";
        let expected = [("a1", "{\n}"), ("a1", "x")];
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                got.extend(lines.take(chunk).unwrap());
            }
            let got: Vec<_> = got.iter().map(|e| (&*e.id, &*e.data)).collect();
            assert_eq!(got, expected, "chunks of {size}");
        }
        assert!(Lines::default().take(b"data: \xff\n").is_err());
    }

    #[test]
    fn an_event_that_never_ends_is_refused() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; 1 << 20];
        let taken = (0..).take_while(|_| lines.take(&chunk).is_ok()).count();
        assert_eq!(taken, MAX_EVENT >> 20);
    }
}

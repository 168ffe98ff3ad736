//! Random stacks of layers, the same for each seed: what image builders write, and what they had better not.
//!
//! Promises: an item says what a runtime's reader makes of an entry, and [`layer`] writes the entry in one of
//! the forms that tar has for it, so that code that unpacks items needs no tar reader. Not here: what a stack
//! becomes.

/// One entry of a layer, as Go's `archive/tar` reads it.
#[derive(Debug, Clone)]
pub struct Item {
    pub name: String,
    pub kind: Kind,
    pub form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File(Vec<u8>),
    Dir,
    Symlink(String),
    HardLink(String),
    Fifo,
    /// Major and minor number.
    Char(u64, u64),
    /// A global PAX header.
    Global,
}

/// How an entry is written where tar has several ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Plain,
    /// The name in a PAX header, another one in the entry.
    Pax,
    /// The name in an entry of GNU's type `L`.
    GnuLong,
    /// Type NUL, as before POSIX: a name that ends in a slash is a directory's.
    Old,
    /// A file with holes, in the PAX formats 0.0, 0.1 and 1.0.
    Sparse(u8),
}

/// xorshift64*, from a seed that may be any number.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        // splitmix64: neighbours become strangers.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((z ^ (z >> 31)) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }

    fn of(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }
}

const DIRS: &[&str] = &["a", "b", "c"];
const FILES: &[&str] = &["f", "g", "h"];
const LINKS: &[&str] = &["l", "m"];

/// A stack of one to four layers.
pub fn stack(seed: u64) -> Vec<Vec<Item>> {
    let mut random = Random::new(seed);
    let mut known = Vec::new();
    let layers = 1 + random.below(4);
    (0..layers)
        .map(|layer| {
            let items = 1 + random.below(9);
            let mut here: Vec<Item> = Vec::new();
            for nth in 0..items {
                let item = item(&mut random, &known, &here, &format!("{seed}/{layer}/{nth}"));
                here.push(item);
            }
            known.extend(here.iter().map(|item| item.name.clone()));
            here
        })
        .collect()
}

fn name(random: &mut Random, own: &[&str]) -> String {
    // Now and then a name that another kind has, too.
    let from = if random.of(94) {
        own
    } else {
        random.pick(&[DIRS, FILES, LINKS])
    };
    random.pick(from).to_owned()
}

fn parent(random: &mut Random) -> String {
    let depth = random.below(3);
    (0..depth).fold(String::new(), |path, _| {
        let own = if random.of(85) { DIRS } else { LINKS };
        path + &name(random, own) + "/"
    })
}

fn item(random: &mut Random, below: &[String], here: &[Item], text: &str) -> Item {
    let parent = parent(random);
    let mut form = Form::Plain;
    let (mut path, kind) = match random.below(100) {
        0..32 => {
            let mut content = text.as_bytes().to_vec();
            if random.of(15) {
                form = Form::Sparse(random.below(3) as u8);
                content = sparse_content(random, text);
            }
            (parent + &name(random, FILES), Kind::File(content))
        }
        32..48 => (parent + &name(random, DIRS), Kind::Dir),
        48..62 => {
            let target = link_target(random);
            (parent + &name(random, LINKS), Kind::Symlink(target))
        }
        62..72 => {
            let files = here.iter().filter(|item| matches!(item.kind, Kind::File(_)));
            let names: Vec<&str> = files.map(|item| item.name.as_str()).collect();
            // Now and then of what is not there, or only in a lower layer.
            let target = if random.of(4) {
                Some(parent.clone() + &name(random, FILES))
            } else {
                (!names.is_empty()).then(|| random.pick(&names).to_owned())
            };
            let kind = target.map_or_else(|| Kind::File(text.into()), Kind::HardLink);
            (parent + &name(random, FILES), kind)
        }
        72..84 => {
            // Mostly of something that is there to be hidden.
            let hidden = if below.is_empty() || random.of(30) {
                parent + &name(random, FILES)
            } else {
                let index = random.below(below.len() as u64) as usize;
                below[index].trim_end_matches('/').to_owned()
            };
            let (folder, name) = hidden
                .rsplit_once('/')
                .map_or((String::new(), hidden.as_str()), |(folder, name)| {
                    (format!("{folder}/"), name)
                });
            // A whiteout of a whiteout, or of no name.
            let name = name.trim_start_matches(".wh.");
            (format!("{folder}.wh.{name}"), Kind::File(Vec::new()))
        }
        84..91 => (parent + ".wh..wh..opq", Kind::File(Vec::new())),
        91..93 => (parent + &name(random, FILES), Kind::Fifo),
        93..95 => (parent + &name(random, FILES), Kind::Char(1, 3)),
        95..97 => (parent + &name(random, &["a", "f", "l"]), Kind::Char(0, 0)),
        97 => (parent + &name(random, FILES), Kind::Global),
        98 => ("./".to_owned(), Kind::Dir),
        _ => (".wh..wh.plnk".to_owned(), Kind::Dir),
    };
    match random.below(100) {
        0..12 => path = format!("./{path}"),
        12..17 => path = format!("/{path}"),
        17..20 => path = format!("../{path}"),
        20..23 => path = format!("b/../{path}"),
        23..25 => path = path.replace('/', "//"),
        _ => {}
    }
    if kind == Kind::Dir && !path.ends_with('/') && random.of(60) {
        path.push('/');
    }
    if form == Form::Plain && kind != Kind::Global {
        form = match random.below(100) {
            0..10 => Form::Pax,
            10..14 => Form::GnuLong,
            14..17 if matches!(kind, Kind::File(_)) || (kind == Kind::Dir && path.ends_with('/')) => {
                Form::Old
            }
            _ => Form::Plain,
        };
    }
    Item {
        name: path,
        kind,
        form,
    }
}

fn link_target(random: &mut Random) -> String {
    let to = name(random, DIRS);
    let other = name(random, LINKS);
    match random.below(12) {
        0..4 => to,
        4 => format!("../{to}"),
        5 => format!("/{to}"),
        6 => format!("{other}/../{to}"),
        7 => format!("/{other}/{to}"),
        8 => format!("{to}/"),
        9 => other,
        10 => format!("./{to}/."),
        _ => "..".to_owned(),
    }
}

fn sparse_content(random: &mut Random, text: &str) -> Vec<u8> {
    let mut content = vec![0; 700 * random.below(3) as usize];
    content.extend(text.as_bytes());
    content.extend(vec![0; 600 * random.below(3) as usize]);
    if random.of(50) {
        content.extend(b"end");
    }
    content
}

/// A layer's tar archive.
pub fn layer(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        write(&mut out, item);
    }
    out.extend([0; 1024]);
    out
}

fn write(out: &mut Vec<u8>, item: &Item) {
    let (mut link, mut content, mut device) = (String::new(), Vec::new(), (0, 0));
    let kind = match &item.kind {
        Kind::File(bytes) => {
            content = bytes.clone();
            b'0'
        }
        Kind::Dir => b'5',
        Kind::Symlink(to) => {
            link.clone_from(to);
            b'2'
        }
        Kind::HardLink(to) => {
            link.clone_from(to);
            b'1'
        }
        Kind::Fifo => b'6',
        Kind::Char(major, minor) => {
            device = (*major, *minor);
            b'3'
        }
        Kind::Global => {
            content = record("comment", "nothing");
            b'g'
        }
    };
    let mut name = item.name.clone();
    let mut kind = kind;
    match item.form {
        Form::Plain => {}
        Form::Old => kind = 0,
        Form::Pax => {
            let records = [record("path", &name), record("mtime", "1.5")].concat();
            entry(out, "PaxHeaders/x", b'x', "", &records, (0, 0));
            name = "not/the/name".to_owned();
        }
        Form::GnuLong => {
            entry(
                out,
                "././@LongLink",
                b'L',
                "",
                format!("{name}\0").as_bytes(),
                (0, 0),
            );
            name = "not/the/name".to_owned();
        }
        Form::Sparse(version) => {
            let (records, stored) = sparse(version, &name, &content);
            entry(out, "PaxHeaders/x", b'x', "", &records, (0, 0));
            name = if version == 0 {
                name
            } else {
                "GNUSparseFile.0/made-up".to_owned()
            };
            content = stored;
        }
    }
    entry(out, &name, kind, &link, &content, device);
}

/// A length that counts itself, a space, `KEY=VALUE`, a line's end.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while format!("{length}{rest}").len() != length {
        length += 1;
    }
    format!("{length}{rest}").into_bytes()
}

/// PAX records and stored bytes of a file without its runs of zeros.
fn sparse(version: u8, name: &str, content: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut pieces: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while at < content.len() {
        let zeros = content[at..].iter().take_while(|byte| **byte == 0).count();
        let data = content[at + zeros..]
            .iter()
            .take_while(|byte| **byte != 0)
            .count();
        if data > 0 {
            pieces.push((at + zeros, data));
        }
        at += zeros + data;
    }
    // GNU tar ends a map with an empty part at the file's end.
    pieces.push((content.len(), 0));
    let mut stored: Vec<u8> = pieces
        .iter()
        .flat_map(|(offset, length)| content[*offset..offset + length].to_vec())
        .collect();
    let size = content.len().to_string();
    let count = pieces.len().to_string();
    let mut records = Vec::new();
    match version {
        0 => {
            records.extend(record("GNU.sparse.size", &size));
            records.extend(record("GNU.sparse.numblocks", &count));
            for (offset, length) in &pieces {
                records.extend(record("GNU.sparse.offset", &offset.to_string()));
                records.extend(record("GNU.sparse.numbytes", &length.to_string()));
            }
        }
        1 => {
            let map: Vec<String> = pieces.iter().map(|(o, l)| format!("{o},{l}")).collect();
            records.extend(record("GNU.sparse.name", name));
            records.extend(record("GNU.sparse.size", &size));
            records.extend(record("GNU.sparse.numblocks", &count));
            records.extend(record("GNU.sparse.map", &map.join(",")));
        }
        _ => {
            records.extend(record("GNU.sparse.major", "1"));
            records.extend(record("GNU.sparse.minor", "0"));
            records.extend(record("GNU.sparse.name", name));
            records.extend(record("GNU.sparse.realsize", &size));
            let mut map = format!("{count}\n");
            for (offset, length) in &pieces {
                map += &format!("{offset}\n{length}\n");
            }
            let mut map = map.into_bytes();
            map.resize(map.len().next_multiple_of(512), 0);
            stored = [map, stored].concat();
        }
    }
    (records, stored)
}

fn entry(out: &mut Vec<u8>, name: &str, kind: u8, link: &str, content: &[u8], device: (u64, u64)) {
    let mut header = tar::Header::new_ustar();
    {
        let fields = header.as_ustar_mut().expect("a ustar header");
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        fields.typeflag[0] = kind;
    }
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_device_major(device.0 as u32).expect("a small number");
    header.set_device_minor(device.1 as u32).expect("a small number");
    header.set_cksum();
    out.extend(header.as_bytes());
    out.extend(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

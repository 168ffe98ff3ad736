//! The names of a crate: its modules, what they import and re-export, and where a user finds an item.
//!
//! Promise: an item has one place with all of its lines, where it stands if that is public; other places are
//! one line each that leads there. Not here: how a piece of syntax is printed (`syntax.rs`).

use crate::syntax::*;
use std::collections::{BTreeMap, BTreeSet};

use quote::ToTokens as _;
use syn::{Fields, ImplItem, Item, UseTree, parse_quote};

/// A name in a module.
struct Entry {
    module: String,
    name: String,
    public: bool,
    /// The conditions of the item and of the modules around it.
    when: Vec<String>,
    what: What,
}

enum What {
    Item(Box<Item>),
    Module(String),
    /// An import, by the path as it is written.
    Use(Vec<String>),
    Glob(Vec<String>),
}

/// What a path leads to: an entry, or something of another crate.
enum Found {
    Local(usize),
    Foreign(String),
}

/// A crate's names and implementations, and the places where a user finds the items.
#[derive(Default)]
struct Crate {
    entries: Vec<Entry>,
    /// The entries of each module.
    modules: BTreeMap<String, Vec<usize>>,
    /// With the module and the conditions.
    impls: Vec<(String, Vec<String>, syn::ItemImpl)>,
    places: BTreeMap<usize, BTreeMap<String, Vec<String>>>,
    /// Sorted by the path that a line is about.
    lines: BTreeSet<(String, String)>,
}

/// How a file below `src` is read.
pub type Source<'a> = &'a dyn Fn(&str) -> Option<String>;

/// All lines of a crate, from `lib.rs` on.
pub fn api(name: &str, source: Source<'_>) -> Result<Vec<String>, String> {
    let mut this = Crate::default();
    let text = source("lib.rs").ok_or("lib.rs: not found")?;
    // The root is a module, too.
    this.entries.push(Entry {
        module: String::new(),
        name: name.to_owned(),
        public: true,
        when: Vec::new(),
        what: What::Module(name.to_owned()),
    });
    this.load(name, "lib.rs", "", parse("lib.rs", &text)?, &[], source)?;
    this.walk(name, name, &[], &mut Vec::new())?;
    for (id, places) in this.places.clone() {
        this.item(id, &places)?;
    }
    for (module, when, block) in std::mem::take(&mut this.impls) {
        this.implementation(name, &module, &when, block)?;
    }
    Ok(this.lines.into_iter().map(|(_, line)| line).collect())
}

fn parse(file: &str, text: &str) -> Result<Vec<Item>, String> {
    Ok(syn::parse_file(text)
        .map_err(|error| format!("{file}: {error}"))?
        .items)
}

impl Crate {
    /// Takes in a module. `folder` is where the files of its modules are.
    fn load(
        &mut self,
        module: &str,
        file: &str,
        folder: &str,
        items: Vec<Item>,
        around: &[String],
        source: Source<'_>,
    ) -> Result<(), String> {
        for item in items {
            let (attributes, vis, name) =
                parts(&item).ok_or(format!("{file}: an item of an unknown kind"))?;
            let Some(when) = conditions(attributes, around)? else {
                continue;
            };
            let mut add = |name: String, what| {
                let (module, public, when) = (module.to_owned(), is_public(&vis), when.clone());
                self.modules
                    .entry(module.clone())
                    .or_default()
                    .push(self.entries.len());
                self.entries.push(Entry {
                    module,
                    name,
                    public,
                    when,
                    what,
                });
            };
            match item {
                Item::Mod(inner) => {
                    let path = format!("{module}::{name}");
                    add(name.clone(), What::Module(path.clone()));
                    if inner
                        .attrs
                        .iter()
                        .any(|attribute| attribute.path().is_ident("path"))
                    {
                        return Err(format!("{file}: mod {name}: `#[path]` is not followed"));
                    }
                    let below = format!("{folder}{name}/");
                    let (file, items) = if let Some((_, items)) = inner.content {
                        (file.to_owned(), items)
                    } else {
                        let files = [format!("{folder}{name}.rs"), format!("{below}mod.rs")];
                        let found = files.iter().find_map(|file| Some((file.clone(), source(file)?)));
                        let absent = || {
                            format!(
                                "{file}: mod {name}: there is neither {} nor {}",
                                files[0], files[1]
                            )
                        };
                        let (file, text) = found.ok_or_else(absent)?;
                        let items = parse(&file, &text)?;
                        (file, items)
                    };
                    self.load(&path, &file, &below, items, &when, source)?;
                }
                Item::Use(import) => {
                    let start = import.leading_colon.iter().map(|_| String::new()).collect();
                    imports(&import.tree, start, &mut add);
                }
                Item::Impl(block) => self.impls.push((module.to_owned(), when, block)),
                Item::Macro(call) => {
                    let root = module.split("::").next().unwrap_or(module);
                    if call.ident.is_none() {
                        let called = call.mac.path.to_token_stream().to_string().replace(' ', "");
                        let line = format!("macro call {called}! in {module}: what it makes is not seen");
                        self.line(module, &when, line);
                    } else if call
                        .attrs
                        .iter()
                        .any(|attribute| attribute.path().is_ident("macro_export"))
                    {
                        self.line(root, &when, format!("macro {root}::{name}!"));
                    }
                }
                Item::ExternCrate(_) | Item::ForeignMod(_) => {}
                item => add(name, What::Item(Box::new(item))),
            }
        }
        Ok(())
    }

    fn line(&mut self, about: &str, when: &[String], line: String) {
        self.lines
            .insert((about.to_owned(), format!("{}{line}", gates(when))));
    }

    /// Notes where the public items of a module, and those that it re-exports, are found below `shown`.
    fn walk(
        &mut self,
        module: &str,
        shown: &str,
        via: &[String],
        inside: &mut Vec<String>,
    ) -> Result<(), String> {
        if inside.iter().any(|outer| outer == module) {
            return Ok(());
        }
        inside.push(module.to_owned());
        for id in self.modules.get(module).cloned().unwrap_or_default() {
            let entry = &self.entries[id];
            if !entry.public {
                continue;
            }
            let path = format!("{shown}::{}", entry.name);
            let when = joined(via, &entry.when);
            let (written, is_glob) = match &entry.what {
                What::Use(path) => (path.clone(), false),
                What::Glob(path) => (path.clone(), true),
                What::Item(_) | What::Module(_) => {
                    self.place(id, path, &when, inside)?;
                    continue;
                }
            };
            let found = self.resolve(module, &written, &mut vec![id]);
            if found.is_empty() {
                return Err(format!("{module}: pub use {}: leads nowhere", written.join("::")));
            }
            for found in found {
                match found {
                    Found::Foreign(of) if is_glob => self.line(&path, &when, format!("use {path} = {of}::*")),
                    Found::Foreign(of) => self.line(&path, &when, format!("use {path} = {of}")),
                    Found::Local(id) if is_glob => {
                        if let What::Module(of) = &self.entries[id].what {
                            self.walk(&of.clone(), shown, &when, inside)?;
                        }
                    }
                    Found::Local(id) if self.entries[id].public => {
                        self.place(id, path.clone(), &when, inside)?;
                    }
                    // Private: the name is meant in another name space.
                    Found::Local(_) => {}
                }
            }
        }
        inside.pop();
        Ok(())
    }

    fn place(
        &mut self,
        id: usize,
        path: String,
        via: &[String],
        inside: &mut Vec<String>,
    ) -> Result<(), String> {
        let when = joined(via, &self.entries[id].when);
        if let What::Module(of) = &self.entries[id].what {
            let of = of.clone();
            self.line(&path, &when, format!("mod {path}"));
            return self.walk(&of, &path, &when, inside);
        }
        self.places.entry(id).or_default().insert(path, when);
        Ok(())
    }

    /// What a path means in a module. `using` are the imports that are being followed.
    fn resolve(&self, module: &str, path: &[String], using: &mut Vec<usize>) -> Vec<Found> {
        let mut module = module.to_owned();
        for (at, name) in path.iter().enumerate() {
            let rest = || path[at + 1..].join("::");
            match name.as_str() {
                "" => return vec![Found::Foreign(rest())],
                "self" => continue,
                "crate" => {
                    module = module.split("::").next().unwrap_or_default().to_owned();
                    continue;
                }
                "super" => {
                    module = module
                        .rsplit_once("::")
                        .map_or(String::new(), |(outer, _)| outer.to_owned());
                    continue;
                }
                _ => {}
            }
            let found = self.lookup(&module, name, using);
            if found.is_empty() && at == 0 {
                return vec![Found::Foreign(path.join("::"))];
            } else if at + 1 == path.len() {
                return found;
            }
            let inner = found.iter().find_map(|found| self.module_of(found));
            match (inner, found.first()) {
                (Some(inner), _) => module = inner,
                (None, Some(Found::Foreign(of))) => return vec![Found::Foreign(format!("{of}::{}", rest()))],
                // A variant, say: it is printed as it is written.
                (None, Some(Found::Local(_))) => return vec![Found::Foreign(path.join("::"))],
                (None, None) => return Vec::new(),
            }
        }
        let is_it = |entry: &Entry| matches!(&entry.what, What::Module(path) if *path == module);
        self.entries
            .iter()
            .position(is_it)
            .map(Found::Local)
            .into_iter()
            .collect()
    }

    fn module_of(&self, found: &Found) -> Option<String> {
        match found {
            Found::Local(id) => match &self.entries[*id].what {
                What::Module(path) => Some(path.clone()),
                _ => None,
            },
            Found::Foreign(_) => None,
        }
    }

    fn lookup(&self, module: &str, name: &str, using: &mut Vec<usize>) -> Vec<Found> {
        let mut found = Vec::new();
        let ids = self.modules.get(module).map_or(&[][..], Vec::as_slice);
        let here = || ids.iter().map(|id| (*id, &self.entries[*id]));
        for (id, entry) in here().filter(|(_, entry)| entry.name == name) {
            match &entry.what {
                What::Item(_) | What::Module(_) => found.push(Found::Local(id)),
                What::Use(path) if !using.contains(&id) => {
                    using.push(id);
                    found.extend(self.resolve(module, path, using));
                    using.pop();
                }
                What::Use(_) | What::Glob(_) => {}
            }
        }
        let globs = here()
            .filter(|_| found.is_empty())
            .filter_map(|(id, entry)| match &entry.what {
                What::Glob(path) => Some((id, path)),
                _ => None,
            });
        for (id, path) in globs.collect::<Vec<_>>() {
            if !using.contains(&id) {
                using.push(id);
                for inner in self
                    .resolve(module, path, using)
                    .iter()
                    .filter_map(|found| self.module_of(found))
                {
                    found.extend(self.lookup(&inner, name, using));
                }
                using.pop();
            }
        }
        found
    }

    /// The one path at which an item is printed: where it stands, else the shortest.
    fn home(&self, id: usize) -> Option<&String> {
        let places = self.places.get(&id)?;
        let own = format!("{}::{}", self.entries[id].module, self.entries[id].name);
        let rank = |path: &&String| (**path != own, path.matches("::").count(), (*path).clone());
        places.keys().min_by_key(rank)
    }

    /// An item's lines, and one for each other place.
    fn item(&mut self, id: usize, places: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
        let path = self.home(id).ok_or("an item without a place")?.clone();
        for (other, when) in places.iter().filter(|(other, _)| **other != path) {
            self.line(other, when, format!("use {other} = {path}"));
        }
        let What::Item(item) = &self.entries[id].what else {
            return Ok(());
        };
        let mut item = (**item).clone();
        let (attributes, ..) = parts(&item).ok_or("an item of an unknown kind")?;
        let mut lines: Vec<(String, String)> = Vec::new();
        for derived in derives(attributes)? {
            lines.push((path.clone(), format!("impl {derived} for {path}")));
        }
        let mark = marks(attributes);
        let note = match &mut item {
            Item::Struct(item) => {
                let hidden = fields(&item.fields, false, &path, &mut lines)?;
                item.fields = Fields::Unit;
                item.semi_token = Some(parse_quote!(;));
                if hidden { " (with private fields)" } else { "" }
            }
            Item::Enum(item) => {
                for variant in std::mem::take(&mut item.variants) {
                    let Some(when) = conditions(&variant.attrs, &[])? else {
                        continue;
                    };
                    let place = format!("{path}::{}", variant.ident);
                    let line = format!("{}{}variant {place}", gates(&when), marks(&variant.attrs));
                    lines.push((place.clone(), line));
                    fields(&variant.fields, true, &place, &mut lines)?;
                }
                ""
            }
            Item::Trait(item) => {
                for member in std::mem::take(&mut item.items) {
                    trait_member(member, &path, &mut lines)?;
                }
                ""
            }
            _ => "",
        };
        let line = match item {
            Item::Fn(mut item) => {
                item.sig.ident = parse_quote!(NAME__);
                signature(item.sig)
            }
            Item::Const(item) => format!("const NAME__: {}", of_type(&item.ty)),
            Item::Static(item) => format!("static NAME__: {}", of_type(&item.ty)),
            item => header(item),
        };
        lines.push((
            path.clone(),
            format!("{mark}{}{note}", line.replace("NAME__", &path)),
        ));
        for (about, line) in lines {
            self.line(&about, &places[&path], line);
        }
        Ok(())
    }

    /// What an `impl` gives to public types, or of public traits to others.
    fn implementation(
        &mut self,
        root: &str,
        module: &str,
        when: &[String],
        mut block: syn::ItemImpl,
    ) -> Result<(), String> {
        let mut about = root.to_owned();
        if let Some(of) = path_of(&mut block.self_ty) {
            match self.resolve(module, &segments(of), &mut Vec::new()).first() {
                Some(Found::Local(id)) => {
                    let Some(home) = self.home(*id) else {
                        return Ok(());
                    };
                    about.clone_from(home);
                    let arguments = of.segments.last().map(|last| last.arguments.clone());
                    *of = parse_quote!(NAME__);
                    of.segments[0].arguments = arguments.unwrap_or_default();
                }
                Some(Found::Foreign(_)) | None if block.trait_.is_none() => return Ok(()),
                Some(Found::Foreign(_)) | None => {}
            }
        }
        let members = std::mem::take(&mut block.items);
        if let Some((_, of, _)) = &mut block.trait_ {
            // A private trait, or one of a private type, is of no use to others.
            let mut named = vec![segments(of)];
            if let Some(syn::PathArguments::AngleBracketed(list)) =
                of.segments.last_mut().map(|s| &mut s.arguments)
            {
                for argument in &mut list.args {
                    if let syn::GenericArgument::Type(ty) = argument {
                        named.extend(path_of(ty).map(|path| segments(path)));
                    }
                }
            }
            let is_private = |found: &Found| matches!(found, Found::Local(id) if self.home(*id).is_none());
            if named
                .iter()
                .any(|path| self.resolve(module, path, &mut Vec::new()).iter().all(is_private))
            {
                return Ok(());
            }
            block.items = members
                .into_iter()
                .filter(|member| matches!(member, ImplItem::Type(_)))
                .collect();
            for member in &mut block.items {
                if let ImplItem::Type(member) = member {
                    member.attrs.clear();
                }
            }
            let line = header(Item::Impl(block)).replace("NAME__", &about);
            self.line(&about, when, line);
            return Ok(());
        }
        // Of a generic type it is said for which of them the methods are.
        let is_general = block.generics.params.is_empty() && !of_type(&block.self_ty).contains('<');
        let of = if is_general {
            String::new()
        } else {
            format!(" [{}]", header(Item::Impl(block)))
        };
        for member in members {
            let (attributes, vis, name, line) = match member {
                ImplItem::Fn(mut member) => {
                    let name = std::mem::replace(&mut member.sig.ident, parse_quote!(METHOD__));
                    (member.attrs, member.vis, name, signature(member.sig))
                }
                ImplItem::Const(member) => {
                    let line = format!("const METHOD__: {}", of_type(&member.ty));
                    (member.attrs, member.vis, member.ident, line)
                }
                _ => continue,
            };
            if let Some(when) = conditions(&attributes, when)?.filter(|_| is_public(&vis)) {
                let place = format!("{about}::{name}");
                let line = format!("{}{line}{of}", marks(&attributes));
                self.line(
                    &place,
                    &when,
                    line.replace("METHOD__", &place).replace("NAME__", &about),
                );
            }
        }
        Ok(())
    }
}

/// The names that an import makes, with the paths behind them.
fn imports(tree: &UseTree, mut path: Vec<String>, add: &mut dyn FnMut(String, What)) {
    let mut with = |path: Vec<String>, name: String| match path.last() {
        // `use a::{self}` names the module.
        Some(last) if last == "self" && path.len() > 1 => {
            let name = if name == "self" {
                path[path.len() - 2].clone()
            } else {
                name
            };
            add(name, What::Use(path[..path.len() - 1].to_vec()));
        }
        _ => add(name, What::Use(path)),
    };
    match tree {
        UseTree::Path(inner) => {
            path.push(inner.ident.to_string());
            imports(&inner.tree, path, add);
        }
        UseTree::Name(name) => {
            path.push(name.ident.to_string());
            with(path, name.ident.to_string());
        }
        UseTree::Rename(name) => {
            path.push(name.ident.to_string());
            with(path, name.rename.to_string());
        }
        UseTree::Glob(_) => add("*".to_owned(), What::Glob(path)),
        UseTree::Group(group) => {
            for tree in &group.items {
                imports(tree, path.clone(), add);
            }
        }
    }
}

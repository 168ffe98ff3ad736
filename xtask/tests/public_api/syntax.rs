//! Pieces of syntax, as lines: signatures, fields, members of traits, conditions.
//!
//! Promise: what is for tests alone, or hidden, is left out. Not here: what a name means (`names.rs`).

use quote::ToTokens as _;
use syn::punctuated::Punctuated;
use syn::{Attribute, Fields, Item, Meta, Token, TraitItem, Type, Visibility, parse_quote};

/// An item's attributes, visibility and name.
pub fn parts(item: &Item) -> Option<(&[Attribute], Visibility, String)> {
    macro_rules! parts {
        ($($kind:ident),*) => {
            match item {
                $(Item::$kind(item) => Some((&item.attrs[..], item.vis.clone(), item.ident.to_string())),)*
                Item::Fn(item) => Some((&item.attrs, item.vis.clone(), item.sig.ident.to_string())),
                Item::Use(item) => Some((&item.attrs, item.vis.clone(), String::new())),
                Item::Impl(item) => Some((&item.attrs, Visibility::Inherited, String::new())),
                Item::ForeignMod(item) => Some((&item.attrs, Visibility::Inherited, String::new())),
                Item::Macro(item) => {
                    let name = item.ident.as_ref().map(ToString::to_string);
                    Some((&item.attrs, Visibility::Inherited, name.unwrap_or_default()))
                }
                _ => None,
            }
        };
    }
    parts!(
        Const,
        Enum,
        ExternCrate,
        Mod,
        Static,
        Struct,
        Trait,
        TraitAlias,
        Type,
        Union
    )
}

pub fn is_public(vis: &Visibility) -> bool {
    matches!(vis, Visibility::Public(_))
}

/// Under which conditions something exists, those around it included; nothing if a user never sees it.
pub fn conditions(attributes: &[Attribute], around: &[String]) -> Result<Option<Vec<String>>, String> {
    let mut all = around.to_vec();
    for attribute in attributes {
        let list = |name| {
            attribute
                .path()
                .is_ident(name)
                .then(|| attribute.meta.require_list().ok())
                .flatten()
        };
        if list("doc").is_some_and(|list| list.tokens.to_string().split(", ").any(|word| word == "hidden")) {
            return Ok(None);
        }
        if let Some(list) = list("cfg") {
            let predicate: Meta = list.parse_args().map_err(|error| error.to_string())?;
            match condition(&predicate)? {
                Known::No => return Ok(None),
                Known::Yes => {}
                Known::If(text) => all = joined(&all, &[text]),
            }
        }
    }
    Ok(Some(all))
}

/// What a predicate is for a user, who never compiles our tests.
enum Known {
    Yes,
    No,
    If(String),
}

fn condition(predicate: &Meta) -> Result<Known, String> {
    let Meta::List(list) = predicate else {
        return Ok(match predicate.path().is_ident("test") {
            true => Known::No,
            false => Known::If(predicate.to_token_stream().to_string()),
        });
    };
    let inner = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    let (mut open, mut yes, mut no) = (Vec::new(), false, false);
    for part in &inner.map_err(|error| error.to_string())? {
        match condition(part)? {
            Known::Yes => yes = true,
            Known::No => no = true,
            Known::If(text) => open.push(text),
        }
    }
    let name = predicate.path().to_token_stream().to_string();
    Ok(match name.as_str() {
        "not" if no => Known::Yes,
        "not" if yes => Known::No,
        "any" if yes => Known::Yes,
        "any" if open.is_empty() => Known::No,
        "all" if no => Known::No,
        "all" if open.is_empty() => Known::Yes,
        "any" | "all" if open.len() == 1 => Known::If(open.remove(0)),
        _ => Known::If(format!("{name}({})", open.join(", "))),
    })
}

pub fn joined(some: &[String], more: &[String]) -> Vec<String> {
    let new = more.iter().filter(|condition| !some.contains(condition));
    some.iter().chain(new).cloned().collect()
}

pub fn gates(when: &[String]) -> String {
    when.iter()
        .map(|condition| format!("#[cfg({condition})] "))
        .collect()
}

/// What a user must know beside the signature.
pub fn marks(attributes: &[Attribute]) -> String {
    let names = attributes
        .iter()
        .filter_map(|attribute| attribute.path().get_ident());
    let kept = names.filter(|name| *name == "non_exhaustive" || *name == "deprecated");
    kept.map(|name| format!("#[{name}] ")).collect()
}

/// The names of the traits in the lists of derives.
pub fn derives(attributes: &[Attribute]) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("derive"))
    {
        let list = attribute.parse_args_with(Punctuated::<syn::Path, Token![,]>::parse_terminated);
        for path in list.map_err(|error| error.to_string())? {
            names.extend(segments(&path).pop());
        }
    }
    Ok(names)
}

/// A line for each public field; whether there are private ones.
pub fn fields(
    fields: &Fields,
    all: bool,
    of: &str,
    lines: &mut Vec<(String, String)>,
) -> Result<bool, String> {
    let mut hidden = false;
    for (number, field) in fields.iter().enumerate() {
        let when = conditions(&field.attrs, &[])?;
        match when.filter(|_| all || is_public(&field.vis)) {
            Some(when) => {
                let name = field
                    .ident
                    .as_ref()
                    .map_or(number.to_string(), ToString::to_string);
                let path = format!("{of}::{name}");
                lines.push((
                    path.clone(),
                    format!("{}field {path}: {}", gates(&when), of_type(&field.ty)),
                ));
            }
            None => hidden = true,
        }
    }
    Ok(hidden)
}

pub fn trait_member(member: TraitItem, of: &str, lines: &mut Vec<(String, String)>) -> Result<(), String> {
    let (attributes, name, line) = match member {
        TraitItem::Fn(mut member) => {
            let name = std::mem::replace(&mut member.sig.ident, parse_quote!(NAME__));
            let note = if member.default.is_some() {
                " (provided)"
            } else {
                ""
            };
            (member.attrs, name, format!("{}{note}", signature(member.sig)))
        }
        TraitItem::Const(member) => (
            member.attrs,
            member.ident,
            format!("const NAME__: {}", of_type(&member.ty)),
        ),
        TraitItem::Type(member) => {
            let bounds = member.bounds.to_token_stream().to_string();
            (
                member.attrs,
                member.ident,
                format!("type NAME__: {bounds}")
                    .trim_end_matches([':', ' '])
                    .to_owned(),
            )
        }
        _ => return Err(format!("{of}: a member of an unknown kind")),
    };
    if let Some(when) = conditions(&attributes, &[])? {
        let path = format!("{of}::{name}");
        lines.push((
            path.clone(),
            format!("{}{}", gates(&when), line.replace("NAME__", &path)),
        ));
    }
    Ok(())
}

/// The path of a type, below references.
pub fn path_of(ty: &mut Type) -> Option<&mut syn::Path> {
    match ty {
        Type::Path(ty) if ty.qself.is_none() => Some(&mut ty.path),
        Type::Reference(ty) => path_of(&mut ty.elem),
        Type::Slice(ty) => path_of(&mut ty.elem),
        Type::Paren(ty) => path_of(&mut ty.elem),
        _ => None,
    }
}

pub fn segments(path: &syn::Path) -> Vec<String> {
    let start = path.leading_colon.iter().map(|_| String::new());
    start
        .chain(path.segments.iter().map(|segment| segment.ident.to_string()))
        .collect()
}

pub fn of_type(ty: &Type) -> String {
    let line = shown(parse_quote!(type NAME__ = #ty;));
    line.trim_start_matches("type NAME__ =")
        .trim_matches([' ', ';'])
        .to_owned()
}

pub fn signature(mut sig: syn::Signature) -> String {
    // Whether a body changes what it was given is its own affair.
    for input in &mut sig.inputs {
        match input {
            syn::FnArg::Receiver(own) if own.reference.is_none() => own.mutability = None,
            syn::FnArg::Typed(syn::PatType { pat, .. }) => {
                if let syn::Pat::Ident(name) = &mut **pat {
                    name.mutability = None;
                }
            }
            syn::FnArg::Receiver(_) => {}
        }
    }
    shown(parse_quote!(#sig {}))
}

/// An item's first line, without attributes, `pub` and body.
pub fn header(mut item: Item) -> String {
    let bare = || (Vec::new(), Visibility::Inherited, parse_quote!(NAME__));
    match &mut item {
        Item::Struct(item) => (item.attrs, item.vis, item.ident) = bare(),
        Item::Enum(item) => (item.attrs, item.vis, item.ident) = bare(),
        Item::Union(item) => (item.attrs, item.vis, item.ident) = bare(),
        Item::Trait(item) => (item.attrs, item.vis, item.ident) = bare(),
        Item::Type(item) => (item.attrs, item.vis, item.ident) = bare(),
        Item::Impl(item) => item.attrs.clear(),
        _ => {}
    }
    shown(item)
}

/// An item on one line.
fn shown(item: Item) -> String {
    let file = syn::File {
        shebang: None,
        attrs: Vec::new(),
        items: vec![item],
    };
    let text = prettyplease::unparse(&file);
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (from, to) in [
        ("( ", "("),
        (", )", ")"),
        (" )", ")"),
        ("< ", "<"),
        (", >", ">"),
        (", {", " {"),
    ] {
        line = line.replace(from, to);
    }
    line.trim_end_matches(" {}")
        .trim_end_matches([';', ','])
        .to_owned()
}

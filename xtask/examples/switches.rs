//! All mutants of some sources in one build: each place that cargo-mutants would change gets a switch, and
//! the environment says which one is on. Run by `cargo xtask soak --step mutants`.
//!
//! Promises: with no switch on, the code does what the source does; an operand is evaluated once, at its
//! turn; marks around a switch and its mutants say where a compiler's error belongs. A place that can have no
//! switch (a constant, a chain with `let`, a field) is left as it is. Not here: which mutants there are, and
//! what tests make of them.

use anyhow::{Context as _, Result, bail};
use proc_macro2::Span;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, UnOp};

/// What the mutated crate asks: its module `mutants`.
pub const RUNTIME: &str = include_str!("switches/runtime.rs");

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [from, crate_root, list, to] = arguments.as_slice() else {
        bail!("usage: switches REPOSITORY CRATE-ROOT LIST FOLDER");
    };
    let read =
        |path: PathBuf| std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()));
    let list: Vec<Value> = serde_json::from_str(&read(list.clone())?)?;
    let mut files: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    for value in &list {
        let (file, mutant) = Mutant::of(value).with_context(|| format!("no mutant: {value}"))?;
        let mutants = files.entry(file).or_default();
        if value["left"] != true {
            mutants.push(mutant);
        }
    }
    let (mut switches, mut unviable) = (BTreeSet::new(), BTreeSet::new());
    for (file, mutants) in &files {
        let source = read(from.join(file))?;
        let done = switched(&source, mutants).with_context(|| format!("parsing {file}"))?;
        write(&to.join(file), &done.text)?;
        switches.extend(done.switches);
        unviable.extend(done.unviable);
    }
    let runtime = crate_root.with_file_name("mutants.rs");
    write(&to.join(runtime), RUNTIME)?;
    let source = read(from.join(crate_root))?;
    write(&to.join(crate_root), &format!("{source}\nmod mutants;\n"))?;
    println!("{}", json!({ "switches": switches, "unviable": unviable }));
    Ok(())
}

/// What is the same already is not compiled again.
fn write(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// One of cargo-mutants' list, as far as it matters here.
#[derive(Debug)]
pub struct Mutant {
    number: u64,
    /// Line and column of what is replaced, from 1.
    at: (u64, u64),
    genre: String,
    replacement: String,
}

impl Mutant {
    /// The file and the mutant of an object of that list; none if it is not of its form.
    pub fn of(value: &Value) -> Option<(String, Mutant)> {
        let start = &value["span"]["start"];
        let mutant = Mutant {
            number: value["number"].as_u64()?,
            at: (start["line"].as_u64()?, start["column"].as_u64()?),
            genre: value["genre"].as_str()?.to_owned(),
            replacement: value["replacement"].as_str()?.to_owned(),
        };
        Some((value["file"].as_str()?.to_owned(), mutant))
    }

    /// Whether it is on, as an expression.
    fn on(&self) -> String {
        format!("crate::mutants::on({})", self.number)
    }

    /// Its own text, with marks that say where an error in it belongs.
    fn marked(&self, text: &str) -> String {
        let number = self.number;
        format!("/*<{number}*/{text}/*{number}>*/")
    }
}

/// A source with switches.
#[derive(Debug)]
pub struct Switched {
    /// All of it.
    pub text: String,
    /// The numbers of the mutants that have one.
    pub switches: BTreeSet<u64>,
    /// The numbers of those that cannot compile.
    pub unviable: BTreeSet<u64>,
}

/// Puts switches for these mutants into a source.
///
/// # Errors
/// When it is no Rust.
pub fn switched(source: &str, mutants: &[Mutant]) -> Result<Switched> {
    let file = syn::parse_file(source)?;
    let mut places = Places {
        source,
        mutants,
        edits: Vec::new(),
        switches: BTreeSet::new(),
        unviable: BTreeSet::new(),
        constants: 0,
        has_rest: false,
    };
    places.visit_file(&file);
    let Places {
        mut edits,
        switches,
        unviable,
        ..
    } = places;
    edits.sort_by_key(Edit::turn);
    let (mut text, mut at) = (String::new(), 0);
    for edit in &edits {
        // Nothing is edited within what is replaced.
        if edit.at.start < at {
            bail!("two edits at byte {at}");
        }
        text.push_str(&source[at..edit.at.start]);
        text.push_str(&edit.text);
        at = edit.at.end;
    }
    text.push_str(&source[at..]);
    Ok(Switched {
        text,
        switches,
        unviable,
    })
}

/// What is put into the source.
struct Edit {
    /// What is replaced: nothing, for an insertion.
    at: Range<usize>,
    kind: Kind,
    /// The other end of what an insertion belongs to.
    other: usize,
    order: usize,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Ends something here.
    Behind,
    /// Begins something here.
    Before,
    Instead,
}

impl Edit {
    /// At one place the inner ends before the outer, and the outer begins before the inner.
    fn turn(&self) -> (usize, Kind, Reverse<usize>, i64) {
        let order = i64::try_from(self.order).unwrap_or(i64::MAX);
        let order = if self.kind == Kind::Behind { -order } else { order };
        (self.at.start, self.kind, Reverse(self.other), order)
    }
}

/// Finds the places of mutants, and makes their switches.
struct Places<'s> {
    source: &'s str,
    mutants: &'s [Mutant],
    edits: Vec<Edit>,
    switches: BTreeSet<u64>,
    unviable: BTreeSet<u64>,
    /// Within so many constants: nothing there is decided when the program runs.
    constants: usize,
    /// Whether the match around has an arm for all that others leave.
    has_rest: bool,
}

impl<'s> Places<'s> {
    /// The mutants that replace what begins here.
    fn at(&self, span: Span, genre: &str) -> Vec<&'s Mutant> {
        if self.constants > 0 {
            return Vec::new();
        }
        let start = span.start();
        let at = (start.line as u64, start.column as u64 + 1);
        let is_it = |mutant: &&Mutant| mutant.at == at && mutant.genre == genre;
        self.mutants.iter().filter(is_it).collect()
    }

    fn edit(&mut self, at: Range<usize>, kind: Kind, other: usize, text: String) {
        let order = self.edits.len();
        self.edits.push(Edit {
            at,
            kind,
            other,
            order,
            text,
        });
    }

    fn before(&mut self, whole: &Range<usize>, text: String) {
        self.edit(whole.start..whole.start, Kind::Before, whole.end, text);
    }

    fn behind(&mut self, whole: &Range<usize>, text: String) {
        self.edit(whole.end..whole.end, Kind::Behind, whole.start, text);
    }

    fn instead(&mut self, span: Range<usize>, text: &str) {
        let end = span.end;
        self.edit(span, Kind::Instead, end, text.to_owned());
    }

    /// Puts a switch around an expression, with marks that say whose it is.
    fn around(&mut self, whole: &Range<usize>, mutants: &[&Mutant], before: &str, behind: &str) {
        let numbers: Vec<String> = mutants.iter().map(|mutant| mutant.number.to_string()).collect();
        let numbers = numbers.join(",");
        self.before(whole, format!("/*[{numbers}*/{before}"));
        self.behind(whole, format!("{behind}/*{numbers}]*/"));
        self.switches.extend(mutants.iter().map(|mutant| mutant.number));
    }

    fn in_constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.constants += 1;
        visit(self);
        self.constants -= 1;
    }

    /// The body of a function that may give something else at once.
    fn body(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let Some(first) = block.stmts.first() else { return };
        if signature.constness.is_some() {
            return;
        }
        let mutants = self.at(first.span(), "FnValue");
        let begin = block.brace_token.span.open().byte_range();
        for mutant in mutants {
            let text = format!("if {} {{ return {}; }}", mutant.on(), mutant.replacement);
            self.before(&(begin.end..begin.end), mutant.marked(&text));
            self.switches.insert(mutant.number);
        }
    }

    fn binary(&mut self, binary: &syn::ExprBinary) {
        let mutants = self.at(binary.op.span(), "BinaryOperator");
        if mutants.is_empty() {
            return;
        }
        let (source, left, right) = (self.source, &*binary.left, &*binary.right);
        let operator = binary.op.span().byte_range();
        let whole = left.span().byte_range().start..right.span().byte_range().end;
        let sign = &source[operator.clone()];
        // One arm for each mutant, the last one as it was.
        let choice = |left: &str, right: &str| {
            let arms = mutants.iter().map(|mutant| {
                let text = format!("{left} {} {right}", mutant.replacement);
                format!("if {} {{ {} }} else ", mutant.on(), mutant.marked(&text))
            });
            format!("{}{{ {left} {sign} {right} }}", arms.collect::<String>())
        };
        match binary.op {
            BinOp::And(_) | BinOp::Or(_) => {
                let [mutant] = mutants.as_slice() else { return };
                if has_let(left) || has_let(right) {
                    // Beside a `let` there is no `||`.
                    self.unviable.insert(mutant.number);
                    return;
                }
                // `a && b` and `a || b` differ in which value of `a` is the answer already.
                let differs = if matches!(binary.op, BinOp::And(_)) {
                    "!="
                } else {
                    "=="
                };
                self.around(&whole, &mutants, "({ let __left: bool = ", "} else { __left } })");
                self.instead(operator, &format!("; if __left {differs} {} {{", mutant.on()));
            }
            BinOp::Eq(_) | BinOp::Ne(_) | BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_) => {
                let choice = choice("*__left", "*__right");
                let behind = format!(")) {{ (__left, __right) => {choice} }})");
                self.around(&whole, &mutants, "(match (&(", &behind);
                self.instead(operator, "), &(");
            }
            _ if sign.ends_with('=') => {
                let place = left.span().byte_range();
                let inner = |mutant: &Mutant| self.is_within(mutant, left.span());
                if self.mutants.iter().any(inner) {
                    return;
                }
                let choice = choice(&source[place.clone()], "__right");
                self.around(
                    &whole,
                    &mutants,
                    "(match (",
                    &format!(") {{ __right => {choice} }})"),
                );
                self.instead(place, "");
                self.instead(operator, "");
            }
            _ => {
                let choice = choice("__left", "__right");
                let behind = format!(") {{ (__left, __right) => {choice} }})");
                self.around(&whole, &mutants, "(match (", &behind);
                self.instead(operator, ", ");
            }
        }
    }

    fn is_within(&self, mutant: &Mutant, span: Span) -> bool {
        let (start, end) = (span.start(), span.end());
        let start = (start.line as u64, start.column as u64 + 1);
        let end = (end.line as u64, end.column as u64 + 1);
        start <= mutant.at && mutant.at < end
    }
}

/// Whether an operand binds a name.
fn has_let(operand: &Expr) -> bool {
    match operand {
        Expr::Let(_) => true,
        Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) => {
            has_let(&binary.left) || has_let(&binary.right)
        }
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Places<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.body(&item.sig, &item.block);
        if item.sig.constness.is_some() {
            self.in_constant(|this| visit::visit_item_fn(this, item));
        } else {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.body(&item.sig, &item.block);
        if item.sig.constness.is_some() {
            self.in_constant(|this| visit::visit_impl_item_fn(this, item));
        } else {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.body(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.in_constant(|this| visit::visit_item_const(this, item));
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.in_constant(|this| visit::visit_item_static(this, item));
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.in_constant(|this| visit::visit_impl_item_const(this, item));
    }

    fn visit_trait_item_const(&mut self, item: &'ast syn::TraitItemConst) {
        self.in_constant(|this| visit::visit_trait_item_const(this, item));
    }

    fn visit_type(&mut self, item: &'ast syn::Type) {
        self.in_constant(|this| visit::visit_type(this, item));
    }

    fn visit_variant(&mut self, item: &'ast syn::Variant) {
        self.in_constant(|this| visit::visit_variant(this, item));
    }

    fn visit_expr_repeat(&mut self, item: &'ast syn::ExprRepeat) {
        self.visit_expr(&item.expr);
        self.in_constant(|this| this.visit_expr(&item.len));
    }

    fn visit_expr_const(&mut self, item: &'ast syn::ExprConst) {
        self.in_constant(|this| visit::visit_expr_const(this, item));
    }

    fn visit_pat(&mut self, item: &'ast syn::Pat) {
        self.in_constant(|this| visit::visit_pat(this, item));
    }

    fn visit_expr_binary(&mut self, item: &'ast syn::ExprBinary) {
        self.binary(item);
        visit::visit_expr_binary(self, item);
    }

    fn visit_expr_unary(&mut self, item: &'ast syn::ExprUnary) {
        let mutants = self.at(item.op.span(), "UnaryOperator");
        if let (UnOp::Not(_), [mutant]) = (&item.op, mutants.as_slice()) {
            let whole = item.span().byte_range();
            let behind = format!(") == {})", mutant.on());
            self.around(&whole, &mutants, "((", &behind);
            self.instead(item.op.span().byte_range(), "");
        }
        visit::visit_expr_unary(self, item);
    }

    fn visit_expr_match(&mut self, item: &'ast syn::ExprMatch) {
        let is_rest = |arm: &syn::Arm| matches!(arm.pat, syn::Pat::Wild(_)) && arm.guard.is_none();
        let outer = std::mem::replace(&mut self.has_rest, item.arms.iter().any(is_rest));
        visit::visit_expr_match(self, item);
        self.has_rest = outer;
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let deleted = self.at(arm.span(), "MatchArm");
        if let (None, [mutant], true) = (&arm.guard, deleted.as_slice(), self.has_rest) {
            let pattern = arm.pat.span().byte_range();
            self.around(&pattern, &deleted, "", &format!(" if !{}", mutant.on()));
        }
        if let Some((_, guard)) = &arm.guard {
            let mutants = self.at(guard.span(), "MatchArmGuard");
            let always = mutants.iter().find(|mutant| mutant.replacement == "true");
            let never = mutants.iter().find(|mutant| mutant.replacement == "false");
            if let (Some(always), Some(never), false) = (always, never, has_let(guard)) {
                let before = format!("({} || (!{} && (", always.on(), never.on());
                self.around(&guard.span().byte_range(), &mutants, &before, ")))");
            }
        }
        visit::visit_arm(self, arm);
    }
}

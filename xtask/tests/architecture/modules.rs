//! Which files of a crate use which, read from their tokens.
//!
//! A file uses another when one of its paths (`crate::a::B`, `super::c()`, `child::d`, also within macros) leads there. A
//! re-exported name leads to the file that has the item. These are no dependencies: `mod` declarations, what a module takes from
//! those around it (its parents are read with it), re-exports of a module's own children, and code for tests alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The dependencies between the files of a crate, each file by its path below the crate's folder.
pub(crate) type Dependencies = BTreeMap<String, BTreeSet<String>>;

/// The path of a module from the root of its crate.
type Module = Vec<String>;

/// A path as a file has it.
struct Mention {
    /// The module that it is in.
    at: Module,
    /// Its segments, as they are written.
    path: Vec<String>,
    /// Whether it is in a re-export.
    reexported: bool,
}

/// The content of a module.
#[derive(Default)]
struct Content {
    file: PathBuf,
    children: BTreeSet<String>,
    items: BTreeSet<String>,
    /// The import of a `use`: its name here, and its path.
    imports: Vec<(String, Vec<String>)>,
    globs: Vec<Vec<String>>,
}

/// One crate: what is reached from its root file.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<Module, Content>,
    mentions: Vec<Mention>,
}

/// The dependencies of the crate with this root file.
pub(crate) fn dependencies(root: &Path) -> Dependencies {
    let mut krate = Crate::default();
    let folder = root.parent().expect("the folder of a crate's sources");
    krate.read(&Vec::new(), root, folder);
    let mut dependencies = Dependencies::new();
    for mention in &krate.mentions {
        let from = &krate.modules[&mention.at].file;
        let Some(target) = krate.leads_to(&mention.at, &mention.path, 0) else { continue };
        let is_own_child = target.len() > mention.at.len() && target.starts_with(&mention.at);
        let is_own_parent = mention.at.starts_with(&target);
        let to = &krate.modules[&target].file;
        if from != to && !is_own_parent && !(mention.reexported && is_own_child) {
            dependencies.entry(name(from, folder)).or_default().insert(name(to, folder));
        }
    }
    dependencies
}

fn name(file: &Path, folder: &Path) -> String {
    file.strip_prefix(folder).unwrap_or(file).to_string_lossy().into_owned()
}

/// The groups of files that use one another in circles.
pub(crate) fn circles(dependencies: &Dependencies) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        dependencies.keys().map(|from| (from, reach(dependencies, from))).collect();
    let mut circles: Vec<BTreeSet<String>> = Vec::new();
    for (from, to) in &reached {
        let back = |other: &&&String| reached.get(**other).is_some_and(|others| others.contains(from));
        let circle: BTreeSet<String> = to.iter().filter(back).map(|file| (*file).clone()).collect();
        if !circle.is_empty() && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

/// All files that a file uses, directly or not.
fn reach<'a>(dependencies: &'a Dependencies, from: &String) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&String> = dependencies.get(from).into_iter().flatten().collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(dependencies.get(next).into_iter().flatten());
        }
    }
    reached
}

impl Crate {
    /// Reads a file and the files of its modules. Those are in `folder`.
    fn read(&mut self, module: &Module, file: &Path, folder: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.modules.insert(module.clone(), Content { file: file.to_owned(), ..Content::default() });
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        self.items(module, &tokens, folder);
    }

    /// Goes through the items of a module.
    fn items(&mut self, module: &Module, tokens: &[TokenTree], folder: &Path) {
        let mut begin = 0;
        while begin < tokens.len() {
            let end = end_of_item(tokens, begin);
            self.item(module, &tokens[begin..end], folder);
            begin = end;
        }
    }

    fn item(&mut self, module: &Module, tokens: &[TokenTree], folder: &Path) {
        let (attributes, tokens) = tokens.split_at(length_of_attributes(tokens));
        if is_for_tests(attributes) {
            return;
        }
        self.paths(module, attributes);
        let visibility = length_of_visibility(tokens);
        let rest = &tokens[visibility..];
        match (word(rest, 0).as_deref(), word(rest, 1)) {
            (Some("use"), _) => self.import(module, &rest[1..], visibility > 0),
            (Some("mod"), Some(child)) => self.child(module, &child, rest, folder),
            (Some("macro_rules"), _) => {
                self.define(module, word(rest, 2));
                self.paths(module, rest);
            }
            _ => {
                // Words such as `unsafe`, `async` or `const` may come before `fn`.
                let kinds = ["fn", "struct", "enum", "trait", "union", "type", "static", "const"];
                let at = (0..rest.len().min(5)).rfind(|at| word(rest, *at).is_some_and(|w| kinds.contains(&&*w)));
                self.define(module, at.and_then(|at| word(rest, at + 1)));
                self.paths(module, rest);
            }
        }
    }

    fn define(&mut self, module: &Module, item: Option<String>) {
        let content = self.modules.get_mut(module).expect("a module");
        content.items.extend(item);
    }

    fn child(&mut self, module: &Module, child: &str, tokens: &[TokenTree], folder: &Path) {
        self.modules.get_mut(module).expect("a module").children.insert(child.to_owned());
        let path = [module.as_slice(), &[child.to_owned()]].concat();
        let below = folder.join(child);
        if let Some(TokenTree::Group(body)) = tokens.get(2) {
            let file = self.modules[module].file.clone();
            self.modules.insert(path.clone(), Content { file, ..Content::default() });
            let body: Vec<TokenTree> = body.stream().into_iter().collect();
            self.items(&path, &body, &below);
            return;
        }
        let beside = folder.join(format!("{child}.rs"));
        let file = if beside.exists() { beside } else { below.join("mod.rs") };
        self.read(&path, &file, &below);
    }

    /// Reads the tree of a `use`.
    fn import(&mut self, module: &Module, tree: &[TokenTree], reexported: bool) {
        let mut leaves = Vec::new();
        leaves_of(tree, &[], &mut leaves);
        for (path, name) in leaves {
            let content = self.modules.get_mut(module).expect("a module");
            if name == "*" {
                content.globs.push(path.clone());
            } else {
                content.imports.push((name, path.clone()));
            }
            self.mentions.push(Mention { at: module.clone(), path, reexported });
        }
    }

    /// Finds the paths in tokens, those of macros and of `use` within functions among them.
    fn paths(&mut self, module: &Module, tokens: &[TokenTree]) {
        let mut at = 0;
        while at < tokens.len() {
            if is(tokens, at, '#') && is_for_tests(&tokens[at..tokens.len().min(at + 2)]) {
                at = end_of_item(tokens, at);
                continue;
            }
            if let TokenTree::Group(group) = &tokens[at] {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                self.paths(module, &inner);
            } else if let Some(first) = word(tokens, at) {
                if first == "use" {
                    let end = (at..tokens.len()).find(|end| is(tokens, *end, ';')).unwrap_or(tokens.len());
                    let mut leaves = Vec::new();
                    leaves_of(&tokens[at + 1..end], &[], &mut leaves);
                    for (path, _) in leaves {
                        self.mentions.push(Mention { at: module.clone(), path, reexported: false });
                    }
                    at = end;
                    continue;
                }
                // The visibility `pub(in crate::a)` is no use.
                if first == "pub" {
                    at += length_of_visibility(&tokens[at..]);
                    continue;
                }
                let goes_on = (at >= 1 && is(tokens, at - 1, '.')) || (at >= 2 && is_separator(tokens, at - 2));
                let mut path = vec![first];
                while is_separator(tokens, at + 1)
                    && let Some(next) = word(tokens, at + 3)
                {
                    path.push(next);
                    at += 3;
                }
                if !goes_on && (path.len() > 1 || is_separator(tokens, at + 1)) {
                    self.mentions.push(Mention { at: module.clone(), path, reexported: false });
                }
            }
            at += 1;
        }
    }

    /// The module that has what a path names; none when it is not of this crate.
    fn leads_to(&self, at: &Module, path: &[String], depth: usize) -> Option<Module> {
        // Re-exports that go around in a circle name nothing.
        if depth > 16 {
            return None;
        }
        let mut module = at.clone();
        match path.first().map(String::as_str)? {
            "crate" => module = Vec::new(),
            "self" => {}
            "super" => {
                module.pop();
            }
            first if self.modules[at].children.contains(first) => {
                module.push(first.to_owned());
            }
            first => {
                let (_, stands_for) = self.modules[at].imports.iter().find(|(name, _)| name == first)?;
                // The `use` is a mention of its own, and a name that stands for itself is another crate's.
                if stands_for == &[first.to_owned()] {
                    return None;
                }
                let full = [stands_for.as_slice(), &path[1..]].concat();
                return self.leads_to(at, &full, depth + 1);
            }
        }
        let mut rest = &path[1..];
        while let Some(next) = rest.first() {
            let content = &self.modules[&module];
            if next == "super" {
                module.pop();
            } else if content.children.contains(next) {
                module.push(next.clone());
            } else {
                return Some(self.owner(&module, rest, depth));
            }
            rest = &rest[1..];
        }
        Some(module)
    }

    /// The module that has an item which another one may merely re-export.
    fn owner(&self, module: &Module, rest: &[String], depth: usize) -> Module {
        let content = &self.modules[module];
        let item = &rest[0];
        if content.items.contains(item) {
            return module.clone();
        }
        if let Some((_, path)) = content.imports.iter().find(|(name, _)| name == item) {
            let full = [path.as_slice(), &rest[1..]].concat();
            return self.leads_to(module, &full, depth + 1).unwrap_or_else(|| module.clone());
        }
        let in_glob = content.globs.iter().find_map(|glob| {
            let full = [glob.as_slice(), rest].concat();
            let owner = self.leads_to(module, &full, depth + 1)?;
            self.modules[&owner].items.contains(item).then_some(owner)
        });
        in_glob.unwrap_or_else(|| module.clone())
    }
}

/// The paths of a `use` tree, each with the name that it has here (`*` for a glob).
fn leaves_of(tree: &[TokenTree], prefix: &[String], leaves: &mut Vec<(Vec<String>, String)>) {
    for part in tree.split(|token| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ',')) {
        let mut path = prefix.to_vec();
        let mut name = None;
        let mut at = 0;
        let mut is_leaf = false;
        while at < part.len() {
            match &part[at] {
                TokenTree::Ident(ident) if ident == "as" => {
                    name = word(part, at + 1);
                    at += 1;
                }
                TokenTree::Ident(ident) => {
                    is_leaf = true;
                    if ident != "self" || path.is_empty() {
                        path.push(ident.to_string());
                    }
                }
                TokenTree::Punct(star) if star.as_char() == '*' => {
                    leaves.push((path.clone(), "*".into()));
                    is_leaf = false;
                }
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    leaves_of(&inner, &path, leaves);
                    is_leaf = false;
                }
                _ => {}
            }
            at += 1;
        }
        if is_leaf && let Some(last) = path.last() {
            let name = name.unwrap_or_else(|| last.clone());
            leaves.push((path, name));
        }
    }
}

/// Where an item that begins here ends: after its `;` or its body.
fn end_of_item(tokens: &[TokenTree], begin: usize) -> usize {
    let begin = begin + length_of_attributes(&tokens[begin..]);
    // A `use` and a value may have braces before their end.
    let visible = begin + length_of_visibility(&tokens[begin..]);
    let to_semicolon = matches!(word(tokens, visible).as_deref(), Some("use" | "static" | "type"))
        || (word(tokens, visible).as_deref() == Some("const")
            && !(1..4).any(|more| word(tokens, visible + more).as_deref() == Some("fn")));
    let ends = |at: &usize| match &tokens[*at] {
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Group(group) => !to_semicolon && group.delimiter() == Delimiter::Brace,
        _ => false,
    };
    (begin..tokens.len()).find(ends).map_or(tokens.len(), |at| at + 1)
}

/// How many tokens attributes take, those of the whole file among them.
fn length_of_attributes(tokens: &[TokenTree]) -> usize {
    let mut at = 0;
    while is(tokens, at, '#') {
        at += 1 + usize::from(is(tokens, at + 1, '!'));
        at += 1;
    }
    at.min(tokens.len())
}

fn length_of_visibility(tokens: &[TokenTree]) -> usize {
    match (word(tokens, 0).as_deref(), tokens.get(1)) {
        (Some("pub"), Some(TokenTree::Group(group))) if group.delimiter() == Delimiter::Parenthesis => 2,
        (Some("pub"), _) => 1,
        _ => 0,
    }
}

/// Whether attributes say that an item is compiled for tests alone.
fn is_for_tests(attributes: &[TokenTree]) -> bool {
    attributes.iter().any(|attribute| {
        let TokenTree::Group(group) = attribute else { return false };
        let text = group.stream().to_string().replace(' ', "");
        text == "cfg(test)" || text == "test"
    })
}

fn word(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn is(tokens: &[TokenTree], at: usize, punct: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == punct)
}

/// Whether `::` is here.
fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    is(tokens, at, ':') && is(tokens, at + 1, ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of a crate with these files.
    fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        let dependencies = dependencies(&folder.path().join("lib.rs"));
        circles(&dependencies).into_iter().map(|circle| circle.into_iter().collect()).collect()
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod a; mod b; pub use b::B;");

    #[test]
    fn two_files_that_use_one_another_are_a_circle() {
        let b = ("b.rs", "pub struct B; fn b() { crate::a::f() }");
        for a in [
            "use crate::b::B; pub fn f() {}",
            "use super::{b::{self, B as Other}}; pub fn f() {}",
            "pub fn f() { super::b::B; }",
            "pub fn f() { use crate::b::*; }",
            "pub fn f() { print!(\"{}\", crate::b::B) }",
            // The root re-exports the items of the child.
            "use crate::B; pub fn f() {}",
            "mod within { pub use super::super::b::B; } pub fn f() {}",
        ] {
            assert_eq!(circles_of(&[ROOT, ("a.rs", a), b]), [["a.rs", "b.rs"]], "{a}");
        }
    }

    #[test]
    fn a_circle_of_three_is_found_across_folders() {
        let files = [
            ("lib.rs", "mod a; mod c;"),
            ("a/mod.rs", "mod b; pub use b::B;"),
            ("a/b.rs", "pub struct B(crate::c::C);"),
            ("c.rs", "mod d; pub struct C(d::D);"),
            ("c/d.rs", "pub struct D(Box<crate::a::B>);"),
        ];
        assert_eq!(circles_of(&files), [["a/b.rs", "c.rs", "c/d.rs"]]);
    }

    #[test]
    fn one_way_parents_and_tests_are_no_circle() {
        let b = ("b.rs", "use crate::a::f; pub struct B;");
        for a in [
            "pub fn f() { std::b::c(); self::g() } fn g() {}",
            "pub fn f() {} #[cfg(test)] mod tests { use crate::b::B; }",
            "pub fn f() {} #[cfg(test)] fn only_for_tests() { crate::b::B; }",
            "pub(in crate) fn f() { let s = \"crate::b::B\"; } // crate::b::B",
        ] {
            assert_eq!(circles_of(&[ROOT, ("a.rs", a), b]), Vec::<Vec<String>>::new(), "{a}");
        }
        let parent = [("lib.rs", "mod a; pub fn up() { a::f() }"), ("a.rs", "pub fn f() { super::up() }")];
        assert_eq!(circles_of(&parent), Vec::<Vec<String>>::new());
    }
}

//! Tests of the checker itself, on small crates.

use std::path::Path;

use crate::imports::Imports;
use crate::workspace::Sources;
use crate::{circles, layers, reserved};

fn imports(files: &[(&str, &str)]) -> Imports {
    let sources: Sources = files
        .iter()
        .map(|(file, text)| (Path::new("src").join(file), (*text).to_owned()))
        .collect();
    Imports::of_crate(&sources, Path::new("src/lib.rs"))
}

/// `from -> to: names` for every import, without `src/` and `.rs`.
fn edges(files: &[(&str, &str)]) -> Vec<String> {
    let short = |file: &Path| {
        file.strip_prefix("src")
            .unwrap()
            .with_extension("")
            .display()
            .to_string()
    };
    let names =
        |names: &std::collections::BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    imports(files)
        .iter()
        .map(|(from, to, taken)| format!("{} -> {}: {}", short(from), short(to), names(taken)))
        .collect()
}

#[test]
fn a_cycle_is_reported_with_the_names_that_cause_it() {
    let found = circles::find(&imports(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b::B; pub struct A(B);"),
        ("b.rs", "pub struct B; fn b() { crate::c::c() }"),
        ("c.rs", "use super::{a::{self}, d::D}; pub fn c() { a::A; D }"),
        ("d.rs", "pub struct D;"),
    ]));
    assert_eq!(
        found,
        ["a circle of 3 files:\n  src/a.rs -> src/b.rs: B\n  src/b.rs -> src/c.rs: c\n  src/c.rs -> src/a.rs: A\n"]
    );
}

#[test]
fn separate_cycles_are_reported_separately_and_acyclic_imports_are_not() {
    let found = circles::find(&imports(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "pub struct A; use crate::b::B; use crate::c::C;"),
        ("b.rs", "pub struct B; use crate::a::A;"),
        ("c.rs", "pub struct C; use crate::d::D;"),
        ("d.rs", "pub struct D; use crate::c::C;"),
    ]));
    assert_eq!(found.len(), 2, "{found:?}");
    let none = circles::find(&imports(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::{b::B, c::C};"),
        ("b.rs", "pub struct B(crate::c::C);"),
        ("c.rs", "pub struct C;"),
    ]));
    assert!(none.is_empty(), "{none:?}");
}

#[test]
fn an_import_is_attributed_to_the_defining_file() {
    let files = [
        ("lib.rs", "mod group; mod user; pub use group::Item;"),
        (
            "group/mod.rs",
            "mod item; mod other; pub use item::{Item as Renamed, *};",
        ),
        ("group/item.rs", "pub struct Item; pub fn make() {}"),
        ("group/other.rs", "use super::Renamed; fn other(_: crate::Item) {}"),
        ("user.rs", "use crate::group::{Renamed, make};"),
    ];
    assert_eq!(
        edges(&files),
        ["group/other -> group/item: Item", "user -> group/item: Item make"]
    );
}

#[test]
fn a_parent_and_child_that_use_each_other_are_a_cycle() {
    let files = [
        ("lib.rs", "mod parent;"),
        (
            "parent/mod.rs",
            "mod child; pub use child::Child; pub struct Parent(Child);",
        ),
        ("parent/child.rs", "use super::Parent; pub struct Child;"),
    ];
    assert_eq!(
        edges(&files),
        [
            "parent/child -> parent/mod: Parent",
            "parent/mod -> parent/child: Child"
        ]
    );
}

#[test]
fn test_code_is_ignored() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "pub struct A; #[cfg(test)] mod tests; #[cfg(all(test, unix))] use crate::b::B; #[cfg(not(test))] use crate::b::C;",
        ),
        (
            "b.rs",
            "pub struct B; pub struct C; #[cfg(test)] mod tests { use crate::a::A; } #[cfg(any(test, fuzzing))] fn b(_: crate::a::A) {}",
        ),
    ];
    assert_eq!(edges(&files), ["a -> b: C", "b -> a: A"]);
}

#[test]
fn paths_are_found_in_all_positions() {
    let a = r#"
        mod inside { pub fn f() { super::super::b::in_module() } }
        #[derive(Debug)] #[arg(value_parser = crate::b::in_attribute)]
        struct S { field: Vec<crate::b::InType> }
        impl crate::b::Trait for S {}
        fn f() {
            use crate::b as renamed;
            println!("{}", match x { _ => [renamed::in_macro(y.in_nothing)] });
            crate::b::macro_itself!();
            renamed::Kind::Variant
        }
    "#;
    let b = "pub fn in_module() {} pub fn in_attribute() {} pub struct InType; pub trait Trait {} pub fn in_macro() {} \
             macro_rules! macro_itself { () => {} } pub enum Kind { Variant } pub fn in_nothing() {}";
    let names = "InType Kind Trait in_attribute in_macro in_module macro_itself";
    assert_eq!(
        edges(&[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", b)]),
        [format!("a -> b: {names}")]
    );
}

#[test]
fn names_of_other_crates_and_circular_reexports_are_ignored() {
    let files = [
        ("lib.rs", "mod a; use std::a::A; use ::a::B;"),
        (
            "a.rs",
            "pub use super::b::C; pub use self::C as D; use serde::Serialize;",
        ),
    ];
    assert!(edges(&files).is_empty());
}

#[test]
fn only_imports_from_lower_layers_are_allowed() {
    let imports = imports(&[
        (
            "lib.rs",
            "mod top; mod left; mod right; mod ground; fn f() { top::top() }",
        ),
        (
            "top/mod.rs",
            "mod inside; pub use crate::left::Left; pub fn top() { inside::inside() }",
        ),
        ("top/inside.rs", "pub fn inside() { crate::ground::ground() }"),
        ("left.rs", "pub struct Left; use crate::right::Right;"),
        ("right.rs", "pub struct Right;"),
        ("ground.rs", "pub fn ground() { crate::top::top() }"),
    ]);
    let layers: &[&[&str]] = &[&["top"], &["left", "right"], &["ground"]];
    let found = layers::violations(&imports, Path::new("src"), layers);
    assert_eq!(
        found,
        [
            "  src/ground.rs -> src/top/mod.rs: top",
            "  src/left.rs -> src/right.rs: Right"
        ]
    );
}

#[test]
fn crates_may_depend_only_on_lower_layers() {
    let crates = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let dependencies = [
        ("top".to_owned(), crates(&["left", "base"])),
        ("left".to_owned(), crates(&["right", "base"])),
        ("right".to_owned(), crates(&[])),
        ("base".to_owned(), crates(&["top"])),
    ];
    let layers: &[&[&str]] = &[&["top"], &["left", "right"], &["base"]];
    assert_eq!(
        layers::violations_of_crates(&dependencies.into(), layers),
        ["  base -> top", "  left -> right"]
    );
}

#[test]
fn reserved_files_are_used_only_by_their_group_and_owner_except_for_errors() {
    let files = [
        ("lib.rs", "mod group; mod owner; mod other;"),
        (
            "group/mod.rs",
            "mod open; mod closed; pub use open::Data; pub use closed::{ClosedError, act}; fn f() { act() }",
        ),
        ("group/open.rs", "pub struct Data;"),
        ("group/closed.rs", "pub fn act() {} pub struct ClosedError;"),
        ("owner.rs", "use crate::group::{Data, act};"),
        (
            "other.rs",
            "use crate::group::{ClosedError, Data}; fn f() { crate::group::act(); rtnetlink::f() }",
        ),
    ];
    let sources = Path::new("src");
    let closed = [Path::new("src/group/closed.rs")];
    let found = reserved::violations(&imports(&files), sources, Path::new("src/owner.rs"), &closed);
    assert_eq!(found, ["  src/other.rs -> src/group/closed.rs: act"]);

    let texts: Sources = files
        .iter()
        .map(|(file, text)| (sources.join(file), (*text).to_owned()))
        .collect();
    let named = reserved::crate_violations(&texts, sources, Path::new("src/group"), &["rtnetlink", "netlink_sys"]);
    assert_eq!(named, ["  src/other.rs: rtnetlink"]);
    assert!(reserved::crate_violations(&texts, sources, sources, &["rtnetlink"]).is_empty());
}

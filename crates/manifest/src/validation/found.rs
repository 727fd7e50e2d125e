//! Collects problems in the formats of `apimachinery/pkg/util/validation/field`.

use std::fmt::{self, Display};
use std::net::IpAddr;

use super::super::error::{FieldPath, MAX_PROBLEMS, Problem};
use super::super::suggest;

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Found(pub(crate) Vec<Problem>);

impl Found {
    pub(crate) fn add(&mut self, path: &FieldPath, what: impl Display) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(Problem::at(path, what));
        }
    }

    pub(crate) fn required(&mut self, path: &FieldPath, detail: &str) {
        let separator = if detail.is_empty() { "" } else { ": " };
        self.add(path, format_args!("Required value{separator}{detail}"));
    }

    pub(crate) fn forbidden(&mut self, path: &FieldPath, detail: impl Display) {
        self.add(path, format_args!("Forbidden: {detail}"));
    }

    pub(crate) fn too_long(&mut self, path: &FieldPath, max_bytes: usize) {
        self.add(path, format_args!("Too long: may not be more than {max_bytes} bytes"));
    }

    pub(super) fn too_many(&mut self, path: &FieldPath, count: usize, max: usize) {
        self.add(path, format_args!("Too many: {count}: must have at most {max} items"));
    }

    /// An invalid value; strings are shown in quotes.
    pub(crate) fn invalid(&mut self, path: &FieldPath, value: impl Shown, detail: impl Display) {
        self.add(path, format_args!("Invalid value: {}: {detail}", value.shown()));
    }

    pub(crate) fn invalid_for_each(&mut self, path: &FieldPath, value: &str, details: Vec<String>) {
        for detail in details {
            self.invalid(path, value, detail);
        }
    }

    /// An invalid value at a place inside the field that Kubernetes names.
    pub(super) fn invalid_inside(&mut self, path: &FieldPath, place: &FieldPath, value: &str, details: Vec<String>) {
        for detail in details {
            if self.0.len() < MAX_PROBLEMS {
                let message = format!("{path}: Invalid value: {}: {detail}", value.shown());
                self.0.push(Problem::new(place, message));
            }
        }
    }

    /// A forbidden value at a place that Kubernetes names differently.
    pub(super) fn forbidden_at(&mut self, path: &FieldPath, place: &FieldPath, detail: &str) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(Problem::new(place, format!("{path}: Forbidden: {detail}")));
        }
    }

    /// Adds problems found with paths below `outer`, whose places are below `place`.
    pub(super) fn extend_inside(&mut self, other: Self, outer: &FieldPath, place: &FieldPath) {
        for mut problem in other.0 {
            if self.0.len() < MAX_PROBLEMS {
                problem.path = problem.path.moved(outer, place);
                self.0.push(problem);
            }
        }
    }

    pub(super) fn duplicate(&mut self, path: &FieldPath, value: impl Shown) {
        self.add(path, format_args!("Duplicate value: {}", value.shown()));
    }

    pub(super) fn not_found(&mut self, path: &FieldPath, value: &str) {
        self.add(path, format_args!("Not found: {}", value.shown()));
    }

    /// A value that is not among the allowed ones.
    pub(super) fn one_of(&mut self, path: &FieldPath, value: &str, allowed: &[&str]) {
        if allowed.contains(&value) {
            return;
        }
        let list: Vec<String> = allowed.iter().map(|value| format!("{value:?}")).collect();
        self.add(
            path,
            format_args!(
                "Unsupported value: {}: supported values: {}",
                value.shown(),
                list.join(", ")
            ),
        );
    }

    pub(super) fn between(&mut self, path: &FieldPath, value: i64, min: i64, max: i64) {
        if !(min..=max).contains(&value) {
            self.invalid(path, value, format_args!("must be between {min} and {max}, inclusive"));
        }
    }

    pub(super) fn not_negative(&mut self, path: &FieldPath, value: impl Into<i64>) {
        let value = value.into();
        if value < 0 {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }

    /// A string that is passed on as a C string must not contain NUL.
    pub(super) fn no_nul(&mut self, path: &FieldPath, value: &str) {
        if value.contains('\0') {
            self.invalid(path, value, "must not contain a NUL character");
        }
    }

    pub(super) fn ip(&mut self, path: &FieldPath, address: &str) {
        if address.parse::<IpAddr>().is_err() {
            self.invalid(
                path,
                address,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
        }
    }

    /// `validateLocalDescendingPath`
    pub(super) fn descending(&mut self, path: &FieldPath, value: &str) {
        if value.starts_with('/') {
            self.invalid(path, value, "must be a relative path");
        }
        self.no_backsteps(path, value);
    }

    /// `ValidateLocalNonReservedPath`
    pub(super) fn local_path(&mut self, path: &FieldPath, value: &str) {
        self.descending(path, value);
        // A path that begins with the element `..` has been reported.
        if value.starts_with("..") && !value.starts_with("../") && value != ".." {
            self.invalid(path, value, "must not start with '..'");
        }
    }

    /// `validatePathNoBacksteps`
    pub(super) fn no_backsteps(&mut self, path: &FieldPath, value: &str) {
        if value.split('/').any(|part| part == "..") {
            self.invalid(path, value, "must not contain '..'");
        }
        self.no_nul(path, value);
    }
}

/// A value as Kubernetes shows it in an error.
pub(crate) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for &str {
    fn shown(&self) -> String {
        format!("{:?}", suggest::shorten(self))
    }
}

impl Shown for i64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for i32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for fmt::Arguments<'_> {
    fn shown(&self) -> String {
        self.to_string()
    }
}

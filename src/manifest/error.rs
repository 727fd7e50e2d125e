//! What is wrong with a manifest: all of it at once, each with its place in the file and the field it is about.

use std::fmt;

/// A step from a value into one that it contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// A field that Kubernetes defines, or something written where one should be.
    Field(String),
    /// A key that the user chose: a label, a resource …
    Key(String),
    /// An element of a list.
    Index(usize),
}

/// Where in an object a value is; written as Kubernetes does, `spec.containers[0].resources.limits[cpu]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// The path of a field of this value.
    pub fn field(&self, name: &str) -> Self {
        self.with(Segment::Field(name.to_owned()))
    }

    /// The path of the value with this key.
    pub fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    /// The path of an element of this list.
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The steps, outermost first.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    fn with(&self, segment: Segment) -> Self {
        Self(self.0.iter().cloned().chain([segment]).collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if position == 0 => write!(f, "{name}")?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Key(key) => write!(f, "[{key}]")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A place in the text, both numbers counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field it is about; empty for the file as a whole.
    pub path: FieldPath,
    /// Where that is, as far as known.
    pub location: Option<Location>,
    /// What is wrong and what to do. Names the field already.
    pub message: String,
}

impl Problem {
    /// A problem of a field in Kubernetes' format, `field: what is wrong`.
    pub fn at(path: &FieldPath, what: impl fmt::Display) -> Self {
        Self {
            path: path.clone(),
            location: None,
            message: format!("{path}: {what}"),
        }
    }

    /// A problem whose message stands for itself.
    pub fn new(path: &FieldPath, message: impl Into<String>) -> Self {
        Self {
            path: path.clone(),
            location: None,
            message: message.into(),
        }
    }
}

/// A manifest was refused. Displays one line a problem: `pod.yaml:7:5: spec.containers[0].image: Required value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// Name of the file, `-` for standard input.
    pub source: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// More lines than this help nobody.
const MAX_SHOWN: usize = 50;

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.problems.iter().take(MAX_SHOWN).enumerate() {
            let separator = if position == 0 { "" } else { "\n" };
            write!(f, "{separator}{}", self.source)?;
            if let Some(Location { line, column }) = problem.location {
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": {}", problem.message)?;
        }
        match self.problems.len().checked_sub(MAX_SHOWN) {
            Some(more @ 1..) => write!(f, "\n{}: and {more} more problems", self.source),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ManifestError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_kubernetes_does() {
        let path = FieldPath::default()
            .field("spec")
            .field("containers")
            .index(2)
            .field("resources")
            .field("limits");
        assert_eq!(path.key("cpu").to_string(), "spec.containers[2].resources.limits[cpu]");
    }

    #[test]
    fn every_problem_has_its_line_and_too_many_are_counted() {
        let mut problem = Problem::at(&FieldPath::default().field("kind"), "Required value");
        problem.location = Some(Location { line: 3, column: 1 });
        let error = ManifestError {
            source: "pod.yaml".into(),
            problems: vec![problem; 52],
        };
        let text = error.to_string();
        assert_eq!(text.lines().next(), Some("pod.yaml:3:1: kind: Required value"));
        assert_eq!(text.lines().count(), 51);
        assert_eq!(text.lines().last(), Some("pod.yaml: and 2 more problems"));
    }
}

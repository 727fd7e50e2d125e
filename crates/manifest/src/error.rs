//! Errors in manifests: all of them are reported together, each with its place in the file and its field.

use std::fmt;

use super::suggest;

/// Problems beyond this number are only counted: no user reads that many, and a hostile file could contain a million.
pub(super) const MAX_PROBLEMS: usize = 1000;
/// How messages about unknown fields begin. All other messages about a field begin with its path.
const UNKNOWN_FIELD: &str = "unknown field ";

/// A step from a value to one inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// A field that Kubernetes defines, or text in place of one.
    Field(String),
    /// A key chosen by the user: a label, a resource …
    Key(String),
    /// An element of a list.
    Index(usize),
}

/// The place of a value in an object, written like Kubernetes does: `spec.containers[0].resources.limits[cpu]`.
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

    /// Whether this is `other`, or is inside it.
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The same path below `to` instead of `from`.
    pub(super) fn moved(&self, from: &Self, to: &Self) -> Self {
        match self.0.strip_prefix(from.0.as_slice()) {
            Some(rest) => Self(to.0.iter().chain(rest).cloned().collect()),
            None => self.clone(),
        }
    }

    fn with(&self, segment: Segment) -> Self {
        Self(self.0.iter().cloned().chain([segment]).collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if position == 0 => f.write_str(&suggest::shorten(name))?,
                Segment::Field(name) => write!(f, ".{}", suggest::shorten(name))?,
                Segment::Key(key) => write!(f, "[{}]", suggest::shorten(key))?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A place in the text; both numbers start at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// One error in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The affected field; empty for the file as a whole.
    pub path: FieldPath,
    /// Where it is, if known.
    pub location: Option<Location>,
    /// The problem and its fix, including the field.
    pub message: String,
}

impl Problem {
    /// A problem with a field, in Kubernetes' format `field: what is wrong`.
    pub fn at(path: &FieldPath, what: impl fmt::Display) -> Self {
        Self {
            path: path.clone(),
            location: None,
            message: format!("{path}: {what}"),
        }
    }

    /// A problem with a complete message.
    pub fn new(path: &FieldPath, message: impl Into<String>) -> Self {
        Self {
            path: path.clone(),
            location: None,
            message: message.into(),
        }
    }

    /// A field that its type does not have. `hint` continues the message.
    pub(super) fn unknown_field(path: &FieldPath, hint: &str) -> Self {
        Self::new(path, format!("{UNKNOWN_FIELD}\"{path}\"{hint}"))
    }

    /// Whether it is about a field that its type does not have.
    pub fn is_unknown_field(&self) -> bool {
        self.message.starts_with(UNKNOWN_FIELD)
    }

    /// A problem with a field, or with the document as a whole, which has no field name.
    pub fn at_or_new(path: &FieldPath, what: impl fmt::Display) -> Self {
        match path.segments() {
            [] => Self::new(path, what.to_string()),
            _ => Self::at(path, what),
        }
    }
}

/// The problems of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblems {
    /// Name of the file as the user gave it.
    pub source: String,
    /// At least one.
    pub problems: Vec<Problem>,
    /// How many more problems there are.
    pub more: usize,
}

/// Collects the problems of a file, up to a maximum.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) list: Vec<Problem>,
    pub(super) more: usize,
}

impl Problems {
    pub(super) fn add(&mut self, problem: Problem) {
        if self.list.len() < MAX_PROBLEMS {
            self.list.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// All problems, sorted by place.
    pub(super) fn of(mut self, source: &str) -> FileProblems {
        self.list.sort_by_key(|problem| problem.location);
        FileProblems {
            source: source.to_owned(),
            problems: self.list,
            more: self.more,
        }
    }
}

/// The manifests were refused. Displays one line per problem: `pod.yaml:7:5: spec.containers[0].image: Required value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// At least one, in the order given.
    pub files: Vec<FileProblems>,
}

impl ManifestError {
    /// One problem with a file as a whole.
    pub fn of_file(source: &str, message: impl Into<String>) -> Self {
        let problems = vec![Problem::new(&FieldPath::default(), message)];
        Self {
            files: vec![FileProblems {
                source: source.to_owned(),
                problems,
                more: 0,
            }],
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for FileProblems { source, problems, more } in &self.files {
            for problem in problems {
                write!(f, "{separator}{source}")?;
                separator = "\n";
                if let Some(Location { line, column }) = problem.location {
                    write!(f, ":{line}:{column}")?;
                }
                write!(f, ": {}", problem.message)?;
            }
            if *more > 0 {
                write!(f, "{separator}{source}: {more} more problems")?;
            }
        }
        Ok(())
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
    fn every_problem_has_a_line_and_excess_ones_are_counted() {
        let mut problem = Problem::at(&FieldPath::default().field("kind"), "Required value");
        problem.location = Some(Location { line: 3, column: 1 });
        let error = ManifestError {
            files: vec![FileProblems {
                source: "pod.yaml".into(),
                problems: vec![problem; 50],
                more: 2,
            }],
        };
        let text = error.to_string();
        assert_eq!(text.lines().next(), Some("pod.yaml:3:1: kind: Required value"));
        assert_eq!(text.lines().count(), 51);
        assert_eq!(text.lines().last(), Some("pod.yaml: 2 more problems"));
    }
}

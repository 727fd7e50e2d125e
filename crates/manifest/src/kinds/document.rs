//! Reads documents of all kinds in the table, and lists of them.

use std::fmt;
use std::rc::Rc;

use serde_json::Value as Json;

use super::super::documents::Input;
use super::super::error::{FieldPath, FileProblems, Location, ManifestError, Problem, Problems};
use super::super::node::{Node, Value};
use super::super::unknown_fields::{self, UnknownFields};
use super::super::{nodes, support, typed};
use super::json;
use super::object::Object;
use super::table::{Kind, SupportCheck, find, no_match};

/// An object as a user wrote it.
pub struct Document {
    source: String,
    node: Rc<Node>,
    kind: &'static Kind,
    object: Object,
    /// The unknown fields that were dropped.
    dropped_fields: Vec<Problem>,
}

/// Shows only the object's identity, because values may be secret.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("source", &self.source)
            .field("object", &self.object)
            .finish_non_exhaustive()
    }
}

impl Document {
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// The file it is in, as the user named it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it begins.
    pub fn place(&self) -> Location {
        self.node.at
    }

    /// The object without defaults; it may be invalid.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The object exactly as written, including `null`, and with `apiVersion` and `kind`, which items of typed lists
    /// omit. Dropped fields are left out.
    pub fn written(&self) -> Json {
        let mut value = written(&self.node, &self.kind.api_version(), self.kind.kind);
        unknown_fields::remove(&mut value, &self.dropped_fields);
        value
    }

    /// Its unknown fields, if they were dropped.
    pub fn dropped_fields(&self) -> &[Problem] {
        &self.dropped_fields
    }

    /// The object with its defaults, or all its problems with their places.
    pub fn complete(&self) -> Result<Object, FileProblems> {
        let (object, problems) = self.defaulted();
        match problems {
            problems if problems.is_empty() => Ok(object),
            problems => Err(self.locate(problems)),
        }
    }

    /// The object with its defaults, and all its problems.
    fn defaulted(&self) -> (Object, Vec<Problem>) {
        let mut object = self.object.clone();
        object.set_defaults();
        let problems = object.validate();
        (object, problems)
    }

    /// Where its name is.
    pub(crate) fn name_at(&self) -> Location {
        let path = FieldPath::default().field("metadata").field("name");
        self.node.locate(path.segments())
    }

    /// Problems of this object, such as those of a change, with their places in the file.
    pub fn locate(&self, problems: Vec<Problem>) -> FileProblems {
        let mut located = Problems::default();
        locate(&self.node, self.kind, problems, &mut located);
        located.of(&self.source)
    }
}

/// The object of a node exactly as written, with `apiVersion` and `kind`.
pub(crate) fn written(node: &Node, api_version: &str, kind: &str) -> Json {
    let mut value = json::from_node(node);
    if let Json::Object(fields) = &mut value {
        fields.entry("apiVersion").or_insert_with(|| api_version.into());
        fields.entry("kind").or_insert_with(|| kind.into());
    }
    value
}

/// Reads all objects of the given files, without defaults and validation, since a document may be only a part of an
/// object that exists. The error lists all unknown fields, wrong types and unsupported fields, with their places.
pub fn read_documents(inputs: &[Input<'_>]) -> Result<Vec<Document>, ManifestError> {
    read_documents_with(inputs, UnknownFields::Refused)
}

/// Like [`read_documents`], possibly without unknown fields.
pub fn read_documents_with(inputs: &[Input<'_>], unknown: UnknownFields) -> Result<Vec<Document>, ManifestError> {
    read(inputs, support::check, false, unknown)
}

/// Reads all objects of the given files, with defaults. The error lists all problems, with their places.
pub fn read_objects(inputs: &[Input<'_>]) -> Result<Vec<Object>, ManifestError> {
    let documents = read(inputs, support::check, true, UnknownFields::Refused)?;
    Ok(documents.into_iter().map(|document| document.object).collect())
}

/// Reads the object in a parsed document, or the objects of its list. Those with problems are left out.
pub(crate) fn valid_documents(
    source: &str,
    node: &Rc<Node>,
    unknown: UnknownFields,
    problems: &mut Problems,
) -> Vec<Document> {
    let mut reader = Reader {
        source,
        check: support::check,
        complete: false,
        unknown,
        documents: Vec::new(),
    };
    reader.node(node, None, problems);
    let mut documents = reader.documents;
    documents.retain(|document| {
        let (_, found) = document.defaulted();
        let is_valid = found.is_empty();
        locate(&document.node, document.kind, found, problems);
        is_valid
    });
    documents
}

/// Reads documents; complete ones are defaulted and validated.
pub(super) fn read(
    inputs: &[Input<'_>],
    check: SupportCheck,
    complete: bool,
    unknown: UnknownFields,
) -> Result<Vec<Document>, ManifestError> {
    let mut reader = Reader {
        source: "",
        check,
        complete,
        unknown,
        documents: Vec::new(),
    };
    let mut files = Vec::new();
    for input in inputs {
        let mut problems = Problems::default();
        reader.source = input.source;
        nodes::each_node(input, &mut problems, |node, problems| {
            reader.node(node, None, problems);
        });
        if !problems.list.is_empty() {
            files.push(problems.of(input.source));
        }
    }
    if files.is_empty() {
        Ok(reader.documents)
    } else {
        Err(ManifestError { files })
    }
}

struct Reader<'i> {
    source: &'i str,
    check: SupportCheck,
    complete: bool,
    unknown: UnknownFields,
    documents: Vec<Document>,
}

/// The type that a document states.
enum Stated {
    Object(&'static Kind),
    /// A list of objects; a typed one has one kind.
    List(Option<&'static Kind>),
}

impl Reader<'_> {
    /// Reads a document, or an item of a list whose kind is known.
    fn node(&mut self, node: &Rc<Node>, listed: Option<&'static Kind>, problems: &mut Problems) {
        match stated(node, listed, problems) {
            Some(Stated::Object(kind)) => self.object(node, kind, problems),
            Some(Stated::List(kind)) => {
                for item in nodes::items(node, problems) {
                    self.node(item, kind, problems);
                }
            }
            None => {}
        }
    }

    fn object(&mut self, node: &Rc<Node>, kind: &'static Kind, problems: &mut Problems) {
        let (object, mut mistyped) = kind.decode(node);
        let dropped_fields = self.unknown.take(&mut mistyped);
        let mut invalid = kind.check_support(node, self.check);
        let object = object.map(|mut object| {
            if self.complete {
                object.set_defaults();
                invalid.extend(object.validate());
            }
            object
        });
        let mut found = Vec::new();
        nodes::add_problems(invalid, mistyped, &mut found);
        let is_valid = found.is_empty();
        locate(node, kind, found, problems);
        if let Some(object) = object.filter(|_| is_valid) {
            self.documents.push(Document {
                source: self.source.to_owned(),
                node: Rc::clone(node),
                kind,
                object,
                dropped_fields,
            });
        }
    }
}

fn locate(node: &Node, kind: &Kind, found: Vec<Problem>, problems: &mut Problems) {
    let root = FieldPath::default();
    let (data, text) = (root.field("data"), root.field("stringData"));
    for mut problem in found {
        // Values of `stringData` are validated as a part of `data`.
        let in_text = problem.path.moved(&data, &text);
        let is_text = kind.kind == "Secret" && in_text != problem.path && node.has(in_text.segments());
        let path = if is_text { &in_text } else { &problem.path };
        let at = problem.location.unwrap_or_else(|| node.locate(path.segments()));
        problem.location = Some(at);
        problems.add(problem);
    }
}

/// The kind that the document states, or that of the items of its list.
fn stated(node: &Node, listed: Option<&'static Kind>, problems: &mut Problems) -> Option<Stated> {
    let root = FieldPath::default();
    let mut add = |field: Option<&str>, what: String| {
        let path = field.map_or_else(FieldPath::default, |field| root.field(field));
        let mut problem = Problem::at_or_new(&path, what);
        problem.location = Some(node.locate(path.segments()));
        problems.add(problem);
    };
    if !matches!(node.value, Value::Map(_)) {
        let what = "not a Kubernetes object: the document must be a mapping with apiVersion, kind and metadata";
        add(None, what.to_owned());
        return None;
    }
    let mut text = |field: &str, own: Option<String>| match (node.get(field).map(|node| &node.value), own) {
        (Some(Value::String(text)), _) if !text.is_empty() => Some(text.clone()),
        (None | Some(Value::Null), Some(own)) => Some(own),
        (None | Some(Value::Null | Value::String(_)), _) => {
            add(Some(field), "Required value".to_owned());
            None
        }
        (Some(value), _) => {
            let what = format!("invalid type: {}, expected a string", typed::describe(value));
            add(Some(field), what);
            None
        }
    };
    let version = text("apiVersion", listed.map(Kind::api_version));
    let kind = text("kind", listed.map(|kind| kind.kind.to_owned()));
    let (version, kind) = (version?, kind?);
    let found = match find(&version, &kind) {
        Some(kind) => Some(Stated::Object(kind)),
        None if version == "v1" && kind == "List" => Some(Stated::List(None)),
        None => kind
            .strip_suffix("List")
            .and_then(|item| find(&version, item))
            .map(|kind| Stated::List(Some(kind))),
    };
    match (&found, listed) {
        (Some(Stated::Object(kind)), Some(listed)) if kind.kind == listed.kind => {}
        (Some(_), Some(listed)) => {
            let what = format!(
                "Invalid value: {kind:?}: must be {:?} in a {}",
                listed.kind,
                listed.list_kind()
            );
            add(Some("kind"), what);
            return None;
        }
        (Some(_), None) => {}
        (None, _) => add(Some("kind"), no_match(&version, &kind)),
    }
    found
}

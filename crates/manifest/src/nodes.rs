//! The documents of a file as values with places, and functions that readers of all kinds share.

use std::rc::Rc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::documents::{self, Input};
use super::error::{FieldPath, Problem, Problems};
use super::node::{Node, Value};
use super::schema::Schema;
use super::{typed, yaml};

/// Parses a file and calls `read` with each document.
pub(super) fn each_node(input: &Input<'_>, problems: &mut Problems, mut read: impl FnMut(&Rc<Node>, &mut Problems)) {
    let documents = match documents::split(input.text) {
        Ok(documents) => documents,
        Err(problem) => return problems.add(problem),
    };
    let mut budget = yaml::Budget::default();
    for document in &documents {
        let (nodes, found) = yaml::parse(document, &mut budget);
        found.into_iter().for_each(|problem| problems.add(problem));
        for node in &nodes {
            read(node, problems);
        }
        if problems.more > 0 {
            break;
        }
    }
}

/// The items of a list of objects, as `kubectl get -o yaml` writes it.
pub(super) fn items<'n>(node: &'n Node, problems: &mut Problems) -> &'n [Rc<Node>] {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(default, rename = "apiVersion")]
        _api_version: IgnoredAny,
        #[serde(default, rename = "kind")]
        _kind: IgnoredAny,
        #[serde(default, rename = "metadata")]
        _metadata: IgnoredAny,
        #[serde(default)]
        items: Option<Vec<IgnoredAny>>,
    }
    let root = FieldPath::default();
    let (fields, found) = typed::deserialize::<Fields>(node, &root, Schema::of_pod());
    let wrong = !found.is_empty();
    for mut problem in found {
        let at = problem.location.unwrap_or_else(|| node.locate(problem.path.segments()));
        problem.location = Some(at);
        problems.add(problem);
    }
    if !wrong && fields.is_none_or(|fields| fields.items.is_none()) {
        let mut problem = Problem::at(&root.field("items"), "Required value");
        problem.location = Some(node.at);
        problems.add(problem);
    }
    match node.get("items").map(|items| &items.value) {
        Some(Value::List(elements)) => elements,
        _ => &[],
    }
}

/// Adds the problems, except those about a value of the wrong type, which was validated as a zero value.
pub(super) fn add_problems(invalid: Vec<Problem>, mistyped: Vec<Problem>, found: &mut Vec<Problem>) {
    let about = |problem: &Problem| mistyped.iter().any(|other| problem.path.starts_with(&other.path));
    let invalid: Vec<Problem> = invalid.into_iter().filter(|problem| !about(problem)).collect();
    found.extend(mistyped);
    found.extend(invalid);
}

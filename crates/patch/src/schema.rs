//! How the fields of a kind merge, as a table of paths: the notation of `microkube explain`, with list elements as `[]`.

use std::collections::HashMap;

/// How a field merges. A map without a line in the table merges field by field, a list without one is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// A map whose fields are merged. If it retains keys, patches list the fields that remain (`$retainKeys`).
    Map { retain_keys: bool },
    /// A list of maps: those with the same value of the key are merged.
    List { key: &'static str, retain_keys: bool },
    /// A list of primitive values, each at most once.
    Set,
    /// Replaced as a whole.
    Replace,
    /// Like another field in the same table, subfields included.
    SameAs(&'static str),
}

impl Merge {
    /// A list of maps merged by a key.
    pub const fn by(key: &'static str) -> Self {
        Self::List {
            key,
            retain_keys: false,
        }
    }

    /// Like [`Self::by`], for maps in which exactly one of several fields is set.
    pub const fn by_retaining_keys(key: &'static str) -> Self {
        Self::List { key, retain_keys: true }
    }
}

/// How all fields of a kind merge.
#[derive(Debug)]
pub struct Schema {
    nodes: Vec<Node>,
    /// Whether errors hide the values in patches.
    confidential: bool,
}

#[derive(Debug, Default)]
struct Node {
    /// `None` if only subfields are in the table.
    merge: Option<Merge>,
    fields: HashMap<&'static str, usize>,
}

/// Place of the whole object in `Schema::nodes`.
const ROOT: usize = 0;

impl Schema {
    /// Builds the schema from the lines of a table.
    pub fn new<'t>(table: impl IntoIterator<Item = &'t (&'static str, Merge)>) -> Self {
        let mut schema = Self {
            nodes: vec![Node::default()],
            confidential: false,
        };
        let mut shared = Vec::new();
        for (path, merge) in table {
            let node = schema.insert(path);
            if let Merge::SameAs(other) = merge {
                shared.push((node, *other));
            } else if let Some(node) = schema.nodes.get_mut(node) {
                node.merge = Some(*merge);
            }
        }
        for (node, other) in shared {
            let other = schema.insert(other);
            let copy = schema.nodes.get(other).map(|other| (other.merge, other.fields.clone()));
            if let (Some(node), Some((merge, fields))) = (schema.nodes.get_mut(node), copy) {
                node.merge = merge;
                node.fields.extend(fields);
            }
        }
        schema
    }

    /// The same schema for a kind whose values are secret: errors hide the values in patches.
    pub fn confidential(mut self) -> Self {
        self.confidential = true;
        self
    }

    /// The whole object.
    pub(crate) fn root(&self) -> Field<'_> {
        Field {
            schema: self,
            node: Some(ROOT),
        }
    }

    /// Finds a field, or adds it without a line in the table.
    fn insert(&mut self, path: &'static str) -> usize {
        let mut node = ROOT;
        for name in path.split('.') {
            let name = name.trim_end_matches("[]");
            let new = self.nodes.len();
            let Some(parent) = self.nodes.get_mut(node) else { break };
            node = *parent.fields.entry(name).or_insert(new);
            if node == new {
                self.nodes.push(Node::default());
            }
        }
        node
    }
}

/// A field of a schema, or one that has no line in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'s> {
    schema: &'s Schema,
    node: Option<usize>,
}

impl<'s> Field<'s> {
    /// A subfield; of a list, a field of its elements.
    pub(crate) fn field(self, name: &str) -> Self {
        Self {
            schema: self.schema,
            node: self.node().and_then(|node| node.fields.get(name).copied()),
        }
    }

    /// The key by which the maps of this list are merged.
    pub(crate) fn merge_key(self) -> Option<&'static str> {
        match self.merge() {
            Some(Merge::List { key, .. }) => Some(key),
            _ => None,
        }
    }

    /// Whether this is a list of primitive values that are merged.
    pub(crate) fn is_set(self) -> bool {
        self.merge() == Some(Merge::Set)
    }

    /// Whether even a map is replaced as a whole.
    pub(crate) fn is_replaced(self) -> bool {
        self.merge() == Some(Merge::Replace)
    }

    /// Whether patches list the fields that remain.
    pub(crate) fn retains_keys(self) -> bool {
        matches!(
            self.merge(),
            Some(Merge::Map { retain_keys: true } | Merge::List { retain_keys: true, .. })
        )
    }

    /// Whether errors hide the values in patches.
    pub(crate) fn is_confidential(self) -> bool {
        self.schema.confidential
    }

    fn merge(self) -> Option<Merge> {
        self.node()?.merge
    }

    fn node(self) -> Option<&'s Node> {
        self.schema.nodes.get(self.node?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[(&str, Merge)] = &[
        ("copy", Merge::SameAs("list")),
        ("list", Merge::by_retaining_keys("name")),
        ("list[].inner.set", Merge::Set),
        ("map", Merge::Map { retain_keys: true }),
        ("map.whole", Merge::Replace),
    ];

    #[test]
    fn fields_merge_as_their_line_in_the_table_says() {
        let schema = Schema::new(TABLE);
        let root = schema.root();
        assert_eq!(root.field("list").merge_key(), Some("name"));
        assert!(root.field("list").retains_keys() && root.field("map").retains_keys());
        assert!(root.field("list").field("inner").field("set").is_set());
        assert!(root.field("map").field("whole").is_replaced());
    }

    #[test]
    fn fields_without_a_line_have_no_merge() {
        let schema = Schema::new(TABLE);
        for field in [
            schema.root(),
            schema.root().field("other"),
            schema.root().field("other").field("list"),
            schema.root().field("list").field("inner"),
        ] {
            assert_eq!(field.merge(), None);
            assert!(!field.is_set() && !field.is_replaced() && !field.retains_keys());
        }
    }

    #[test]
    fn a_field_can_merge_as_another_that_is_listed_later() {
        let schema = Schema::new(TABLE);
        let copy = schema.root().field("copy");
        assert_eq!(copy.merge_key(), Some("name"));
        assert!(copy.field("inner").field("set").is_set());
    }
}

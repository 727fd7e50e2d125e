//! `-o`: the output formats for objects.

use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};

use super::super::jsonpath::Template;
use super::super::print::escaped;
use super::super::table::table;
use super::super::yaml;

/// An output format.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) enum Format {
    /// The verb's table, with more columns.
    Wide,
    Json,
    Yaml,
    Name,
    JsonPath(Template),
    CustomColumns(Vec<(String, Template)>),
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text.split_once('=') {
            None => match text {
                "wide" => Self::Wide,
                "json" => Self::Json,
                "yaml" => Self::Yaml,
                "name" => Self::Name,
                "jsonpath" => bail!("template format specified but no template given"),
                "custom-columns" => bail!("custom-columns format specified but no custom columns given"),
                _ => return Err(unknown(text)),
            },
            Some(("jsonpath", template)) => Self::JsonPath(Template::parse(template)?),
            Some(("custom-columns", columns)) => Self::CustomColumns(custom_columns(columns)?),
            Some(_) => return Err(unknown(text)),
        })
    }
}

fn unknown(text: &str) -> anyhow::Error {
    anyhow!(
        "unable to match a printer suitable for the output format {text:?}, allowed formats are: \
         custom-columns,json,jsonpath,name,wide,yaml"
    )
}

/// `NAME:.metadata.name,PHASE:.status.phase`
fn custom_columns(text: &str) -> anyhow::Result<Vec<(String, Template)>> {
    let column = |column: &str| {
        let (title, path) = column
            .split_once(':')
            .filter(|(_, path)| !path.is_empty())
            .with_context(|| format!("unexpected custom-columns spec: {column}, expected <header>:<json-path-expr>"))?;
        Ok((title.to_owned(), Template::parse_relaxed(path)?))
    };
    // A comma in brackets belongs to a path, and a bracket in quotes to a key or value in it.
    let (mut depth, mut quote, mut is_escaped) = (0_usize, None, false);
    text.split(|c| {
        let was_escaped = is_escaped;
        is_escaped = c == '\\' && !was_escaped;
        match (quote, c) {
            _ if was_escaped => {}
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if depth > 0 => quote = Some(c),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        c == ',' && depth == 0 && !was_escaped
    })
    .map(column)
    .collect()
}

/// The objects to print.
#[derive(Debug)]
pub(in crate::cli) enum Objects {
    /// A single object, requested by name.
    One(Value),
    /// Any number of objects.
    List(Vec<Value>),
}

impl Objects {
    /// The objects from values that serialise to JSON.
    ///
    /// # Errors
    /// If a value cannot be serialised.
    pub(in crate::cli) fn of<T: serde::Serialize>(objects: &[T], by_one_name: bool) -> anyhow::Result<Self> {
        let mut values = objects
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(match values.pop() {
            Some(only) if by_one_name && values.is_empty() => Self::One(only),
            last => {
                values.extend(last);
                Self::List(values)
            }
        })
    }

    fn each(&self) -> &[Value] {
        match self {
            Self::One(object) => std::slice::from_ref(object),
            Self::List(objects) => objects,
        }
    }

    fn as_one(&self) -> Value {
        match self {
            Self::One(object) => object.clone(),
            Self::List(objects) => json!({
                "apiVersion": "v1",
                "items": objects,
                "kind": "List",
                "metadata": { "resourceVersion": "" },
            }),
        }
    }
}

impl Format {
    /// The objects in this format. The verb handles [`Format::Wide`] itself.
    ///
    /// # Errors
    /// If a template cannot be applied to them.
    pub(in crate::cli) fn print(&self, objects: &Objects, headers: bool) -> anyhow::Result<String> {
        Ok(match self {
            Self::Wide => String::new(),
            Self::Json => json_text(&objects.as_one())?,
            Self::Yaml => yaml::document(&objects.as_one()),
            Self::Name => objects.each().iter().map(|object| name(object) + "\n").collect(),
            Self::JsonPath(template) => template.render(&objects.as_one())?,
            Self::CustomColumns(columns) => {
                let mut rows = Vec::new();
                if headers {
                    rows.push(columns.iter().map(|(title, _)| title.clone()).collect());
                }
                for object in objects.each() {
                    let cell = |(_, template): &(String, Template)| custom_cell(template, object);
                    rows.push(columns.iter().map(cell).collect::<anyhow::Result<_>>()?);
                }
                table(&rows)
            }
        })
    }
}

fn custom_cell(template: &Template, object: &Value) -> anyhow::Result<String> {
    let found = template.find(object)?;
    let texts: Vec<String> = found.into_iter().map(go_text).collect();
    Ok(if texts.is_empty() {
        "<none>".to_owned()
    } else {
        texts.join(",")
    })
}

/// A value as printed by Go's `fmt`, which kubectl's columns show.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{key}:{}", go_text(value)));
            format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
        }
    }
}

/// `pod/web`, `storageclass.storage.k8s.io/fast`
fn name(object: &Value) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text(object.get("kind")).to_ascii_lowercase();
    let version = text(object.get("apiVersion"));
    let group = version.split_once('/').map(|(group, _)| format!(".{group}"));
    format!(
        "{kind}{}/{}",
        group.unwrap_or_default(),
        text(object.pointer("/metadata/name"))
    )
}

/// Indented by four spaces, as in kubectl.
fn json_text(value: &Value) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    Ok(escaped(&String::from_utf8(bytes)?) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(format: &str, objects: &Objects) -> String {
        format.parse::<Format>().unwrap().print(objects, true).unwrap()
    }

    fn pod(name: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "a": "b" } } })
    }

    #[test]
    fn one_object_is_printed_alone_and_several_as_a_list() {
        let one = Objects::of(&[pod("web")], true).unwrap();
        let list = Objects::of(&[pod("a"), pod("b")], true).unwrap();
        let single_of_many = Objects::of(&[pod("a")], false).unwrap();
        assert_eq!(print("name", &one), "pod/web\n");
        assert_eq!(print("name", &list), "pod/a\npod/b\n");
        assert_eq!(print("jsonpath={.metadata.name}", &one), "web");
        assert_eq!(print("jsonpath={.items[*].metadata.name}", &single_of_many), "a");
        assert_eq!(
            print("yaml", &one),
            "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    a: b\n  name: web\n"
        );
        assert!(print("yaml", &list).ends_with("kind: List\nmetadata:\n  resourceVersion: \"\"\n"));
        assert!(print("json", &one).starts_with("{\n    \"apiVersion\": \"v1\",\n    \"kind\": \"Pod\",\n"));
        assert_eq!(
            print(
                "custom-columns=NAME:.metadata.name,A:{.metadata.labels['a','x']},N:.none",
                &list
            ),
            "NAME   A     N\na      b     <none>\nb      b     <none>\n"
        );
    }

    #[test]
    fn custom_columns_support_dotted_keys_unions_and_kubectls_values() {
        let object = json!({ "kind": "Pod", "metadata": {
            "name": "web", "labels": { "app.kubernetes.io/name": "shop", "tier": "front" }, "finalizers": ["a", "b"], "none": null,
        } });
        let one = Objects::of(&[object], true).unwrap();
        for (columns, cells) in [
            (r"A:.metadata.labels['app\.kubernetes\.io/name']", "shop"),
            (r"A:.metadata.labels.app\.kubernetes\.io/name", "shop"),
            ("A:['metadata.name', 'metadata.labels.tier']", "web,front"),
            ("A:.metadata['name','none']", "web,<nil>"),
            ("A:.metadata.labels", "map[app.kubernetes.io/name:shop tier:front]"),
            ("A:.metadata.finalizers", "[a b]"),
            ("A:.metadata.finalizers[*]", "a,b"),
            ("A:.metadata.finalizers[?(@!='],a')],B:.kind", "a,b   Pod"),
        ] {
            let text = print(&format!("custom-columns={columns}"), &one);
            assert_eq!(text.lines().nth(1), Some(cells), "{columns}");
        }
    }

    #[test]
    fn unknown_formats_are_refused_with_a_list_of_the_known_ones() {
        for (format, part) in [
            ("xml", "allowed formats are: custom-columns,json"),
            ("jsonpath", "no template given"),
            ("jsonpath={.a", "unclosed action"),
            ("custom-columns=A", "expected <header>:<json-path-expr>"),
            ("xml=1", "allowed formats"),
        ] {
            let error = format.parse::<Format>().unwrap_err().to_string();
            assert!(error.contains(part), "{format}: {error}");
        }
    }
}

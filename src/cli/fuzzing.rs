//! Entry point of the fuzz target `command_line`: the small languages that select and format objects.

use serde_json::json;

use super::jsonpath::Template;
use super::objects::field_selector::FieldSelector;
use super::pods::format::{Format, Objects, columns_of_file};
use super::selector::Selector;

/// Parses the bytes as a label selector, a field selector, a JSONPath template and custom columns, and applies them.
pub fn command_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let labels = [("app".to_owned(), "web".to_owned()), ("n".to_owned(), "5".to_owned())].into();
    if let Ok(selector) = text.parse::<Selector>() {
        let _ = selector.matches(None);
        let _ = selector.matches(Some(&labels));
    }
    let object = json!({
        "a": [{ "b": 1, "c": "x" }, { "b": 2.5, "c": null }, [0, true]],
        "b": { "a": "y", "c": ["x", "y", "z"], "a.b/c": { "d.e": "w", "f": "v" } },
    });
    if let Ok(selector) = text.parse::<FieldSelector>() {
        let _ = selector.matches(&object);
    }
    let columns = [
        format!("custom-columns={text}").parse::<Format>(),
        columns_of_file(&text),
    ];
    for columns in columns.into_iter().flatten() {
        let _ = columns.print(&Objects::List(vec![object.clone()]), true);
    }
    for template in [Template::parse(&text), Template::parse_relaxed(&text)]
        .into_iter()
        .flatten()
    {
        let _ = template.render(&object);
        let _ = template.render_as_json(&object);
        let _ = template.find(&object);
    }
}

//! Kubernetes' fields with their types and descriptions, from the schemas of `k8s-openapi`.

use std::collections::HashMap;
use std::sync::OnceLock;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::schemars::generate::SchemaSettings;
use k8s_openapi::schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Field {
    /// Its path, with list elements as `[]`: `spec.containers[].image`.
    pub path: String,
    /// Its type in the notation of `kubectl explain`: `string`, `[]Container`, `map[string]string`.
    pub type_name: String,
    pub description: String,
    /// Whether it is required.
    pub required: bool,
    /// Names of its subfields.
    pub fields: Vec<String>,
}

/// All fields of an object.
#[derive(Debug)]
pub struct Schema {
    /// Kubernetes' description of the object.
    pub description: String,
    /// Names of the top-level fields.
    pub fields: Vec<String>,
    all: HashMap<String, Field>,
    by_name: HashMap<String, Vec<String>>,
}

/// A name that is not a field of the object.
#[derive(Debug)]
pub struct Unknown<'s> {
    pub name: String,
    /// The object's fields.
    pub fields: &'s [String],
}

impl Unknown<'_> {
    /// The field that was probably meant.
    pub fn near(&self) -> Option<&str> {
        let fields: Vec<&str> = self.fields.iter().map(String::as_str).collect();
        super::suggest::nearest(&self.name, &fields)
    }
}

/// Deepest nesting that is followed; a Pod has 11 levels.
const MAX_DEPTH: usize = 20;

impl Schema {
    /// The fields of a Pod.
    pub fn of_pod() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(Self::of::<Pod>)
    }

    /// The fields of a type. Takes some time; keep the result.
    pub(crate) fn of<T: JsonSchema>() -> Self {
        let mut generator = SchemaGenerator::new(SchemaSettings::default());
        Self::new(&generator.root_schema_for::<T>().to_value())
    }

    /// Finds a field by its path, with list elements as `[]`.
    pub fn field(&self, path: &str) -> Option<&Field> {
        self.all.get(path)
    }

    /// Finds a field by its path as users write it, without `[]`. The error has the first unknown part and the fields
    /// around it.
    pub fn find(&self, path: &str) -> Result<&Field, Unknown<'_>> {
        let mut found: Option<&Field> = None;
        for name in path.split('.') {
            let prefix = found.map(inside).unwrap_or_default();
            match self.field(&join(&prefix, name)) {
                Some(field) => found = Some(field),
                None => {
                    let fields = found.map_or(&self.fields, |field| &field.fields);
                    return Err(Unknown {
                        name: name.to_owned(),
                        fields,
                    });
                }
            }
        }
        found.ok_or(Unknown {
            name: String::new(),
            fields: &self.fields,
        })
    }

    /// The paths of all fields with this name, sorted by depth.
    pub(crate) fn paths_of(&self, name: &str) -> &[String] {
        self.by_name.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// All fields, each before its subfields.
    #[cfg(test)]
    pub(crate) fn walk(&self) -> Vec<&Field> {
        fn add<'s>(schema: &'s Schema, prefix: &str, names: &[String], all: &mut Vec<&'s Field>) {
            for name in names {
                if let Some(field) = schema.field(&join(prefix, name)) {
                    all.push(field);
                    add(schema, &inside(field), &field.fields, all);
                }
            }
        }
        let mut all = Vec::with_capacity(self.all.len());
        add(self, "", &self.fields, &mut all);
        all
    }

    fn new(root: &Value) -> Self {
        let mut schema = Self {
            description: text(root, "description"),
            fields: Vec::new(),
            all: HashMap::new(),
            by_name: HashMap::new(),
        };
        schema.fields = schema.add(root, root, "", 0);
        for paths in schema.by_name.values_mut() {
            paths.sort_by_key(|path| (path.matches('.').count(), path.clone()));
        }
        schema
    }

    /// Adds the fields of an object and returns their names.
    fn add(&mut self, root: &Value, object: &Value, prefix: &str, depth: usize) -> Vec<String> {
        let properties = object.get("properties").and_then(Value::as_object);
        let required = object.get("required").and_then(Value::as_array);
        let mut names = Vec::new();
        for (name, property) in properties.into_iter().flatten() {
            let path = join(prefix, name);
            let (type_name, target) = resolve(root, property);
            let mut field = Field {
                type_name,
                description: text(property, "description"),
                required: required.is_some_and(|names| names.iter().any(|required| required == name)),
                fields: Vec::new(),
                path,
            };
            if depth < MAX_DEPTH {
                let below = inside(&field);
                field.fields = self.add(root, target, &below, depth + 1);
            }
            self.by_name.entry(name.clone()).or_default().push(field.path.clone());
            self.all.insert(field.path.clone(), field);
            names.push(name.clone());
        }
        names
    }
}

/// The prefix of the paths of a field's subfields.
pub fn inside(field: &Field) -> String {
    if field.type_name.starts_with("[]") {
        format!("{}[]", field.path)
    } else {
        field.path.clone()
    }
}

/// The path of a subfield.
pub fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// A type's name, and the schema that describes its fields.
fn resolve<'v>(root: &'v Value, schema: &'v Value) -> (String, &'v Value) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        let name = reference.rsplit(['/', '.']).next().unwrap_or_default();
        return (name.to_owned(), target.unwrap_or(&Value::Null));
    }
    if let Some(items) = schema.get("items") {
        let (name, target) = resolve(root, items);
        return (format!("[]{name}"), target);
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        return (format!("map[string]{}", resolve(root, values).0), &Value::Null);
    }
    (text(schema, "type"), schema)
}

fn text(schema: &Value, key: &str) -> String {
    schema.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_types_descriptions_and_fields() {
        let schema = Schema::of_pod();
        assert_eq!(schema.fields, ["apiVersion", "kind", "metadata", "spec", "status"]);
        let containers = schema.field("spec.containers").unwrap();
        assert_eq!(
            (containers.type_name.as_str(), containers.required),
            ("[]Container", true)
        );
        assert!(containers.fields.contains(&"image".to_owned()));
        let image = schema.field("spec.containers[].image").unwrap();
        assert!(image.type_name == "string" && image.description.starts_with("Container image name"));
        assert_eq!(schema.field("metadata.labels").unwrap().type_name, "map[string]string");
        assert_eq!(
            schema.field("spec.containers[].resources.limits").unwrap().type_name,
            "map[string]Quantity"
        );
        assert!(schema.paths_of("hostNetwork").contains(&"spec.hostNetwork".to_owned()));
        assert!(schema.walk().len() > 500);
    }

    #[test]
    fn the_schemas_and_the_types_have_the_same_fields() {
        use k8s_openapi::api::core::v1;
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

        use super::super::typed::fields_of;
        let schema = Schema::of_pod();
        for (path, fields) in [
            ("metadata", fields_of::<ObjectMeta>()),
            ("spec", fields_of::<v1::PodSpec>()),
            ("spec.containers", fields_of::<v1::Container>()),
            ("spec.initContainers", fields_of::<v1::Container>()),
            ("spec.ephemeralContainers", fields_of::<v1::EphemeralContainer>()),
            ("spec.volumes", fields_of::<v1::Volume>()),
            ("spec.securityContext", fields_of::<v1::PodSecurityContext>()),
            ("spec.containers[].securityContext", fields_of::<v1::SecurityContext>()),
            ("spec.containers[].livenessProbe", fields_of::<v1::Probe>()),
            ("spec.containers[].env[].valueFrom", fields_of::<v1::EnvVarSource>()),
            ("spec.affinity", fields_of::<v1::Affinity>()),
        ] {
            let mut fields: Vec<&str> = fields.to_vec();
            fields.sort_unstable();
            let mut known = schema.field(path).unwrap().fields.clone();
            known.sort_unstable();
            assert_eq!(known, fields, "{path}");
        }
    }
}

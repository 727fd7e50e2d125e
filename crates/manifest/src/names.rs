//! Kubernetes' rules for names, with its own messages (`apimachinery/pkg/util/validation/validation.go`,
//! `pkg/api/validate/content`).

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
     with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
     start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_NAME_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const ENV_FILE_KEY_MESSAGE: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start \
     with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is \
     '[-._a-zA-Z][-._a-zA-Z0-9]*')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
     start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

const UNDERSCORE_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and \
     must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const CONFIG_MAP_KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
     'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const HTTP_HEADER_MESSAGE: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
     validation is '[-A-Za-z0-9]+')";

/// Maximum length of a DNS label and of the name part of a qualified name, in bytes.
pub(crate) const MAX_LABEL_BYTES: usize = 63;
/// Maximum length of a DNS subdomain, in bytes.
pub(crate) const MAX_SUBDOMAIN_BYTES: usize = 253;

/// `IsDNS1123Label`: names of containers and volumes, namespaces, host names.
pub fn dns_label(name: &str) -> Vec<String> {
    let mut errors = length(name, MAX_LABEL_BYTES);
    if !is_dns_label(name) {
        let only_dots = name.split('.').all(is_dns_label);
        errors.push(if only_dots {
            "must not contain dots".to_owned()
        } else {
            LABEL_MESSAGE.to_owned()
        });
    }
    errors
}

/// `IsDNS1123Subdomain`: names of Pods.
pub fn dns_subdomain(name: &str) -> Vec<String> {
    let mut errors = length(name, MAX_SUBDOMAIN_BYTES);
    if !name.split('.').all(is_dns_label) {
        errors.push(SUBDOMAIN_MESSAGE.to_owned());
    }
    errors
}

/// `IsDNS1123SubdomainWithUnderscore`: DNS search domains.
pub(crate) fn dns_subdomain_with_underscore(name: &str) -> Vec<String> {
    let mut errors = length(name, MAX_SUBDOMAIN_BYTES);
    let is_label = |label: &str| {
        is_dns_label(&label.strip_prefix('_').unwrap_or(label).replace('_', "-")) && !label.ends_with('_')
    };
    if !name.split('.').all(is_label) {
        errors.push(UNDERSCORE_MESSAGE.to_owned());
    }
    errors
}

/// `IsConfigMapKey`: keys of ConfigMaps and Secrets.
pub fn config_map_key(key: &str) -> Vec<String> {
    let mut errors = length(key, MAX_SUBDOMAIN_BYTES);
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if key.is_empty() || !key.bytes().all(valid) {
        errors.push(CONFIG_MAP_KEY_MESSAGE.to_owned());
    }
    match key {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// `IsHTTPHeaderName`
pub(crate) fn http_header(name: &str) -> Vec<String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !name.is_empty() && name.bytes().all(valid) {
        return Vec::new();
    }
    vec![HTTP_HEADER_MESSAGE.to_owned()]
}

/// `IsQualifiedName`: keys of labels and annotations.
pub fn qualified_name(name: &str) -> Vec<String> {
    let (prefix, base) = match name.split_once('/') {
        Some((_, base)) if base.contains('/') => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                QUALIFIED_NAME_MESSAGE.trim_start_matches("name part ")
            )];
        }
        Some((prefix, base)) => (Some(prefix), base),
        None => (None, name),
    };
    let mut errors = Vec::new();
    match prefix {
        Some("") => errors.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => errors.extend(
            dns_subdomain(prefix)
                .into_iter()
                .map(|error| format!("prefix part {error}")),
        ),
        None => {}
    }
    if base.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else {
        errors.extend(
            length(base, MAX_LABEL_BYTES)
                .into_iter()
                .map(|error| format!("name part {error}")),
        );
        if !is_word(base) {
            errors.push(QUALIFIED_NAME_MESSAGE.to_owned());
        }
    }
    errors
}

/// `IsValidLabelValue`.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = length(value, MAX_LABEL_BYTES);
    if !value.is_empty() && !is_word(value) {
        errors.push(LABEL_VALUE_MESSAGE.to_owned());
    }
    errors
}

/// `IsValidPortName`: an IANA service name.
pub(crate) fn port_name(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// `IsRelaxedEnvVarName`.
pub fn variable_name(name: &str) -> Vec<String> {
    if name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A key in an environment file of `kubectl create`, by the older and narrower rule for names of variables
/// (`IsEnvVarName`).
pub fn env_file_key(name: &str) -> Vec<String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let has_digit_first = name.bytes().next().is_some_and(|byte| byte.is_ascii_digit());
    let mut errors = Vec::new();
    if name.is_empty() || has_digit_first || !name.bytes().all(is_allowed) {
        errors.push(ENV_FILE_KEY_MESSAGE.to_owned());
    }
    match name {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if name.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

fn length(name: &str, max: usize) -> Vec<String> {
    if name.len() > max {
        vec![format!("must be no more than {max} bytes")]
    } else {
        Vec::new()
    }
}

fn is_dns_label(name: &str) -> bool {
    let alphanumeric = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    alphanumeric(name.bytes().next())
        && alphanumeric(name.bytes().next_back())
        && name.bytes().all(|byte| alphanumeric(Some(byte)) || byte == b'-')
}

fn is_word(name: &str) -> bool {
    let alphanumeric = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    alphanumeric(name.bytes().next())
        && alphanumeric(name.bytes().next_back())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for name in ["a", "0", "my-name", "123-abc", &"a".repeat(63)] {
            assert_eq!(dns_label(name), Vec::<String>::new(), "{name}");
        }
        for name in ["", "A", "-a", "a-", "a.b", "a_b", "é", &"a".repeat(64)] {
            assert_eq!(dns_label(name).len(), 1, "{name}");
        }
        for name in [
            "a",
            "a.b-c.0",
            &format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61)),
        ] {
            assert_eq!(dns_subdomain(name), Vec::<String>::new(), "{name}");
        }
        for name in ["", ".", "a.", "a..b", "Foo", "a b"] {
            assert_eq!(dns_subdomain(name), [SUBDOMAIN_MESSAGE], "{name}");
        }
        assert_eq!(dns_subdomain(&"a".repeat(254)), ["must be no more than 253 bytes"]);
    }

    #[test]
    fn qualified_names_and_label_values() {
        for name in ["app", "app.kubernetes.io/name", "A_b.c-1"] {
            assert_eq!(qualified_name(name), Vec::<String>::new(), "{name}");
        }
        for name in ["", "/a", "a/", "Ex.com/a", "a/b/c", "a b", "-a"] {
            assert_eq!(qualified_name(name).len(), 1, "{name}");
        }
        assert_eq!(label_value(""), Vec::<String>::new());
        assert_eq!(label_value("v1.2_x"), Vec::<String>::new());
        assert_eq!(label_value("a b"), [LABEL_VALUE_MESSAGE]);
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn port_and_variable_names() {
        assert_eq!(port_name("http-2"), Vec::<String>::new());
        for name in ["", "80", "-a", "a--b", "HTTP", &"a".repeat(16)] {
            assert!(!port_name(name).is_empty(), "{name}");
        }
        assert_eq!(variable_name("my.VAR-1 x"), Vec::<String>::new());
        for name in ["a=b", "a\n", "é"] {
            assert_eq!(variable_name(name).len(), 1, "{name}");
        }
    }

    #[test]
    fn keys_of_environment_files_have_few_characters() {
        for key in ["A", "_a", "my.env-name", "-", ".a"] {
            assert_eq!(env_file_key(key), Vec::<String>::new(), "{key}");
        }
        for key in ["", "1A", "export C", "A ", "é"] {
            assert_eq!(env_file_key(key), [ENV_FILE_KEY_MESSAGE], "{key}");
        }
        assert_eq!(env_file_key("."), ["must not be '.'"]);
        assert_eq!(env_file_key(".."), ["must not be '..'"]);
        assert_eq!(env_file_key("..a"), ["must not start with '..'"]);
    }

    #[test]
    fn keys_of_secrets_headers_and_search_domains() {
        for key in [".dockerconfigjson", "key.name", "KEY_NAME", "a-b", "..."] {
            assert_eq!(config_map_key(key).is_empty(), key != "...", "{key}");
        }
        assert_eq!(config_map_key("").len(), 1);
        assert_eq!(config_map_key("..").len(), 1);
        assert!(http_header("X-Name").is_empty() && !http_header("").is_empty() && !http_header("X Y").is_empty());
        for name in ["a.b", "_tcp.a", "a_b.c", "_a_b"] {
            assert!(dns_subdomain_with_underscore(name).is_empty(), "{name}");
        }
        for name in ["", "_", "a_", "__a", "A", "a..b"] {
            assert_eq!(dns_subdomain_with_underscore(name), [UNDERSCORE_MESSAGE], "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_that_match_the_patterns_are_valid(
            label in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", word in "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?",
            domain in "[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?){0,6}"
        ) {
            prop_assert!(dns_label(&label).is_empty());
            prop_assert!(dns_subdomain(&domain).is_empty());
            prop_assert!(label_value(&word).is_empty());
            prop_assert!(qualified_name(&word).is_empty());
            prop_assert!(qualified_name(&[domain, word].join("/")).is_empty());
        }

        #[test]
        fn one_invalid_character_makes_any_name_invalid(name in "[a-z0-9]{0,20}", foreign in "[ /@:A-Z\u{e4}\u{1f600}\0\n]", at in 0_usize..20) {
            let mut wrong = name;
            let at = at.min(wrong.len());
            wrong.insert_str(at, &foreign);
            prop_assert!(!dns_label(&wrong).is_empty());
            prop_assert!(!dns_subdomain(&wrong).is_empty());
            prop_assert!(!port_name(&wrong).is_empty());
        }

        #[test]
        fn any_text_is_validated_without_a_panic(text in ".{0,80}") {
            let _ = (qualified_name(&text), label_value(&text), variable_name(&text), config_map_key(&text), http_header(&text), env_file_key(&text));
        }
    }
}

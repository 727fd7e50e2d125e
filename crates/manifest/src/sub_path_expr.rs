//! `subPathExpr` of volume mounts: a path with variables of the container (`makeMounts` in
//! `pkg/kubelet/kubelet_pods.go`).

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;

use super::expansion::{TooLong, expand_with};

/// Why a container with such a mount cannot be created. The messages are the kubelet's, but contain the expression
/// instead of its value, which may come from a Secret. The reason is `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubPathExprError {
    /// These variables are empty or do not exist.
    #[error("missing value for {}", .0.join(", "))]
    Missing(Vec<String>),
    #[error("error SubPath `{0}` must not be an absolute path")]
    Absolute(String),
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    Backsteps(String),
    #[error("the expanded subPathExpr is {0}")]
    TooLong(#[from] TooLong),
}

/// The path in the volume. `variables` are those that the manifest defines for the container, without the image's.
///
/// # Errors
/// See [`SubPathExprError`].
pub fn expand<S: BuildHasher>(
    expression: &str,
    variables: &HashMap<String, String, S>,
) -> Result<String, SubPathExprError> {
    let mut missing = BTreeSet::new();
    let path = expand_with(expression, |name| {
        let value = variables.get(name).map_or("", String::as_str);
        if value.is_empty() {
            missing.insert(name.to_owned());
        }
        Some(value)
    })?;
    if !missing.is_empty() {
        return Err(SubPathExprError::Missing(missing.into_iter().collect()));
    }
    if path.starts_with('/') {
        return Err(SubPathExprError::Absolute(expression.to_owned()));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(SubPathExprError::Backsteps(expression.to_owned()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(expression: &str) -> Result<String, String> {
        let variables: HashMap<_, _> = [("POD", "web"), ("EMPTY", ""), ("ROOT", "/etc"), ("UP", "..")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        expand(expression, &variables).map_err(|error| error.to_string())
    }

    #[test]
    fn variables_are_replaced() {
        assert_eq!(expanded("logs/$(POD)/x").as_deref(), Ok("logs/web/x"));
        assert_eq!(expanded("$$(POD)").as_deref(), Ok("$(POD)"));
    }

    #[test]
    fn errors_have_the_kubelets_words() {
        for (expression, error) in [
            ("$(B)/$(EMPTY)/$(A)/$(B)", "missing value for A, B, EMPTY"),
            ("$(ROOT)", "error SubPath `$(ROOT)` must not be an absolute path"),
            (
                "a/$(UP)/b",
                "unable to provision SubPath `a/$(UP)/b`: must not contain '..'",
            ),
        ] {
            assert_eq!(expanded(expression).unwrap_err(), error);
        }
    }
}

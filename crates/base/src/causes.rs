//! Errors with their causes, as one text. `{:#}` is the same for an `anyhow::Error`.

use std::error::Error;

/// The error and its causes, outermost first.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the door")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_told_as_anyhow_tells_them() {
        let error = Outer(std::io::Error::other("no key"));
        assert_eq!(with_causes(&error), "cannot open the door: no key");
        assert_eq!(with_causes(&error), format!("{:#}", anyhow::Error::from(error)));
    }
}

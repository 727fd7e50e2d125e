//! Error chains: formatted as one text (like `{:#}` of an `anyhow::Error`) and searched for an error of a given type.

use std::error::Error;
use std::io;

/// Formats the error and its causes, outermost first.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The last cause in the chain.
pub fn innermost<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

/// The error and its causes, outermost first. An error wrapped in an `io::Error` is included, although it is not the
/// `io::Error`'s source.
pub fn layers<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'e (dyn Error + 'static) = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
}

/// The outermost error of this type among the [`layers`].
pub fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    layers(error).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the door")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_formatted_as_by_anyhow() {
        let error = Outer(std::io::Error::other("no key"));
        assert_eq!(with_causes(&error), "cannot open the door: no key");
        assert_eq!(with_causes(&error), format!("{:#}", anyhow::Error::from(error)));
    }

    #[test]
    fn an_error_wrapped_in_an_io_error_is_found() {
        #[derive(Debug, thiserror::Error)]
        #[error("it is locked")]
        struct Locked;

        let error = Outer(io::Error::other(Locked));
        assert!(find::<Locked>(&error).is_some());
        assert!(find::<std::fmt::Error>(&error).is_none());
        let texts: Vec<String> = layers(&error).map(ToString::to_string).collect();
        assert_eq!(texts, ["cannot open the door", "it is locked", "it is locked"]);
        assert_eq!(innermost(&error).to_string(), "it is locked");
    }
}

//! Log levels and directives of `tracing_subscriber`'s `EnvFilter`, such as `warn,microkube=debug`.

use tracing_subscriber::EnvFilter;

pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Removes the white space around each directive. `EnvFilter` would treat it as part of a module's name, and panics if
/// a multi-byte character follows it.
#[must_use]
pub fn without_spaces(directives: &str) -> String {
    directives.split(',').map(str::trim).collect::<Vec<_>>().join(",")
}

/// Whether `EnvFilter` understands these directives, given as [`without_spaces`] returns them.
pub fn is_valid(directives: &str) -> bool {
    EnvFilter::builder().parse(directives).is_ok()
}

/// Whether each of these directives also names a level. `EnvFilter` reads a word that is not a level as a module, so a
/// misspelt level would enable nothing. A module without a level gets `trace`.
pub fn is_strict(directives: &str) -> bool {
    let names_level = |directive: &str| {
        let level = directive.rsplit('=').next().unwrap_or_default();
        LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known))
    };
    !directives.chars().any(char::is_control) && directives.split(',').all(names_level) && is_valid(directives)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spaces_around_directives_do_not_matter() {
        assert_eq!(without_spaces(" warn , microkube=debug\n"), "warn,microkube=debug");
        assert!(is_valid(&without_spaces(" ä=debug")));
        assert!(is_strict(&without_spaces("warn, microkube=debug")));
        let filter = |text: &str| EnvFilter::builder().parse(without_spaces(text)).unwrap().to_string();
        assert_eq!(filter("warn, debug"), filter("warn,debug"));
    }

    #[test]
    fn a_directive_without_a_level_is_not_strict() {
        for directives in [
            "",
            "microkube",
            "microkube=",
            "microkube=loud",
            "warn,,debug",
            "[span{field=1}]",
        ] {
            assert!(!is_strict(directives), "{directives}");
        }
        for directives in ["off", "WARN", "microkube=Debug", "info,[span{field=1}]=trace"] {
            assert!(is_strict(directives), "{directives}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_checked_without_a_panic(text in "[ a-z=,\\[\\]{}ä€\u{2003}]{0,12}") {
            let _ = is_strict(&without_spaces(&text));
            let _ = is_valid(&without_spaces(&text));
        }
    }
}

//! `$(NAME)` in commands, arguments and variables, by Kubernetes' rules
//! (`third_party/forked/golang/expansion/expand.go`).

use std::collections::HashMap;
use std::hash::BuildHasher;

/// Longest string that Linux passes to a program, without its terminating NUL (`MAX_ARG_STRLEN`).
pub const MAX_EXPANDED_BYTES: usize = 131_071;

/// An expanded string is too long to pass to a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("longer than {MAX_EXPANDED_BYTES} bytes, the limit for one argument or variable")]
pub struct TooLong;

/// Replaces `$(NAME)` with the variable's value. Unknown names stay unchanged; `$$` is an escaped dollar sign.
pub fn expand<S: BuildHasher>(text: &str, variables: &HashMap<String, String, S>) -> Result<String, TooLong> {
    expand_with(text, |name| variables.get(name).map(String::as_str))
}

/// Replaces `$(NAME)` with the result of `value`, if there is one.
pub(super) fn expand_with<'v>(text: &str, mut value: impl FnMut(&str) -> Option<&'v str>) -> Result<String, TooLong> {
    let mut expanded = String::with_capacity(text.len().min(MAX_EXPANDED_BYTES));
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        push(&mut expanded, &rest[..dollar])?;
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            push(&mut expanded, "$")?;
            rest = after;
            continue;
        }
        let name = rest.strip_prefix('(').and_then(|after| after.split_once(')'));
        match name {
            Some((name, after)) => {
                match value(name) {
                    Some(value) => push(&mut expanded, value)?,
                    None => {
                        push(&mut expanded, "$(")?;
                        push(&mut expanded, name)?;
                        push(&mut expanded, ")")?;
                    }
                }
                rest = after;
            }
            None => push(&mut expanded, "$")?,
        }
    }
    push(&mut expanded, rest)?;
    Ok(expanded)
}

fn push(expanded: &mut String, text: &str) -> Result<(), TooLong> {
    if expanded.len() + text.len() > MAX_EXPANDED_BYTES {
        return Err(TooLong);
    }
    expanded.push_str(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variables() -> HashMap<String, String> {
        [
            ("VAR_A", "A"),
            ("VAR_B", "B"),
            ("VAR_REF", "$(VAR_A)"),
            ("VAR_EMPTY", ""),
            ("", "nameless"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn expansion_matches_the_kubernetes_test_cases() {
        // From the tests of Kubernetes' implementation.
        for (input, expected) in [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)-1$(VAR_B)", "A-1B"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$$(VAR_REF)", "$(VAR_REF)"),
            ("%%$(VAR_REF)", "%%$(VAR_A)"),
            ("foo$(VAR_EMPTY)bar", "foobar"),
            ("foo$$(VAR_A)bar", "foo$(VAR_A)bar"),
            ("foo$$$(VAR_A)bar", "foo$Abar"),
            ("$(VAR_A", "$(VAR_A"),
            ("$$$$$$$(VAR_A)", "$$$A"),
            ("$$$$$$(GOOD_EVENS)", "$$$(GOOD_EVENS)"),
            ("$VAR_A", "$VAR_A"),
            ("$", "$"),
            ("$é(VAR_A)", "$é(VAR_A)"),
            ("$(VAR_MISSING) $()", "$(VAR_MISSING) nameless"),
            ("$((VAR_A))", "$((VAR_A))"),
        ] {
            assert_eq!(expand(input, &variables()).unwrap(), expected, "{input}");
        }
    }

    #[test]
    fn the_expanded_size_is_bounded() {
        let variables: HashMap<_, _> = [("A".to_owned(), "x".repeat(1000))].into();
        assert_eq!(expand(&"$(A)".repeat(131), &variables).unwrap().len(), 131_000);
        assert_eq!(expand(&"$(A)".repeat(132), &variables), Err(TooLong));
    }

    proptest! {
        #[test]
        fn without_a_dollar_nothing_changes(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, &variables()).unwrap(), text);
        }

        #[test]
        fn doubling_every_dollar_escapes_any_text(text in "[$()A-Z_x]{0,40}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), &variables()).unwrap(), text);
        }

        #[test]
        fn without_variables_only_pairs_of_dollars_change(text in ".{0,40}") {
            let expanded = expand(&text, &HashMap::new()).unwrap();
            prop_assert_eq!(expanded.replace('$', ""), text.replace('$', ""));
        }
    }
}

//! Label selectors as in `kubectl -l` (`k8s.io/apimachinery/pkg/labels`): `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`.

use std::collections::BTreeMap;
use std::str::FromStr;

use microkube_manifest::names;

/// Longer selectors are refused: a command line of this length is a mistake.
const MAX_BYTES: usize = 64 << 10;

/// All requirements must be met. Without any, it selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    Exists,
    DoesNotExist,
    In(Vec<String>),
    NotIn(Vec<String>),
    GreaterThan(i64),
    LessThan(i64),
}

/// A selector is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse requirement: {0}")]
pub struct SelectorError(String);

impl Selector {
    /// Whether the labels meet all requirements.
    #[must_use]
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key));
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match &requirement.operator {
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
                Operator::LessThan(bound) => number().is_some_and(|number| number < *bound),
            }
        })
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_BYTES {
            return Err(SelectorError(format!("it is longer than {MAX_BYTES} bytes")));
        }
        let mut tokens = Tokens { rest: text };
        let mut requirements = Vec::new();
        if tokens.peek().is_none() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(requirement(&mut tokens)?);
            match tokens.next() {
                None => return Ok(Self(requirements)),
                Some(Token::Symbol(",")) => {}
                Some(token) => return Err(unexpected(Some(token), "',' or the end")),
            }
        }
    }
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement, SelectorError> {
    let negated = tokens.take("!");
    let key = match tokens.next() {
        Some(Token::Word(key)) => key.to_owned(),
        other => return Err(unexpected(other, "a key")),
    };
    if let Some(error) = names::qualified_name(&key).into_iter().next() {
        return Err(SelectorError(format!("key: Invalid value: {key:?}: {error}")));
    }
    let operator = if negated {
        Operator::DoesNotExist
    } else {
        operator(tokens)?
    };
    Ok(Requirement { key, operator })
}

fn operator(tokens: &mut Tokens<'_>) -> Result<Operator, SelectorError> {
    match tokens.peek() {
        None | Some(Token::Symbol(",")) => return Ok(Operator::Exists),
        _ => {}
    }
    Ok(match tokens.next() {
        Some(Token::Symbol("=" | "==")) => Operator::In(vec![value(tokens)?]),
        Some(Token::Symbol("!=")) => Operator::NotIn(vec![value(tokens)?]),
        Some(Token::Symbol(">")) => Operator::GreaterThan(number(tokens)?),
        Some(Token::Symbol("<")) => Operator::LessThan(number(tokens)?),
        Some(Token::Word("in")) => Operator::In(values(tokens)?),
        Some(Token::Word("notin")) => Operator::NotIn(values(tokens)?),
        other => return Err(unexpected(other, "in, notin, =, ==, !=, > or <")),
    })
}

/// A value, which may be empty.
fn value(tokens: &mut Tokens<'_>) -> Result<String, SelectorError> {
    let value = match tokens.peek() {
        Some(Token::Word(_)) => match tokens.next() {
            Some(Token::Word(word)) => word.to_owned(),
            other => return Err(unexpected(other, "a value")),
        },
        None | Some(Token::Symbol("," | ")")) => String::new(),
        other => return Err(unexpected(other, "a value")),
    };
    match names::label_value(&value).into_iter().next() {
        Some(error) => Err(SelectorError(format!("values: Invalid value: {value:?}: {error}"))),
        None => Ok(value),
    }
}

fn number(tokens: &mut Tokens<'_>) -> Result<i64, SelectorError> {
    let value = value(tokens)?;
    value.parse().map_err(|_| {
        SelectorError(format!(
            "values: Invalid value: {value:?}: for > and < the value must be an integer"
        ))
    })
}

/// Values in parentheses.
fn values(tokens: &mut Tokens<'_>) -> Result<Vec<String>, SelectorError> {
    match tokens.next() {
        Some(Token::Symbol("(")) => {}
        other => return Err(unexpected(other, "'('")),
    }
    let mut values = Vec::new();
    loop {
        values.push(value(tokens)?);
        match tokens.next() {
            Some(Token::Symbol(",")) => {}
            Some(Token::Symbol(")")) => return Ok(values),
            other => return Err(unexpected(other, "',' or ')'")),
        }
    }
}

fn unexpected(found: Option<Token<'_>>, expected: &str) -> SelectorError {
    let found = match found {
        Some(Token::Word(text) | Token::Symbol(text)) => text,
        None => "",
    };
    SelectorError(format!("found {found:?}, expected: {expected}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'t> {
    Word(&'t str),
    Symbol(&'t str),
}

struct Tokens<'t> {
    rest: &'t str,
}

impl<'t> Tokens<'t> {
    fn peek(&self) -> Option<Token<'t>> {
        let rest = self.rest.trim_start();
        let symbols = ["==", "!=", "=", "!", ",", "(", ")", ">", "<"];
        if let Some(symbol) = symbols.into_iter().find(|symbol| rest.starts_with(symbol)) {
            return rest.get(..symbol.len()).map(Token::Symbol);
        }
        let end = rest
            .find(|c: char| c.is_whitespace() || "=!,()><".contains(c))
            .unwrap_or(rest.len());
        rest.get(..end).filter(|word| !word.is_empty()).map(Token::Word)
    }

    fn next(&mut self) -> Option<Token<'t>> {
        let token = self.peek()?;
        let (Token::Word(text) | Token::Symbol(text)) = token;
        self.rest = self.rest.trim_start().get(text.len()..).unwrap_or_default();
        Some(token)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = self.peek() == Some(Token::Symbol(symbol));
        if found {
            self.next();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        selector.parse::<Selector>().unwrap().matches(Some(&labels))
    }

    #[test]
    fn every_operator_selects_as_in_kubernetes() {
        let web = [("app", "web"), ("tier", "front"), ("n", "5"), ("empty", "")];
        for selector in [
            "",
            "app=web",
            "app==web",
            "app = web , tier!=back",
            "app in (db, web)",
            "app notin (db)",
            "none notin (a)",
            "none!=a",
            "app",
            "!none",
            "n>4,n<6",
            "empty=",
            "empty in ()",
            "app in (a,,web)",
        ] {
            assert!(matches(selector, &web), "{selector}");
        }
        for selector in [
            "app=db",
            "app!=web",
            "app notin (web)",
            "!app",
            "none",
            "none=",
            "n>5",
            "app>1",
            "app,none",
        ] {
            assert!(!matches(selector, &web), "{selector}");
        }
        assert!(!"a=b".parse::<Selector>().unwrap().matches(None));
        assert!(matches("example.com/a=b", &[("example.com/a", "b")]));
    }

    #[test]
    fn invalid_selectors_are_refused_with_the_expected_syntax() {
        for (selector, part) in [
            ("=a", "found \"=\", expected: a key"),
            ("a=b c", "found \"c\", expected: ',' or the end"),
            ("a in b", "found \"b\", expected: '('"),
            ("a in (b", "found \"\", expected: ',' or ')'"),
            ("a,", "found \"\", expected: a key"),
            ("a b", "expected: in, notin"),
            ("-a=b", "key: Invalid value: \"-a\": name part"),
            ("a=b/c", "values: Invalid value: \"b/c\": a valid label"),
            ("a>b", "must be an integer"),
            ("!a=b", "expected: ',' or the end"),
        ] {
            let error = selector.parse::<Selector>().unwrap_err().to_string();
            assert!(error.contains(part), "{selector}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_selector_or_refused(text in "[ab=!,()<> in1-]{0,40}|\\PC{0,20}") {
            if let Ok(selector) = text.parse::<Selector>() {
                let _ = selector.matches(None);
            }
        }

        #[test]
        fn a_label_matches_its_selector_and_not_the_negation(key in "[a-z]{1,5}", value in "[a-z0-9]{0,5}") {
            prop_assume!(!["in", "notin"].contains(&value.as_str()));
            let labels = [(key.as_str(), value.as_str())];
            let equals = format!("{key}={value}");
            let differs = format!("{key}!={value}");
            let is_in = format!("{key} in ({value})");
            prop_assert!(matches(&equals, &labels));
            prop_assert!(matches(&is_in, &labels));
            prop_assert!(!matches(&differs, &labels));
        }
    }
}

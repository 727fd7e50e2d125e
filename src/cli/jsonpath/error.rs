//! Why a template cannot be parsed or applied, with client-go's messages where it has them.

/// A template cannot be parsed or applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    /// The template is invalid.
    #[error("error parsing jsonpath {template}: {reason}")]
    Parse {
        /// The start of the template.
        template: String,
        /// The problem.
        reason: ParseError,
    },
    /// It cannot be applied to the value.
    #[error("error executing jsonpath {template:?}: Error executing template: {reason}")]
    Evaluate {
        /// The start of the template.
        template: String,
        /// The mismatch.
        reason: EvaluateError,
    },
}

impl JsonPathError {
    pub(super) fn parse(template: &str, reason: ParseError) -> Self {
        let template = start_of(template);
        Self::Parse { template, reason }
    }

    pub(super) fn evaluate(template: &str, reason: EvaluateError) -> Self {
        let template = start_of(template);
        Self::Evaluate { template, reason }
    }
}

/// The part of a template that a message shows.
fn start_of(template: &str) -> String {
    template.chars().take(200).collect()
}

/// Why a template is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the template is longer than {max_bytes} bytes")]
    TooLong { max_bytes: usize },
    #[error("ranges are nested too deeply")]
    DeepRanges,
    #[error("brackets are nested too deeply")]
    DeepBrackets,
    #[error("not in range, nothing to end")]
    EndWithoutRange,
    #[error("unfinished range: {{end}} is missing")]
    UnfinishedRange,
    #[error("unclosed action")]
    UnclosedAction,
    #[error("unterminated filter")]
    UnterminatedFilter,
    #[error("unterminated array")]
    UnterminatedArray,
    #[error("unterminated quoted string")]
    UnterminatedQuotes,
    #[error("invalid escape in quotes")]
    InvalidEscape,
    #[error("invalid multiple recursive descent")]
    RepeatedDescent,
    #[error("unrecognized character in action: U+{:04X} {character:?}", u32::from(*character))]
    UnrecognizedCharacter { character: char },
    #[error("unrecognized identifier {0}")]
    UnrecognizedIdentifier(String),
    #[error("cannot parse number {0}")]
    InvalidNumber(String),
    #[error("invalid array index: found {0:?}, expected ',' or ']'")]
    UnexpectedInBrackets(char),
    #[error("invalid array index {0}")]
    InvalidIndex(String),
    #[error("step must be > 0")]
    InvalidStep,
    #[error("a filter must have the form [?(…)]")]
    FilterWithoutParentheses,
    #[error("unrecognized filter operator {0}")]
    UnrecognizedOperator(String),
    #[error("unexpected {0:?} in a filter, expected a path or a value")]
    UnexpectedInFilter(char),
}

/// Why a template cannot be applied to a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    #[error("expected a single path, without text or ranges")]
    NotOnePath,
    #[error("{0} is not found")]
    NotFound(String),
    #[error("the template visits more than {max} values")]
    TooManyVisits { max: usize },
    #[error("the result is too large")]
    TooLarge,
    /// The type's name in Go.
    #[error("{go_type} is not array or slice")]
    NotAList { go_type: &'static str },
    /// The type's name in Go.
    #[error("{go_type} is not array or slice and cannot be filtered")]
    NotFilterable { go_type: &'static str },
    #[error("can only compare one element at a time")]
    ManyCompared,
    #[error("array index out of bounds: index {index}, length {length}")]
    OutOfBounds { index: i64, length: i64 },
    #[error("starting index {from} is greater than ending index {to}")]
    ReversedSlice { from: i64, to: i64 },
    #[error("invalid type for comparison")]
    NotComparable,
    #[error("incompatible types for comparison")]
    DifferentTypes,
}

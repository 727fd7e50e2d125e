//! The text of a template as tokens.

use crate::quote::code_point;

/// Kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    LeftDelimiter,
    RightDelimiter,
    Space,
    Assign,
    Declare,
    Pipe,
    LeftParenthesis,
    RightParenthesis,
    Dot,
    /// `.name`
    Field,
    /// `$name`
    Variable,
    Identifier,
    Bool,
    Nil,
    /// `if`, `end` and others.
    Keyword,
    Number,
    CharConstant,
    String,
    RawString,
    /// Another character, such as a comma.
    Char,
    /// What is wrong here. No token follows.
    Error,
    End,
}

/// A token, with the offset in the template and the line at which it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) offset: usize,
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            Kind::End => f.write_str("EOF"),
            Kind::Error => f.write_str(&self.text),
            Kind::Keyword | Kind::Nil => write!(f, "<{}>", self.text),
            Kind::Dot => f.write_str("<.>"),
            _ => match self.text.char_indices().nth(10) {
                Some((end, _)) => write!(f, "{}...", crate::quote::quoted(&self.text[..end])),
                None => f.write_str(&crate::quote::quoted(&self.text)),
            },
        }
    }
}

const LEFT: &str = "{{";
const RIGHT: &str = "}}";
const TRIMMING_RIGHT: &str = "-}}";
const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];
const KEYWORDS: [&str; 10] = [
    "block", "break", "continue", "define", "else", "end", "if", "range", "template", "with",
];

/// The tokens of a template. The last one is [`Kind::End`] or [`Kind::Error`].
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        text,
        start: 0,
        at: 0,
        line: 1,
        parentheses: 0,
        tokens: Vec::new(),
    };
    if let Err(message) = lexer.template() {
        lexer.emit(Kind::Error, message);
    }
    lexer.tokens
}

struct Lexer<'t> {
    text: &'t str,
    /// Where the current token starts.
    start: usize,
    at: usize,
    /// The line of `start`.
    line: usize,
    parentheses: usize,
    tokens: Vec<Token>,
}

type Result<T> = std::result::Result<T, String>;

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn current(&self) -> &'t str {
        self.text.get(self.start..self.at).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn emit(&mut self, kind: Kind, text: String) {
        self.tokens.push(Token {
            kind,
            offset: self.start,
            line: self.line,
            text,
        });
        self.ignore();
    }

    fn emit_current(&mut self, kind: Kind) {
        self.emit(kind, self.current().to_owned());
    }

    /// Skips the text from `start`.
    fn ignore(&mut self) {
        self.line += self.current().matches('\n').count();
        self.start = self.at;
    }

    /// Skips the characters that satisfy a condition, and whether there are any.
    fn accept(&mut self, accepts: impl Fn(char) -> bool) -> bool {
        let before = self.at;
        let rest = self.rest();
        self.at += rest.find(|c| !accepts(c)).unwrap_or(rest.len());
        self.at > before
    }

    fn accept_one(&mut self, one_of: &str) -> bool {
        let accepts = self.peek().is_some_and(|c| one_of.contains(c));
        if accepts {
            self.next();
        }
        accepts
    }

    fn skip_spaces(&mut self) {
        self.accept(|c| SPACES.contains(&c));
        self.ignore();
    }

    fn template(&mut self) -> Result<()> {
        loop {
            let rest = self.rest();
            let Some(length) = rest.find(LEFT) else {
                self.at = self.text.len();
                if self.at > self.start {
                    self.emit_current(Kind::Text);
                }
                self.emit(Kind::End, String::new());
                return Ok(());
            };
            let after = &rest[length + LEFT.len()..];
            let trims = after.strip_prefix('-').is_some_and(|after| after.starts_with(SPACES));
            let text = if trims {
                rest[..length].trim_end_matches(SPACES)
            } else {
                &rest[..length]
            };
            self.at += text.len();
            if !text.is_empty() {
                self.emit_current(Kind::Text);
            }
            self.at += length - text.len();
            self.ignore();
            self.at += LEFT.len();
            let marker = if trims { 2 } else { 0 };
            if self.rest().get(marker..).is_some_and(|rest| rest.starts_with("/*")) {
                self.at += marker;
                self.ignore();
                self.comment()?;
                continue;
            }
            self.emit_current(Kind::LeftDelimiter);
            self.at += marker;
            self.ignore();
            self.parentheses = 0;
            while self.inside_action()? {}
        }
    }

    fn comment(&mut self) -> Result<()> {
        let end = self.rest().find("*/").ok_or("unclosed comment")?;
        self.at += end + "*/".len();
        let (length, trims) = self.right_delimiter().ok_or("comment ends before closing delimiter")?;
        self.at += length;
        self.ignore();
        if trims {
            self.skip_spaces();
        }
        Ok(())
    }

    /// The length of the right delimiter that starts here, with its marker, and whether it trims.
    fn right_delimiter(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        if rest.starts_with(RIGHT) {
            return Some((RIGHT.len(), false));
        }
        let trims = rest
            .strip_prefix(SPACES)
            .is_some_and(|rest| rest.starts_with(TRIMMING_RIGHT));
        trims.then_some((1 + TRIMMING_RIGHT.len(), true))
    }

    /// Reads a token, and whether the action continues.
    fn inside_action(&mut self) -> Result<bool> {
        if let Some((length, trims)) = self.right_delimiter() {
            if self.parentheses > 0 {
                return Err("unclosed left paren".to_owned());
            }
            if trims {
                self.at += length - RIGHT.len();
                self.ignore();
            }
            self.at += RIGHT.len();
            self.emit_current(Kind::RightDelimiter);
            if trims {
                self.skip_spaces();
            }
            return Ok(false);
        }
        let Some(first) = self.next() else {
            return Err("unclosed action".to_owned());
        };
        match first {
            ' ' | '\t' | '\r' | '\n' => {
                // The last space can belong to the right delimiter.
                while self.right_delimiter_starts_before().is_none() && self.accept_one(" \t\r\n") {}
                if self.right_delimiter_starts_before().is_some() {
                    self.at -= 1;
                }
                if self.at > self.start {
                    self.emit_current(Kind::Space);
                }
            }
            '=' => self.emit_current(Kind::Assign),
            ':' => {
                if !self.accept_one("=") {
                    return Err("expected :=".to_owned());
                }
                self.emit_current(Kind::Declare);
            }
            '|' => self.emit_current(Kind::Pipe),
            '"' => self.quoted('"', Kind::String, "unterminated quoted string")?,
            '\'' => self.quoted('\'', Kind::CharConstant, "unterminated character constant")?,
            '`' => {
                let length = self.rest().find('`').ok_or("unterminated raw quoted string")?;
                self.at += length + 1;
                self.emit_current(Kind::RawString);
            }
            '$' => self.name(Kind::Variable)?,
            '.' if !self.peek().is_some_and(|c| c.is_ascii_digit()) => self.name(Kind::Field)?,
            '.' | '+' | '-' | '0'..='9' => {
                self.at = self.start;
                self.number()?;
            }
            '(' => {
                self.parentheses += 1;
                self.emit_current(Kind::LeftParenthesis);
            }
            ')' => {
                self.parentheses = self.parentheses.checked_sub(1).ok_or("unexpected right paren")?;
                self.emit_current(Kind::RightParenthesis);
            }
            c if is_alphanumeric(c) => self.name(Kind::Identifier)?,
            c if c.is_ascii() && !c.is_ascii_control() => self.emit_current(Kind::Char),
            c => return Err(format!("unrecognized character in action: {}", code_point(c))),
        }
        Ok(true)
    }

    /// The trimming delimiter whose space was just read.
    fn right_delimiter_starts_before(&self) -> Option<()> {
        self.rest().starts_with(TRIMMING_RIGHT).then_some(())
    }

    fn quoted(&mut self, quote: char, kind: Kind, unterminated: &str) -> Result<()> {
        loop {
            match self.next() {
                Some('\\') if !matches!(self.peek(), None | Some('\n')) => {
                    self.next();
                }
                Some(c) if c == quote => break,
                None | Some('\\' | '\n') => return Err(unterminated.to_owned()),
                Some(_) => {}
            }
        }
        self.emit_current(kind);
        Ok(())
    }

    /// A field, variable or word, whose first character is read.
    fn name(&mut self, kind: Kind) -> Result<()> {
        self.accept(is_alphanumeric);
        if !self.is_at_terminator() {
            let bad = self.peek().map(code_point).unwrap_or_default();
            return Err(format!("bad character {bad}"));
        }
        let word = self.current();
        self.emit_current(match (kind, word) {
            (Kind::Field, ".") => Kind::Dot,
            (Kind::Identifier, "true" | "false") => Kind::Bool,
            (Kind::Identifier, "nil") => Kind::Nil,
            (Kind::Identifier, word) if KEYWORDS.contains(&word) => Kind::Keyword,
            _ => kind,
        });
        Ok(())
    }

    fn is_at_terminator(&self) -> bool {
        match self.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | '(' | ')') => true,
            Some(_) => self.rest().starts_with(RIGHT),
        }
    }

    fn number(&mut self) -> Result<()> {
        self.accept_one("+-");
        let mut digits = "0123456789_";
        let mut exponent = "eE";
        if self.accept_one("0") {
            if self.accept_one("xX") {
                digits = "0123456789abcdefABCDEF_";
                exponent = "pP";
            } else if self.accept_one("oO") {
                digits = "01234567_";
            } else if self.accept_one("bB") {
                digits = "01_";
            }
        }
        self.accept(|c| digits.contains(c));
        if self.accept_one(".") {
            self.accept(|c| digits.contains(c));
        }
        if digits.len() != "01_".len() && digits.len() != "01234567_".len() && self.accept_one(exponent) {
            self.accept_one("+-");
            self.accept(|c| c.is_ascii_digit() || c == '_');
        }
        self.accept_one("i");
        if self.peek().is_some_and(is_alphanumeric) {
            self.next();
            return Err(format!("bad number syntax: {}", crate::quote::quoted(self.current())));
        }
        let text = self.current();
        if text.len() > 1 && text[1..].contains(['+', '-']) || !matches!(self.peek(), Some('+' | '-')) {
            self.emit_current(Kind::Number);
            return Ok(());
        }
        // The start of a complex number.
        self.next();
        Err(format!("bad number syntax: {}", crate::quote::quoted(self.current())))
    }
}

pub(crate) fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

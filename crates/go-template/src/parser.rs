//! Tokens to a parsed template.

use std::collections::BTreeMap;

use crate::NAME;
use crate::error::ParseError;
use crate::functions;
use crate::lexer::{Kind, Token, tokens};
use crate::node::{Branch, Call, Command, Node, Operand, Pipe, Term};
use crate::number;
use crate::quote::{quoted, unquoted};

/// Maximum size of a template.
pub const MAX_TEMPLATE_BYTES: usize = 64 << 10;

/// How deep actions, parentheses and branches are nested at most.
const MAX_NESTING: usize = 100;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub(crate) text: String,
    /// The bodies by the templates' names; the first is called [`NAME`].
    pub(crate) bodies: BTreeMap<String, Vec<Node>>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// If the template is invalid, too large, or nested too deeply.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(ParseError {
                line: 1,
                message: format!("the template is larger than {MAX_TEMPLATE_BYTES} bytes"),
            });
        }
        let tokens = tokens(text);
        let mut parser = Parser {
            tokens: &tokens,
            at: 0,
            variables: vec!["$".to_owned()],
            ranges: 0,
            nesting: 0,
            action_line: None,
            bodies: BTreeMap::new(),
        };
        parser.template()?;
        let bodies = parser.bodies;
        Ok(Self {
            text: text.to_owned(),
            bodies,
        })
    }

    /// The text from which the template was read.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

/// A part of a body, or what ends it.
enum Item {
    Node(Node),
    End,
    Else,
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::End => "{{end}}",
            Self::Else => "{{else}}",
            Self::Node(_) => "an action",
        })
    }
}

struct Parser<'t> {
    /// Never empty.
    tokens: &'t [Token],
    at: usize,
    variables: Vec<String>,
    /// Number of ranges around this place.
    ranges: usize,
    nesting: usize,
    action_line: Option<usize>,
    bodies: BTreeMap<String, Vec<Node>>,
}

impl<'t> Parser<'t> {
    /// The current token; the last one repeats.
    fn peek(&self) -> &'t Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> &'t Token {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len());
        token
    }

    fn skip_spaces(&mut self) {
        while self.peek().kind == Kind::Space {
            self.next();
        }
    }

    fn peek_word(&mut self) -> &'t Token {
        self.skip_spaces();
        self.peek()
    }

    fn next_word(&mut self) -> &'t Token {
        self.skip_spaces();
        self.next()
    }

    /// The error is at the last token that was read.
    fn error(&self, message: impl Into<String>) -> ParseError {
        let last = self.at.saturating_sub(1).min(self.tokens.len() - 1);
        ParseError {
            line: self.tokens[last].line,
            message: message.into(),
        }
    }

    fn unexpected(&self, token: &Token, context: &str) -> ParseError {
        if token.kind != Kind::Error {
            return self.error(format!("unexpected {token} in {context}"));
        }
        let message = match self.action_line.filter(|line| *line != token.line) {
            Some(line) if token.text.ends_with(" action") => {
                format!("{token} started at {NAME}:{line}")
            }
            Some(line) => format!("{token} in action started at {NAME}:{line}"),
            None => token.to_string(),
        };
        self.error(message)
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting == MAX_NESTING {
            return Err(self.error(format!("actions are nested more than {MAX_NESTING} levels deep")));
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    fn template(&mut self) -> Result<()> {
        let mut body = Vec::new();
        while self.peek().kind != Kind::End {
            let before = self.at;
            if self.peek().kind == Kind::LeftDelimiter {
                self.next();
                if is_keyword(self.next_word(), "define") {
                    self.definition()?;
                    continue;
                }
                self.at = before;
            }
            match self.item()? {
                Item::Node(node) => body.push(node),
                end => return Err(self.error(format!("unexpected {end}"))),
            }
        }
        self.add(NAME.to_owned(), body)
    }

    /// A later template replaces an empty one, and an empty one none.
    fn add(&mut self, name: String, body: Vec<Node>) -> Result<()> {
        match self.bodies.get(&name) {
            Some(existing) if !is_empty(existing) => {
                if !is_empty(&body) {
                    let name = quoted(&name);
                    return Err(self.error(format!("template: multiple definition of template {name}")));
                }
            }
            _ => {
                self.bodies.insert(name, body);
            }
        }
        Ok(())
    }

    fn definition(&mut self) -> Result<()> {
        const CONTEXT: &str = "define clause";
        let name = self.template_name(CONTEXT)?;
        self.expect(Kind::RightDelimiter, CONTEXT)?;
        self.separate_body(name, CONTEXT)
    }

    /// A body that has variables for itself.
    fn separate_body(&mut self, name: String, context: &str) -> Result<()> {
        let variables = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (body, end) = self.nested(Self::body)?;
        if !matches!(end, Item::End) {
            return Err(self.error(format!("unexpected {end} in {context}")));
        }
        self.variables = variables;
        self.ranges = ranges;
        self.add(name, body)
    }

    fn template_name(&mut self, context: &str) -> Result<String> {
        let token = self.next_word();
        match token.kind {
            Kind::String | Kind::RawString => self.string(token),
            _ => Err(self.unexpected(token, context)),
        }
    }

    fn string(&self, token: &Token) -> Result<String> {
        let text = match token.kind {
            Kind::RawString => Some(token.text.trim_matches('`').replace('\r', "")),
            _ => unquoted(&token.text),
        };
        text.ok_or_else(|| self.error("invalid syntax"))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Result<()> {
        let token = self.next_word();
        if token.kind == kind {
            Ok(())
        } else {
            Err(self.unexpected(token, context))
        }
    }

    /// The parts up to an `end` or `else`.
    fn body(&mut self) -> Result<(Vec<Node>, Item)> {
        let mut nodes = Vec::new();
        while self.peek_word().kind != Kind::End {
            match self.item()? {
                Item::Node(node) => nodes.push(node),
                end => return Ok((nodes, end)),
            }
        }
        self.next();
        Err(self.error("unexpected EOF"))
    }

    fn item(&mut self) -> Result<Item> {
        let token = self.next_word();
        match token.kind {
            Kind::Text => Ok(Item::Node(Node::Text(token.text.clone()))),
            Kind::LeftDelimiter => {
                self.action_line = Some(token.line);
                let item = self.action();
                self.action_line = None;
                item
            }
            _ => Err(self.unexpected(token, "input")),
        }
    }

    fn action(&mut self) -> Result<Item> {
        let token = self.peek_word();
        if token.kind != Kind::Keyword || token.text == "define" {
            return Ok(Item::Node(Node::Action(self.pipe("command", Kind::RightDelimiter)?)));
        }
        self.next();
        Ok(Item::Node(match token.text.as_str() {
            "end" => {
                self.expect(Kind::RightDelimiter, "end")?;
                return Ok(Item::End);
            }
            "else" => {
                let next = self.peek_word();
                if !is_keyword(next, "if") && !is_keyword(next, "with") {
                    self.expect(Kind::RightDelimiter, "else")?;
                }
                return Ok(Item::Else);
            }
            "if" => Node::If(self.branch("if")?),
            "with" => Node::With(self.branch("with")?),
            "range" => Node::Range(self.branch("range")?),
            "break" => self.loop_control("{{break}}", Node::Break)?,
            "continue" => self.loop_control("{{continue}}", Node::Continue)?,
            "block" => Node::Template(self.block()?),
            _ => Node::Template(self.call()?),
        }))
    }

    fn loop_control(&mut self, action: &str, node: Node) -> Result<Node> {
        self.expect(Kind::RightDelimiter, action)?;
        if self.ranges == 0 {
            return Err(self.error(format!("{action} outside {{{{range}}}}")));
        }
        Ok(node)
    }

    fn branch(&mut self, context: &str) -> Result<Branch> {
        let variables = self.variables.len();
        let branch = self.nested(|parser| parser.branch_parts(context));
        self.variables.truncate(variables);
        branch
    }

    fn branch_parts(&mut self, context: &str) -> Result<Branch> {
        let is_range = usize::from(context == "range");
        let pipe = self.pipe(context, Kind::RightDelimiter)?;
        self.ranges += is_range;
        let (body, mut end) = self.body()?;
        self.ranges -= is_range;
        let mut otherwise = Vec::new();
        if matches!(end, Item::Else) {
            let token = self.peek_word();
            // One `end` ends both.
            if context == "if" && is_keyword(token, "if") {
                self.next();
                otherwise.push(Node::If(self.branch("if")?));
            } else if context == "with" && is_keyword(token, "with") {
                self.next();
                otherwise.push(Node::With(self.branch("with")?));
            } else {
                (otherwise, end) = self.body()?;
                if !matches!(end, Item::End) {
                    return Err(self.error(format!("expected end; found {end}")));
                }
            }
        }
        Ok(Branch { pipe, body, otherwise })
    }

    fn call(&mut self) -> Result<Call> {
        const CONTEXT: &str = "template clause";
        let offset = self.peek_word().offset;
        let name = self.template_name(CONTEXT)?;
        let pipe = if self.peek_word().kind == Kind::RightDelimiter {
            self.next();
            None
        } else {
            Some(self.pipe(CONTEXT, Kind::RightDelimiter)?)
        };
        Ok(Call { offset, name, pipe })
    }

    /// A definition, and a call of it.
    fn block(&mut self) -> Result<Call> {
        const CONTEXT: &str = "block clause";
        let offset = self.peek_word().offset;
        let name = self.template_name(CONTEXT)?;
        let pipe = Some(self.pipe(CONTEXT, Kind::RightDelimiter)?);
        self.separate_body(name.clone(), CONTEXT)?;
        Ok(Call { offset, name, pipe })
    }

    fn pipe(&mut self, context: &str, end: Kind) -> Result<Pipe> {
        self.nested(|parser| parser.pipe_parts(context, end))
    }

    fn pipe_parts(&mut self, context: &str, end: Kind) -> Result<Pipe> {
        let mut pipe = Pipe {
            offset: self.peek_word().offset,
            variables: Vec::new(),
            assigns: false,
            commands: Vec::new(),
        };
        self.declarations(&mut pipe, context)?;
        loop {
            let token = self.peek_word();
            match token.kind {
                kind if kind == end => {
                    self.next();
                    break;
                }
                Kind::Bool
                | Kind::CharConstant
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawString
                | Kind::String
                | Kind::Variable
                | Kind::LeftParenthesis => {
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => {
                    self.next();
                    return Err(self.unexpected(token, context));
                }
            }
        }
        if pipe.commands.is_empty() {
            return Err(self.error(format!("missing value for {context}")));
        }
        for (index, command) in pipe.commands.iter().enumerate().skip(1) {
            let first = command.operands.first().map(|operand| &operand.term);
            if let Some(Term::Bool(_) | Term::Dot | Term::Nil | Term::Number { .. } | Term::String { .. }) = first {
                let stage = index + 1;
                return Err(self.error(format!("non executable command in pipeline stage {stage}")));
            }
        }
        Ok(pipe)
    }

    /// `$x :=`, `$x =`, and in ranges `$i, $x :=`
    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<()> {
        loop {
            let variable = self.peek_word();
            if variable.kind != Kind::Variable {
                return Ok(());
            }
            let before = self.at;
            self.next();
            let sign = self.peek_word();
            match sign.kind {
                Kind::Assign | Kind::Declare => {
                    pipe.assigns = sign.kind == Kind::Assign;
                    self.next();
                    pipe.variables.push(variable.text.clone());
                    self.variables.push(variable.text.clone());
                    return Ok(());
                }
                Kind::Char if sign.text == "," => {
                    self.next();
                    pipe.variables.push(variable.text.clone());
                    self.variables.push(variable.text.clone());
                    if context != "range" || pipe.variables.len() > 1 {
                        return Err(self.error(format!("too many declarations in {context}")));
                    }
                    let next = self.peek_word().kind;
                    if !matches!(next, Kind::Variable | Kind::RightDelimiter | Kind::RightParenthesis) {
                        return Err(self.error("range can only initialize variables"));
                    }
                }
                _ => {
                    self.at = before;
                    return Ok(());
                }
            }
        }
    }

    fn command(&mut self) -> Result<Command> {
        let offset = self.peek_word().offset;
        let mut operands = Vec::new();
        loop {
            self.skip_spaces();
            if let Some(operand) = self.operand()? {
                operands.push(operand);
            }
            let token = self.peek();
            match token.kind {
                Kind::Space => {}
                Kind::RightDelimiter | Kind::RightParenthesis => break,
                Kind::Pipe => {
                    self.next();
                    break;
                }
                _ => {
                    self.next();
                    return Err(self.unexpected(token, "operand"));
                }
            }
        }
        if operands.is_empty() {
            return Err(self.error("empty command"));
        }
        Ok(Command { offset, operands })
    }

    /// A term with the fields after it.
    fn operand(&mut self) -> Result<Option<Operand>> {
        let Some(mut operand) = self.term()? else {
            return Ok(None);
        };
        let first = self.peek();
        let mut fields = Vec::new();
        while self.peek().kind == Kind::Field {
            fields.push(field(self.next()));
        }
        if fields.is_empty() {
            return Ok(Some(operand));
        }
        match &mut operand.term {
            Term::Field(of) | Term::Variable { fields: of, .. } => {
                of.extend(fields);
                operand.offset = first.offset;
            }
            Term::Bool(_) | Term::String { .. } | Term::Number { .. } | Term::Nil | Term::Dot => {
                let term = quoted(&operand.term.to_string());
                return Err(self.error(format!("unexpected . after term {term}")));
            }
            _ => {
                let of = Box::new(operand);
                operand = Operand {
                    offset: first.offset,
                    term: Term::Chain { of, fields },
                };
            }
        }
        Ok(Some(operand))
    }

    fn term(&mut self) -> Result<Option<Operand>> {
        let token = self.peek_word();
        let before = self.at;
        self.next();
        let term = match token.kind {
            Kind::Identifier => {
                if !functions::exists(&token.text) {
                    let name = quoted(&token.text);
                    return Err(self.error(format!("function {name} not defined")));
                }
                Term::Function(token.text.clone())
            }
            Kind::Dot => Term::Dot,
            Kind::Nil => Term::Nil,
            Kind::Variable => {
                if !self.variables.contains(&token.text) {
                    let name = quoted(&token.text);
                    return Err(self.error(format!("undefined variable {name}")));
                }
                let name = token.text.clone();
                let fields = Vec::new();
                Term::Variable { name, fields }
            }
            Kind::Field => Term::Field(vec![field(token)]),
            Kind::Bool => Term::Bool(token.text == "true"),
            Kind::CharConstant | Kind::Number => {
                let read = if token.kind == Kind::Number {
                    number::of_text(&token.text)
                } else {
                    number::of_character(&token.text)
                };
                let number = read.map_err(|message| self.error(message))?;
                let text = token.text.clone();
                Term::Number { text, number }
            }
            Kind::LeftParenthesis => Term::Pipe(Box::new(self.pipe("parenthesized pipeline", Kind::RightParenthesis)?)),
            Kind::String | Kind::RawString => Term::String {
                text: self.string(token)?,
                quoted: token.text.clone(),
            },
            _ => {
                self.at = before;
                return Ok(None);
            }
        };
        let offset = token.offset;
        Ok(Some(Operand { offset, term }))
    }
}

fn field(token: &Token) -> String {
    token.text.trim_start_matches('.').to_owned()
}

fn is_keyword(token: &Token, keyword: &str) -> bool {
    token.kind == Kind::Keyword && token.text == keyword
}

/// Whether a body has only white space.
fn is_empty(body: &[Node]) -> bool {
    body.iter()
        .all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
}

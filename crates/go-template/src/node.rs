//! The parts of a parsed template, and their text in messages.

use std::fmt::{Display, Formatter, Result};

use crate::number::Number;

/// A part of a template's body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Text(String),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template(Call),
    Break,
    Continue,
}

/// `{{if}}`, `{{with}}` or `{{range}}`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Branch {
    pub(crate) pipe: Pipe,
    pub(crate) body: Vec<Node>,
    pub(crate) otherwise: Vec<Node>,
}

/// `{{template "name" pipe}}`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) offset: usize,
    pub(crate) name: String,
    pub(crate) pipe: Option<Pipe>,
}

/// `$x := a | b`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pipe {
    pub(crate) offset: usize,
    pub(crate) variables: Vec<String>,
    /// The variables exist already.
    pub(crate) assigns: bool,
    pub(crate) commands: Vec<Command>,
}

/// A function or value, with arguments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Command {
    pub(crate) offset: usize,
    /// Never empty.
    pub(crate) operands: Vec<Operand>,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operand {
    pub(crate) offset: usize,
    pub(crate) term: Term,
}

/// What an operand is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Term {
    Dot,
    Nil,
    Bool(bool),
    Number {
        text: String,
        number: Number,
    },
    String {
        quoted: String,
        text: String,
    },
    /// `.a.b`
    Field(Vec<String>),
    /// `$x.a`; the name includes the dollar sign.
    Variable {
        name: String,
        fields: Vec<String>,
    },
    Function(String),
    Pipe(Box<Pipe>),
    /// `(pipe).a`
    Chain {
        of: Box<Operand>,
        fields: Vec<String>,
    },
}

impl Display for Term {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let write_fields =
            |f: &mut Formatter<'_>, fields: &[String]| fields.iter().try_for_each(|field| write!(f, ".{field}"));
        match self {
            Self::Dot => f.write_str("."),
            Self::Nil => f.write_str("nil"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number { text, .. } => f.write_str(text),
            Self::String { quoted, .. } => f.write_str(quoted),
            Self::Field(fields) => write_fields(f, fields),
            Self::Variable { name, fields } => {
                f.write_str(name)?;
                write_fields(f, fields)
            }
            Self::Function(name) => f.write_str(name),
            Self::Pipe(pipe) => write!(f, "{pipe}"),
            Self::Chain { of, fields } => {
                if matches!(of.term, Self::Pipe(_)) {
                    write!(f, "({})", of.term)?;
                } else {
                    write!(f, "{}", of.term)?;
                }
                write_fields(f, fields)
            }
        }
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (index, operand) in self.operands.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            if matches!(operand.term, Term::Pipe(_)) {
                write!(f, "({})", operand.term)?;
            } else {
                write!(f, "{}", operand.term)?;
            }
        }
        Ok(())
    }
}

impl Display for Pipe {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if !self.variables.is_empty() {
            let sign = if self.assigns { "=" } else { ":=" };
            write!(f, "{} {sign} ", self.variables.join(", "))?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            if index > 0 {
                f.write_str(" | ")?;
            }
            write!(f, "{command}")?;
        }
        Ok(())
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{{{{template {}", crate::quote::quoted(&self.name))?;
        if let Some(pipe) = &self.pipe {
            write!(f, " {pipe}")?;
        }
        f.write_str("}}")
    }
}

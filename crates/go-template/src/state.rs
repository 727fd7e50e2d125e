//! The state of an execution: variables, the place for messages, and bounds.

use std::fmt::{Display, Formatter};

use crate::NAME;
use crate::node::{Call, Command, Operand, Pipe, Term};
use crate::output::{MAX_OUTPUT_BYTES, Output};
use crate::value::Val;

/// Maximum number of parts that an execution evaluates.
const MAX_STEPS: usize = 10_000_000;

/// How deep bodies and pipelines are nested at most, including those of the templates that are called.
const MAX_DEPTH: usize = 400;

/// What was evaluated last.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    Operand(&'a Operand),
    Command(&'a Command),
    Pipe(&'a Pipe),
    Call(&'a Call),
}

impl Place<'_> {
    fn offset(&self) -> usize {
        match self {
            Self::Operand(operand) => operand.offset,
            Self::Command(command) => command.offset,
            Self::Pipe(pipe) => pipe.offset,
            Self::Call(call) => call.offset,
        }
    }
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Operand(operand) => match &operand.term {
                Term::Pipe(pipe) => pipe.fmt(f),
                term => term.fmt(f),
            },
            Self::Command(command) => command.fmt(f),
            Self::Pipe(pipe) => pipe.fmt(f),
            Self::Call(call) => call.fmt(f),
        }
    }
}

/// The state of an execution.
#[derive(Debug)]
pub(crate) struct State<'a> {
    /// The template's text.
    text: &'a str,
    /// The template that is executing.
    pub(crate) name: &'a str,
    pub(crate) output: Output,
    pub(crate) variables: Vec<(&'a str, Val<'a>)>,
    pub(crate) place: Option<Place<'a>>,
    steps: usize,
    depth: usize,
}

impl<'a> State<'a> {
    pub(crate) fn new(text: &'a str, data: Val<'a>) -> Self {
        Self {
            text,
            name: NAME,
            output: Output::new(MAX_OUTPUT_BYTES),
            variables: vec![("$", data)],
            place: None,
            steps: 0,
            depth: 0,
        }
    }

    /// The message with the place.
    pub(crate) fn error(&self, message: impl Display) -> String {
        let Some(place) = self.place else {
            return format!("template: {}: {message}", self.name);
        };
        let before = self.text.get(..place.offset()).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |end| end + 1);
        let name = crate::quote::quoted(self.name);
        format!("template: {NAME}:{line}:{column}: executing {name} at <{place}>: {message}")
    }

    /// Counts work.
    ///
    /// # Errors
    /// If it is too much.
    pub(crate) fn step(&mut self, work: usize) -> Result<(), String> {
        self.steps = self.steps.saturating_add(work);
        if self.steps > MAX_STEPS {
            return Err(self.error(format!("the template takes more than {MAX_STEPS} steps")));
        }
        if self.output.is_full() {
            return Err(self.error(format!("the output is longer than {MAX_OUTPUT_BYTES} bytes")));
        }
        Ok(())
    }

    /// Counts a level, which ends with [`State::leave`].
    ///
    /// # Errors
    /// If there are too many.
    pub(crate) fn enter(&mut self) -> Result<(), String> {
        self.step(1)?;
        if self.depth == MAX_DEPTH {
            return Err(self.error(format!("exceeded maximum template depth ({MAX_DEPTH})")));
        }
        self.depth += 1;
        Ok(())
    }

    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    pub(crate) fn variable(&self, name: &str) -> Result<Val<'a>, String> {
        let found = self.variables.iter().rev().find(|(known, _)| *known == name);
        match found {
            Some((_, value)) => Ok(value.clone()),
            None => Err(self.error(format!("undefined variable: {name}"))),
        }
    }

    pub(crate) fn assign(&mut self, name: &str, value: Val<'a>) -> Result<(), String> {
        match self.variables.iter_mut().rev().find(|(known, _)| *known == name) {
            Some((_, variable)) => {
                *variable = value;
                Ok(())
            }
            None => Err(self.error(format!("undefined variable: {name}"))),
        }
    }
}

//! Applying a template to a value.

use serde_json::Value;

use crate::NAME;
use crate::error::ExecuteError;
use crate::format::write_plain;
use crate::functions::{self, InMessages, Parameter};
use crate::node::{Branch, Call, Command, Node, Operand, Pipe, Term};
use crate::number::Number;
use crate::parser::Template;
use crate::quote::quoted;
use crate::state::{Place, State};
use crate::value::{IntType, Val};

impl Template {
    /// The text that the template makes of a value. Missing keys are printed as `<no value>` if they are allowed.
    ///
    /// # Errors
    /// If the template does not fit the value, or takes too many steps or too much output. Some of Go's messages contain
    /// parts of the value.
    pub fn render(&self, value: &Value, allows_missing: bool) -> Result<String, ExecuteError> {
        self.execute(value, allows_missing, InMessages::Shown)
    }

    /// As [`Template::render`], but without parts of the value in messages: for values that are secret.
    ///
    /// # Errors
    /// As those of [`Template::render`].
    pub fn render_secret(&self, value: &Value, allows_missing: bool) -> Result<String, ExecuteError> {
        self.execute(value, allows_missing, InMessages::Hidden)
    }

    fn execute(&self, value: &Value, allows_missing: bool, values: InMessages) -> Result<String, ExecuteError> {
        let data = Val::Boxed(value).unboxed();
        let mut execution = Execution {
            template: self,
            allows_missing,
            values,
            state: State::new(&self.text, data.clone()),
        };
        let body = self.bodies.get(NAME).map(Vec::as_slice).unwrap_or_default();
        match execution.body(&data, body) {
            Ok(_) if execution.state.output.is_full() => {
                let message = execution.state.error("the output is too long");
                let output = execution.state.output.text;
                Err(ExecuteError { message, output })
            }
            Ok(_) => Ok(execution.state.output.text),
            Err(message) => {
                let output = execution.state.output.text;
                Err(ExecuteError { message, output })
            }
        }
    }
}

type Result<T, E = String> = std::result::Result<T, E>;

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Normal,
    Break,
    Continue,
}

struct Execution<'a> {
    template: &'a Template,
    allows_missing: bool,
    values: InMessages,
    state: State<'a>,
}

impl<'a> Execution<'a> {
    fn body(&mut self, dot: &Val<'a>, nodes: &'a [Node]) -> Result<Flow> {
        self.state.enter()?;
        let mut flow = Flow::Normal;
        for node in nodes {
            flow = self.node(dot, node)?;
            if flow != Flow::Normal {
                break;
            }
        }
        self.state.leave();
        Ok(flow)
    }

    fn node(&mut self, dot: &Val<'a>, node: &'a Node) -> Result<Flow> {
        self.state.step(1)?;
        match node {
            Node::Text(text) => self.state.output.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(dot, pipe)?;
                if pipe.variables.is_empty() {
                    match value {
                        Val::Missing => self.state.output.push_str("<no value>"),
                        value => write_plain(&mut self.state.output, &value),
                    }
                }
            }
            Node::If(branch) | Node::With(branch) => {
                return self.branch(dot, branch, matches!(node, Node::With(_)));
            }
            Node::Range(branch) => return self.range(dot, branch),
            Node::Template(call) => self.call(dot, call)?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Normal)
    }

    fn branch(&mut self, dot: &Val<'a>, branch: &'a Branch, is_with: bool) -> Result<Flow> {
        let variables = self.state.variables.len();
        let value = self.pipe(dot, &branch.pipe)?;
        let flow = if !value.is_true() {
            self.body(dot, &branch.otherwise)
        } else if is_with {
            self.body(&value, &branch.body)
        } else {
            self.body(dot, &branch.body)
        };
        self.state.variables.truncate(variables);
        flow
    }

    fn range(&mut self, dot: &Val<'a>, branch: &'a Branch) -> Result<Flow> {
        let variables = self.state.variables.len();
        let value = self.value(dot, &branch.pipe)?;
        let mut is_empty = true;
        match &value {
            Val::List(list) => {
                for (index, element) in list.iter().enumerate() {
                    is_empty = false;
                    if !self.turn(branch, Some(Val::int(index)), Val::Boxed(element))? {
                        break;
                    }
                }
            }
            Val::Map(map) => {
                self.state.step(map.len())?;
                let mut entries: Vec<(&String, &Value)> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (key, element) in entries {
                    is_empty = false;
                    if !self.turn(branch, Some(Val::Str(key)), Val::Boxed(element))? {
                        break;
                    }
                }
            }
            Val::Int(count, int_type) => {
                if branch.pipe.variables.len() > 1 {
                    let message = format!("can't use {count} to iterate over more than one variable");
                    return Err(self.state.error(message));
                }
                for number in 0..*count {
                    is_empty = false;
                    if !self.turn(branch, None, Val::Int(number, *int_type))? {
                        break;
                    }
                }
            }
            Val::Missing | Val::Nil => {}
            other => {
                let shown = self.values.as_plain(other);
                return Err(self.state.error(format!("range can't iterate over {shown}")));
            }
        }
        let flow = if is_empty {
            self.body(dot, &branch.otherwise)
        } else {
            Ok(Flow::Normal)
        };
        self.state.variables.truncate(variables);
        flow
    }

    /// One turn of a range, and whether there are more.
    fn turn(&mut self, branch: &'a Branch, key: Option<Val<'a>>, element: Val<'a>) -> Result<bool> {
        let variables = self.state.variables.len();
        let names = &branch.pipe.variables;
        let values = match (key, names.as_slice()) {
            (Some(key), [_, _]) => vec![key, element.clone()],
            _ => vec![element.clone()],
        };
        for (name, value) in names.iter().zip(values) {
            if branch.pipe.assigns {
                self.state.assign(name, value)?;
            } else {
                self.state.variables.push((name, value));
            }
        }
        let flow = self.body(&element, &branch.body)?;
        self.state.variables.truncate(variables);
        Ok(flow != Flow::Break)
    }

    fn call(&mut self, dot: &Val<'a>, call: &'a Call) -> Result<()> {
        self.state.place = Some(Place::Call(call));
        let Some((name, body)) = self.template.bodies.get_key_value(&call.name) else {
            let name = quoted(&call.name);
            return Err(self.state.error(format!("template {name} not defined")));
        };
        let data = match &call.pipe {
            Some(pipe) => self.pipe(dot, pipe)?,
            None => Val::Missing,
        };
        self.state.place = Some(Place::Call(call));
        let variables = std::mem::replace(&mut self.state.variables, vec![("$", data.clone())]);
        let caller = std::mem::replace(&mut self.state.name, name);
        self.body(&data, body)?;
        self.state.variables = variables;
        self.state.name = caller;
        Ok(())
    }

    /// The value of a pipeline, which its variables get. It is unboxed.
    fn pipe(&mut self, dot: &Val<'a>, pipe: &'a Pipe) -> Result<Val<'a>> {
        let value = self.value(dot, pipe)?;
        for name in &pipe.variables {
            if pipe.assigns {
                self.state.assign(name, value.clone())?;
            } else {
                self.state.variables.push((name, value.clone()));
            }
        }
        Ok(value)
    }

    /// The value of a pipeline. It is unboxed.
    fn value(&mut self, dot: &Val<'a>, pipe: &'a Pipe) -> Result<Val<'a>> {
        self.state.enter()?;
        self.state.place = Some(Place::Pipe(pipe));
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(dot, command, value)?.piped());
        }
        self.state.leave();
        Ok(value.unwrap_or(Val::Missing))
    }

    fn command(&mut self, dot: &Val<'a>, command: &'a Command, last: Option<Val<'a>>) -> Result<Val<'a>> {
        let Some((first, rest)) = command.operands.split_first() else {
            return Ok(Val::Missing);
        };
        let has_arguments = !rest.is_empty() || last.is_some();
        match &first.term {
            Term::Function(name) => {
                self.state.place = Some(Place::Operand(first));
                self.function(dot, name, rest, last, Place::Command(command))
            }
            Term::Field(fields) => {
                self.state.place = Some(Place::Operand(first));
                self.fields(dot.clone(), fields, has_arguments)
            }
            Term::Chain { of, fields } => {
                self.state.place = Some(Place::Operand(first));
                let value = self.operand(dot, of, Parameter::Value)?;
                self.fields(value, fields, has_arguments)
            }
            Term::Variable { name, fields } => {
                self.state.place = Some(Place::Operand(first));
                let value = self.state.variable(name)?;
                if fields.is_empty() && has_arguments {
                    return Err(self.not_a_function(first));
                }
                self.fields(value, fields, has_arguments)
            }
            Term::Pipe(_) if has_arguments => Err(self.not_a_function(first)),
            Term::Pipe(pipe) => self.pipe(dot, pipe),
            _ => {
                self.state.place = Some(Place::Operand(first));
                if has_arguments {
                    return Err(self.not_a_function(first));
                }
                match &first.term {
                    Term::Nil => Err(self.state.error("nil is not a command")),
                    Term::Dot => Ok(dot.clone()),
                    _ => self.literal(first),
                }
            }
        }
    }

    fn not_a_function(&self, operand: &Operand) -> String {
        let term = &operand.term;
        self.state.error(format!("can't give argument to non-function {term}"))
    }

    fn literal(&self, operand: &'a Operand) -> Result<Val<'a>> {
        Ok(match &operand.term {
            Term::Bool(value) => Val::Bool(*value),
            Term::String { text, .. } => Val::Str(text),
            Term::Number { text, number } => match number {
                Number::Int(number) => Val::Int(*number, IntType::Int),
                Number::Float(number) => Val::Float(*number),
                Number::Overflow => return Err(self.state.error(format!("{text} overflows int"))),
            },
            _ => Val::Missing,
        })
    }

    /// The value of an argument. It is unboxed.
    fn operand(&mut self, dot: &Val<'a>, operand: &'a Operand, parameter: Parameter) -> Result<Val<'a>> {
        let place = Place::Operand(operand);
        self.state.place = Some(place);
        let value = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Nil => {
                return match parameter {
                    Parameter::Any => Ok(Val::Nil),
                    Parameter::Value => Ok(Val::Missing),
                    Parameter::String => Err(self.state.error("cannot assign nil to string")),
                };
            }
            Term::Field(fields) => self.fields(dot.clone(), fields, false)?,
            Term::Variable { name, fields } => {
                let value = self.state.variable(name)?;
                self.fields(value, fields, false)?
            }
            Term::Pipe(pipe) => self.pipe(dot, pipe)?,
            Term::Function(name) => self.function(dot, name, &[], None, place)?,
            Term::Chain { of, fields } => {
                self.state.enter()?;
                let value = self.operand(dot, of, Parameter::Value)?;
                self.state.leave();
                self.fields(value, fields, false)?
            }
            Term::Number { .. } | Term::Bool(_) if parameter == Parameter::String => {
                let term = &operand.term;
                return Err(self.state.error(format!("expected string; found {term}")));
            }
            Term::Number { .. } | Term::Bool(_) | Term::String { .. } => self.literal(operand)?,
        };
        self.checked(value, parameter)
    }

    /// The value as a parameter of this type.
    fn checked(&self, value: Val<'a>, parameter: Parameter) -> Result<Val<'a>> {
        match (value.unboxed(), parameter) {
            (Val::Missing, Parameter::Any) => Ok(Val::Nil),
            (value, Parameter::Any | Parameter::Value) => Ok(value),
            (Val::Missing, Parameter::String) => Err(self.state.error("invalid value; expected string")),
            (value @ (Val::Str(_) | Val::Text(_)), Parameter::String) => Ok(value),
            (value, Parameter::String) => {
                let got = if value.is_some() {
                    value.type_name()
                } else {
                    "interface {}"
                };
                let message = format!("wrong type for value; expected string; got {got}");
                Err(self.state.error(message))
            }
        }
    }

    fn fields(&self, value: Val<'a>, fields: &[String], has_arguments: bool) -> Result<Val<'a>> {
        let last = fields.len().saturating_sub(1);
        fields.iter().enumerate().try_fold(value, |value, (index, field)| {
            self.field(value, field, has_arguments && index == last)
        })
    }

    fn field(&self, receiver: Val<'a>, field: &str, has_arguments: bool) -> Result<Val<'a>> {
        let type_name = receiver.type_name();
        match receiver.unboxed() {
            Val::Missing if self.allows_missing => Ok(Val::Missing),
            Val::Missing => {
                let field = quoted(field);
                Err(self.state.error(format!("nil data; no entry for key {field}")))
            }
            Val::Nil => {
                let message = format!("nil pointer evaluating interface {{}}.{field}");
                Err(self.state.error(message))
            }
            Val::Map(_) if has_arguments => {
                let message = format!("{field} is not a method but has arguments");
                Err(self.state.error(message))
            }
            Val::Map(map) => match map.get(field) {
                Some(element) => Ok(Val::Boxed(element)),
                None if self.allows_missing => Ok(Val::Missing),
                None => {
                    let field = quoted(field);
                    Err(self.state.error(format!("map has no entry for key {field}")))
                }
            },
            _ => {
                let message = format!("can't evaluate field {field} in type {type_name}");
                Err(self.state.error(message))
            }
        }
    }

    fn function(
        &mut self,
        dot: &Val<'a>,
        name: &str,
        operands: &'a [Operand],
        last: Option<Val<'a>>,
        place: Place<'a>,
    ) -> Result<Val<'a>> {
        let Some(signature) = functions::signature(name) else {
            return Err(self.state.error(format!("{} is not a defined function", quoted(name))));
        };
        let got = operands.len() + usize::from(last.is_some());
        let fixed = signature.fixed.len();
        if got < fixed || (got > fixed && signature.more.is_none()) {
            let least = if signature.more.is_some() { "at least " } else { "" };
            let message = format!("wrong number of args for {name}: want {least}{fixed} got {got}");
            return Err(self.state.error(message));
        }
        self.state.enter()?;
        let mut arguments = Vec::new();
        for (index, operand) in operands.iter().enumerate() {
            let value = self.operand(dot, operand, signature.parameter(index))?;
            // The rest is not evaluated.
            let decides = (name == "and" && !value.is_true()) || (name == "or" && value.is_true());
            if decides {
                self.state.leave();
                return Ok(value);
            }
            arguments.push(value);
        }
        if let Some(last) = last {
            arguments.push(self.checked(last, signature.parameter(operands.len()))?);
        }
        self.state.leave();
        if matches!(name, "and" | "or") {
            return Ok(arguments.pop().unwrap_or(Val::Missing));
        }
        self.state.step(1)?;
        let result = if name == "call" && arguments.first().is_some_and(Val::is_some) {
            let function = operands.first().map(|operand| operand.term.to_string());
            let type_name = arguments.first().map(Val::type_name).unwrap_or_default();
            let function = function.unwrap_or_default();
            Err(format!("non-function {function} of type {type_name}"))
        } else {
            functions::call(name, &arguments, self.state.output.left(), self.values)
        };
        match result {
            Ok(value) => {
                if let Val::Text(text) = &value {
                    self.state.output.reserve(text.len());
                }
                Ok(value)
            }
            Err(message) => {
                self.state.place = Some(place);
                Err(self.state.error(format!("error calling {name}: {message}")))
            }
        }
    }
}

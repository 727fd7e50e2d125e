//! Reports panics without the values in their messages, which may be those of Secrets.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::panic::{Location, PanicHookInfo};

use crate::stderr::report;

/// Makes panics of this process report their place and, if it is constant, their message.
pub(super) fn install() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        report!("{}", Report::of(panic.location(), panic.payload()));
        // With RUST_BACKTRACE.
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            report!("{backtrace}");
        }
    }));
}

struct Report<'p> {
    location: Option<&'p Location<'p>>,
    /// `None` if it was computed, and may contain a value.
    message: Option<&'static str>,
}

impl<'p> Report<'p> {
    fn of(location: Option<&'p Location<'p>>, payload: &(dyn Any + Send)) -> Self {
        Self {
            location,
            message: payload.downcast_ref::<&'static str>().copied(),
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thread = std::thread::current();
        write!(f, "thread {:?} panicked", thread.name().unwrap_or_default())?;
        if let Some(location) = self.location {
            write!(f, " at {location}")?;
        }
        match self.message {
            Some(message) => write!(f, ": {message}"),
            None => f.write_str("; its message is not shown, because it may contain a Secret"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_constant_message_is_reported() {
        let location = Location::caller();
        let shown = |payload: &(dyn Any + Send)| Report::of(Some(location), payload).to_string();
        let constant = shown(&"no such state");
        assert!(
            constant.contains(&format!(" panicked at {location}: no such state")),
            "{constant}"
        );
        let computed = shown(&"byte index 3 is not a char boundary; it is inside 'ä' of `hunter2`".to_owned());
        assert!(computed.contains(&format!(" panicked at {location}; ")), "{computed}");
        assert!(!computed.contains("hunter2"), "{computed}");
    }
}

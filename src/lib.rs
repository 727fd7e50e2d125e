//! The host side of microkube: everything but the virtual machine monitor and the agent in the guest.
//!
//! Dependencies point one way: `cli` → `pod` → `image`, `network`, `volume`, `state`. `machine` (the emulated host) stands
//! beside them and is used by `cli` only, `terminal` and `child` are used by all.

pub mod child;
/// Instead of the standard library's, which panics when standard error cannot be written: nobody may read it any more, or its disk may
/// be full. That is no reason for a command to end, nor for a Pod that ends with it.
macro_rules! eprintln {
    () => { $crate::terminal::complain(format_args!("\n")) };
    ($($text:tt)*) => { $crate::terminal::complain(format_args!("{}\n", format_args!($($text)*))) };
}

/// As [`eprintln`].
macro_rules! eprint {
    ($($text:tt)*) => { $crate::terminal::complain(format_args!($($text)*)) };
}

pub mod cli;
pub mod image;
pub mod machine;
pub mod manifest;
pub mod network;
pub mod pod;
pub mod state;
pub mod terminal;
pub mod volume;

//! The PC devices every guest has: a serial port for the console, and the reset line.

pub mod console;
pub mod device;

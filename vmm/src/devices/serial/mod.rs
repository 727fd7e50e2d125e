//! The PC devices of every guest: a serial port for the console, and the reset line.

pub mod console;
pub mod device;

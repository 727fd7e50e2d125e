//! Data from a guest to its supervisor: any bytes are parsed within limits, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microkube::pod::fuzzing::guest(bytes));

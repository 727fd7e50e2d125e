//! What a guest sends to its supervisor: any bytes are understood within their limits, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microkube::pod::fuzzing::guest(bytes));

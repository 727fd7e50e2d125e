//! The manifest loader: any bytes are loaded or refused, with places inside of them, in bounded time and memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microkube::manifest::fuzzing::manifest(bytes));

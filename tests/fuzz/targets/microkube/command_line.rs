//! Label selectors and JSONPath templates: any text is accepted or refused, in bounded time and memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microkube::cli::fuzzing::command_line(bytes));

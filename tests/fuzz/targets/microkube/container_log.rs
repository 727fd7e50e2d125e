//! A container's log on disk: any bytes are either read and continued by a writer, or skipped.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microkube::pod::logs::fuzzing::container_log(bytes));

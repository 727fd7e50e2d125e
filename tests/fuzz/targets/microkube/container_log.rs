//! The log of a container as it is found on disk: any bytes are read, and taken over by a writer, or passed over.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microkube::pod::logs::fuzzing::container_log(bytes));

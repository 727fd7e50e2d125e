//! A server's answer to a gRPC probe: any bytes are a status or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microkube::pod::probe::fuzzing::health_response(bytes));

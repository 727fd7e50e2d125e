//! All parsers of registry answers, and of files with credentials and settings.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microkube_image::fuzzing::registry_response(data));

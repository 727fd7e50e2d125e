//! Names and contents of the files in the store of objects.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microkube_store::fuzzing::object_file(data));

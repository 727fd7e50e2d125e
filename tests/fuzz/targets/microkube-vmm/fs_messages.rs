//! The file system device between a hostile driver and a hostile file server: it writes only into the chains that it
//! has, limits the requests in flight, and fails those of a server that has ended.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microkube_vmm::devices::fs::fuzzing::messages(bytes));

//! The way from a layer's tar stream to a mountable image, and back: what was read is what was written.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microkube::image::fuzzing::tar_to_erofs(data));

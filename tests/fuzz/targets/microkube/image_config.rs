//! Configurations of images.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microkube::image::fuzzing::image_config(data));

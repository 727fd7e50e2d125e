//! Image configurations.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microkube_image::fuzzing::image_config(data));

//! Image archives: OCI layouts and `docker save` archives.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microkube_image::fuzzing::image_archive(data));

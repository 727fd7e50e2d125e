//! Archives of images: OCI layouts and those of `docker save`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microkube_image::fuzzing::image_archive(data));

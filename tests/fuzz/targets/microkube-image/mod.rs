//! The fuzz targets of the crate `microkube_image`, as its unit tests replay them.
#![allow(unused_attributes)] // `no_main` is for the fuzzer.

mod image_archive;
mod image_config;
mod registry_response;

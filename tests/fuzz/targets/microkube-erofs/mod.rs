//! The fuzz targets of the crate `microkube_erofs`, as its unit tests replay them.
#![allow(unused_attributes)] // `no_main` is for the fuzzer.

mod tar_to_erofs;

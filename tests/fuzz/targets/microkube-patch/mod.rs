//! The fuzz targets of the crate `microkube_patch`, as its unit tests replay them.
#![allow(unused_attributes)] // `no_main` is for the fuzzer.

mod patch;

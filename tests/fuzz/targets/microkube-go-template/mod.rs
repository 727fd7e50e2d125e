//! The fuzz targets of the crate `microkube_go_template`, as its unit tests replay them.
#![allow(unused_attributes)] // `no_main` is for the fuzzer.

mod go_template;

//! The image store against the rest of the world, as root but without a virtual machine: the kernel's EROFS and overlayfs, `fsck.erofs`, GNU
//! tar, and the tools that make and load images. What is missing makes a test fail; `make image-test` installs it.

mod attributes;
mod crash;
mod exchange;
mod merged;
mod mounted;
mod real_layers;
mod trees;

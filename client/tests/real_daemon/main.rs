// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The library and the tools against the real daemon, with the memfd heap that every machine has.
//!
//! The daemon is built first, unless `VHOST_DEVICE_DMABUF` names one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod daemon;
mod fences;
mod heaps;
mod library;
mod streams;
mod tools;

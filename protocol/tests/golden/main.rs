// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The golden vectors: the bytes in `golden/*.hex`, the Rust structures and the C header must agree.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod c_header;
mod fence_messages;
mod files;
mod messages;
mod rust_types;
mod stream_messages;

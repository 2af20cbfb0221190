// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The client against a daemon that is a script: honest in [`calls`] and [`lockstep`], a liar in [`lies`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod calls;
mod daemon;
mod fences;
mod frames;
mod lies;
mod lockstep;

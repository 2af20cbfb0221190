// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon from outside: the real program, a front-end that is not QEMU, and host processes on the broker's socket.
//!
//! Each test starts a daemon of its own with a configuration of its own, and the daemon is ended with the test: it must
//! be alive until then, must not have panicked, and must end cleanly ([`daemon::Daemon`]).
//!
//! * [`daemon`]: the program under test, its log, and what it holds in the kernel
//! * [`message`]: requests and replies as bytes, and what both kinds of peers have in common
//! * [`guest`]: guest memory and the driver's side of virtqueues, made by hand so that broken ones can be made, too
//! * [`vmm`]: a front-end on the `vhost` crate; [`window`]: how it answers the daemon's mapping requests
//! * [`relays`]: the same tests with VMs in processes of their own
//! * [`client`]: a host process on the broker's socket
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod client;
mod daemon;
mod guest;
mod message;
mod relays;
mod sys;
mod vmm;
mod window;

mod access;
mod alloc;
mod broker;
mod command_line;
mod deadlines;
mod devices;
mod dynamic_window;
mod events;
mod fds;
mod fenced_frames;
mod fences;
mod lifecycle;
mod memory;
mod relay;
mod relay_faults;
mod requests;
mod revoke;
mod rings;
mod static_window;
mod streams;
mod usage;

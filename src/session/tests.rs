// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sessions over plain values: requests as bytes, a window that is a list of jobs, heaps of memfds.

mod events;
mod fences;
mod frames;
mod mapping;
mod model;
mod open;
mod peer;
mod producer;
mod revoke;
mod sync;
mod usage;
mod vm_producer;

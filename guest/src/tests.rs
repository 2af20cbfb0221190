// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver against a host that keeps to SPEC.md, and against one that doesn't.

mod events;
mod hal;
mod host;
mod late;
mod lies;
mod pci;
mod requests;
mod streams;
mod sync;
mod transport;

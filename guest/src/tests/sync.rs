// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sync and fences: on the right queue, and checked.

use super::host::{Host, name_of, start};
use crate::{Error, Fences};
use core::mem::offset_of;
use core::time::Duration;
use dmabuf_protocol::wire::FenceQueryReply;
use dmabuf_protocol::{Access, Enforcement, FenceUsage, OpCode, Status, SyncDirection};
use std::boxed::Box;

#[test]
fn brackets_waits_and_releases() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let alias = device
        .open(name_of(2), Access::ReadOnly, Enforcement::None)
        .unwrap();
    device.sync_start(&alias, SyncDirection::Read).unwrap();
    assert_eq!(host.borrow().brackets, [2]);
    device.sync_end(&alias, SyncDirection::Read).unwrap();
    let twice = device.sync_end(&alias, SyncDirection::Read);
    assert_eq!(twice, Err(Error::Refused(Status::EINVAL)));
    let wait = Duration::from_millis(7);
    assert_eq!(device.fence_wait(&alias, FenceUsage::Read, wait), Ok(7));
    let query = device.fence_query(&alias, FenceUsage::Read);
    assert_eq!(query, Ok(Fences::Signalled));
    device.release_buffer(&alias, 0x1234).unwrap();
    assert_eq!(host.borrow().released, 0x1234);
}

#[test]
fn an_open_wait_stops_nothing_else() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let alias = device
        .open(name_of(2), Access::ReadOnly, Enforcement::None)
        .unwrap();
    host.borrow_mut().holding = true;
    for _ in 0..4 {
        let late = device.fence_wait(&alias, FenceUsage::Read, Duration::ZERO);
        assert_eq!(late, Err(Error::TimedOut));
    }
    host.borrow_mut().holding = false;
    device.close(&alias).unwrap();
}

#[test]
fn states_that_can_not_be() {
    for (state, error, expected) in [
        (0, 0, Ok(Fences::Pending)),
        (2, 5, Ok(Fences::Failed(5))),
        (2, 0, Err(())),
        (1, 5, Err(())),
        (0, 5, Err(())),
        (3, 0, Err(())),
    ] {
        let host = Host::new();
        host.borrow_mut().lie = Some(Box::new(move |op, reply| {
            if op == OpCode::FenceQuery {
                reply[16 + offset_of!(FenceQueryReply, state)] = state;
                reply[16 + offset_of!(FenceQueryReply, error)] = error;
            }
        }));
        let mut device = start(&host).unwrap();
        let alias = device
            .open(name_of(2), Access::ReadOnly, Enforcement::None)
            .unwrap();
        let query = device.fence_query(&alias, FenceUsage::Write);
        assert_eq!(query.map_err(|_| ()), expected, "{state} {error}");
    }
}

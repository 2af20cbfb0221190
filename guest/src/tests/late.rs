// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A host that takes its time: the caller gets an error, and nothing is leaked when the answer comes after all.

use super::hal::pages;
use super::host::{Host, PAGE, Shared, TestDevice, name_of, start};
use crate::{Error, TIME_LIMIT};
use dmabuf_protocol::{Access, Enforcement, OpCode};

/// Lets the host answer what it has held back.
pub fn go_on(host: &Shared) {
    let mut host = host.borrow_mut();
    host.holding = false;
    for chain in core::mem::take(&mut host.held) {
        host.serve(&chain);
    }
}

fn open(device: &mut TestDevice) -> crate::Result<crate::Alias> {
    device.open(name_of(1), Access::ReadOnly, Enforcement::None)
}

#[test]
fn a_late_open_is_closed() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    host.borrow_mut().holding = true;
    assert_eq!(open(&mut device), Err(Error::TimedOut));
    go_on(&host);
    assert_eq!(host.borrow().handles.len(), 1);
    device.info().unwrap();
    assert!(host.borrow().handles.is_empty());
    assert!(host.borrow().requests.contains(&OpCode::Close));
}

#[test]
fn a_late_alloc_is_closed() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    host.borrow_mut().holding = true;
    assert_eq!(device.alloc(name_of(1), PAGE), Err(Error::TimedOut));
    go_on(&host);
    assert_eq!(host.borrow().handles.len(), 1);
    device.info().unwrap();
    assert!(host.borrow().handles.is_empty());
}

#[test]
fn a_late_map_is_undone() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let alias = open(&mut device).unwrap();
    host.borrow_mut().holding = true;
    let late = device.map(&alias, 0, PAGE, Access::ReadOnly);
    assert!(matches!(late, Err(Error::TimedOut)));
    go_on(&host);
    assert_eq!(host.borrow().mappings.len(), 1);
    device.info().unwrap();
    assert!(host.borrow().mappings.is_empty());
    device.close(&alias).unwrap();
}

#[test]
fn slots_stay_with_the_device_until_it_answers() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    host.borrow_mut().holding = true;
    for _ in 0..4 {
        assert_eq!(open(&mut device), Err(Error::TimedOut));
    }
    assert_eq!(open(&mut device), Err(Error::Busy));
    assert_eq!(host.borrow().held.len(), 4);
    go_on(&host);
    open(&mut device).unwrap();
    device.info().unwrap();
    assert_eq!(
        host.borrow().handles.len(),
        1,
        "the four late ones were closed"
    );
}

#[test]
fn the_time_limit_is_kept() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    host.borrow_mut().holding = true;
    let before = device.now();
    assert_eq!(device.info(), Err(Error::TimedOut));
    assert_eq!(device.now() - before, TIME_LIMIT);
}

#[test]
fn memory_of_open_requests_is_freed_after_the_reset() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    host.borrow_mut().holding = true;
    assert_eq!(open(&mut device), Err(Error::TimedOut));
    assert!(pages() > 0);
    drop(device);
    assert!(host.borrow().status.last().unwrap().is_empty());
    assert_eq!(pages(), 0);
}

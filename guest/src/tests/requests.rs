// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What works with an honest host.

use super::hal::{pages, peek};
use super::host::{FRAMES, Host, PAGE, name_of, start};
use crate::Error;
use core::ops::ControlFlow;
use dmabuf_protocol::{Access, Enforcement, Name, OpCode, Status};
use std::rc::Rc;
use std::vec::Vec;
use virtio_drivers::transport::DeviceStatus;

#[test]
fn starts_and_ends() {
    let host = Host::new();
    let device = start(&host).unwrap();
    assert_eq!(
        host.borrow().accepted,
        1 << 32 | 0b1111,
        "only what it knows"
    );
    let running = *host.borrow().status.last().unwrap();
    assert!(running.contains(DeviceStatus::DRIVER_OK | DeviceStatus::FEATURES_OK));
    assert_eq!(host.borrow().event_buffers.len(), 8);
    drop(device);
    assert!(host.borrow().status.last().unwrap().is_empty(), "reset");
    assert_eq!(pages(), 0);
}

#[test]
fn leaves_other_devices_alone() {
    for config in [&b"VDMABUF"[..], b"something else entirely", b""] {
        let host = Host::new();
        host.borrow_mut().config = config.to_vec();
        assert!(matches!(start(&host), Err(Error::NotOurs)));
        assert!(host.borrow().status.is_empty(), "not even a reset");
        // The forgotten transport has its own reference.
        assert!(Rc::strong_count(&host) >= 2);
    }
}

#[test]
fn refuses_other_versions_and_missing_features() {
    let host = Host::new();
    host.borrow_mut().config[8] = 2;
    assert!(matches!(start(&host), Err(Error::Version(2))));
    let host = Host::new();
    host.borrow_mut().features = 1 << 3;
    assert!(matches!(start(&host), Err(Error::Protocol(_))));
    let host = Host::new();
    host.borrow_mut().config.truncate(40);
    assert!(matches!(start(&host), Err(Error::Transport(_))));
    assert_eq!(pages(), 0);
}

#[test]
fn lists_page_by_page() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let mut names = Vec::new();
    device
        .list(|buffer| {
            names.push(buffer.name.unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
    let all: Vec<_> = (1..=FRAMES + 1).map(name_of).collect();
    assert_eq!(names, all);
    assert_eq!(host.borrow().requests, [OpCode::List; 3]);

    let mut seen = 0;
    device
        .list(|_| {
            seen += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!((seen, host.borrow().requests.len()), (1, 4));
}

#[test]
fn reads_a_frame_where_it_is() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let alias = device
        .open(name_of(3), Access::ReadOnly, Enforcement::Sealed)
        .unwrap();
    assert_eq!(alias.buffer().size, PAGE);
    let mapping = device.map(&alias, 0, PAGE, Access::ReadOnly).unwrap();
    assert_eq!(mapping.words().count(), 512);
    assert_eq!(mapping.read::<u64>(8), Some(0xf2));
    assert_eq!(mapping.read::<u64>(4096), None, "outside");
    assert_eq!(mapping.read::<u64>(4), None, "not aligned");
    assert_eq!(mapping.write(8, 1_u64), None, "read-only");
    assert_eq!(
        mapping.as_ptr().as_ptr() as u64,
        host.borrow().static_window + 3 * PAGE
    );
    assert_eq!(device.close(&alias), Err(Error::Refused(Status::EBUSY)));
    device.unmap(mapping).unwrap();
    device.close(&alias).unwrap();
    assert_eq!(device.close(&alias), Err(Error::Refused(Status::ESTALE)));
    assert_eq!(device.info().unwrap().handles, 0);
}

#[test]
fn writes_in_the_dynamic_window() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let name = Name::new("rw/x").unwrap();
    let alias = device
        .open(name, Access::ReadWrite, Enforcement::None)
        .unwrap();
    let least = Enforcement::Sealed;
    let second = device.derive(&alias, Access::ReadOnly, least).unwrap();
    assert_eq!(second.buffer().access, Access::ReadOnly);
    let mapping = device.map(&alias, 0, 4 * PAGE, Access::ReadWrite).unwrap();
    mapping.write(16, 0x1234_5678_u32).unwrap();
    let window = host.borrow().dynamic_window;
    assert_eq!(peek::<u32>(window + 2 * PAGE + 16), 0x1234_5678);
    let _ = mapping;
    drop(device);
    assert_eq!(
        host.borrow().requests.last(),
        Some(&OpCode::Unmap),
        "before the reset"
    );
    assert!(host.borrow().mappings.is_empty());
}

#[test]
fn checks_arguments_itself() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let alias = device
        .open(name_of(1), Access::ReadOnly, Enforcement::None)
        .unwrap();
    let asked = host.borrow().requests.len();
    for (offset, length) in [
        (0, 0),
        (1, PAGE),
        (0, 1),
        (PAGE, PAGE),
        (0, 2 * PAGE),
        (!0xfff, PAGE),
    ] {
        let refused = device.map(&alias, offset, length, Access::ReadOnly);
        assert!(
            matches!(refused, Err(Error::Argument(_))),
            "{offset} {length}"
        );
    }
    assert_eq!(host.borrow().requests.len(), asked);
    let missing = device.open(
        Name::new("frame/99").unwrap(),
        Access::ReadOnly,
        Enforcement::None,
    );
    assert_eq!(missing, Err(Error::Refused(Status::ENOENT)));
}

#[test]
fn has_a_limit_of_its_own_for_mappings() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let name = Name::new("rw/x").unwrap();
    let alias = device
        .open(name, Access::ReadWrite, Enforcement::None)
        .unwrap();
    let mut map = || device.map(&alias, 0, PAGE, Access::ReadWrite);
    for _ in 0..crate::MAX_DYNAMIC {
        map().unwrap();
    }
    assert!(matches!(map(), Err(Error::TooManyMappings)));
    assert_eq!(
        host.borrow().mappings.len(),
        crate::MAX_DYNAMIC,
        "given back"
    );
}

#[test]
fn allocates_and_publishes() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let mut heaps = Vec::new();
    device
        .heaps(|heap| {
            heaps.push(heap.name);
            ControlFlow::Continue(())
        })
        .unwrap();
    let [system, camera] = ["system", "camera"].map(|name| Name::new(name).unwrap());
    assert_eq!(heaps, [system, camera]);
    let alias = device.alloc(system, 3 * PAGE + 1).unwrap();
    assert_eq!(alias.buffer().name, None);
    let name = Name::new("mine/0").unwrap();
    device.publish(&alias, name, false, None).unwrap();
    device.withdraw(name).unwrap();
    device.revoke(&alias, 100).unwrap();
    device.close(&alias).unwrap();
    let stale = device.publish(&alias, name, true, None);
    assert_eq!(stale, Err(Error::Refused(Status::ESTALE)));
    for size in [0, u64::MAX] {
        assert!(matches!(
            device.alloc(system, size),
            Err(Error::Argument(_))
        ));
    }
    assert!(matches!(
        device.alloc(system, 5 * PAGE),
        Err(Error::Protocol(_))
    ));
    assert!(
        host.borrow().handles.is_empty(),
        "what was too small was given back"
    );
}

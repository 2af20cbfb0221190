// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the driver is given in tests: a transport and windows with the fake host behind them, and a clock.

use super::hal::FakeHal;
use super::host::{DYNAMIC_SIZE, Queue, STATIC_SIZE, Shared, TestDevice};
use crate::sys::Region;
use crate::window::{StaticWindow, Windows};
use crate::{Device, Platform, Result};
use core::time::Duration;
use dmabuf_protocol::Uuid;
use std::cell::Cell;
use std::rc::Rc;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error as VirtioError, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub struct FakeTransport(pub Shared);

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Memory
    }
    fn read_device_features(&mut self) -> u64 {
        self.0.borrow().features
    }
    fn write_driver_features(&mut self, features: u64) {
        self.0.borrow_mut().accepted = features;
    }
    fn max_queue_size(&mut self, _: u16) -> u32 {
        64
    }
    fn notify(&mut self, queue: u16) {
        let mut host = self.0.borrow_mut();
        assert!(
            host.status
                .last()
                .unwrap()
                .contains(DeviceStatus::DRIVER_OK)
        );
        while let Some(chain) = host.take(queue) {
            match queue {
                1 => host.event_buffers.push(chain),
                _ if host.holding => host.held.push(chain),
                _ => host.serve(&chain),
            }
        }
    }
    fn get_status(&self) -> DeviceStatus {
        self.0.borrow().status.last().copied().unwrap_or_default()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.0.borrow_mut().status.push(status);
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, index: u16, size: u32, d: PhysAddr, a: PhysAddr, u: PhysAddr) {
        let queue = Queue {
            descriptors: d,
            available: a,
            used: u,
            size: u16::try_from(size).unwrap(),
            taken: 0,
            given: 0,
        };
        self.0.borrow_mut().queues.insert(index, queue);
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, index: u16) -> bool {
        self.0.borrow().queues.contains_key(&index)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::QUEUE_INTERRUPT
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<V: FromBytes + IntoBytes>(&self, at: usize) -> Result<V, VirtioError> {
        let host = self.0.borrow();
        let bytes = host.config.get(at..at + size_of::<V>());
        V::read_from_bytes(bytes.ok_or(VirtioError::ConfigSpaceTooSmall)?)
            .map_err(|_| VirtioError::IoError)
    }
    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        _: usize,
        _: V,
    ) -> Result<(), VirtioError> {
        panic!("the configuration space is read-only")
    }
}

pub struct FakeWindows(Shared);

impl Windows for FakeWindows {
    fn dynamic(&self) -> Option<Region> {
        Region::bar(self.0.borrow().dynamic_window, DYNAMIC_SIZE).ok()
    }
    fn find(&mut self, uuid: Uuid) -> Option<StaticWindow> {
        let host = self.0.borrow();
        let bar = Region::bar(host.static_window, STATIC_SIZE).unwrap();
        let window = StaticWindow::recognise::<FakeHal>(bar).filter(|_| host.vms_window);
        window.filter(|window| window.uuid() == uuid)
    }
}

/// Time goes on whenever the driver has nothing to do.
#[derive(Default)]
pub struct FakeClock(Cell<u64>);

impl Platform for FakeClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.get())
    }
    fn idle(&self) {
        self.0.set(self.0.get() + 100);
    }
}

pub fn start(host: &Shared) -> Result<TestDevice> {
    let transport = FakeTransport(Rc::clone(host));
    Device::new(
        transport,
        FakeWindows(Rc::clone(host)),
        FakeClock::default(),
    )
}

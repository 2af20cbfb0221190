// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device: from its configuration space to mappings.

use crate::control::{Control, Reply};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::mapping::Mapping;
use crate::reply::{self, Buffer, Info, Place};
use crate::sys::Region;
use crate::window::Windows;
use crate::{MAX_DYNAMIC, Platform};
use bitflags::bitflags;
use core::ops::ControlFlow;
use core::time::Duration;
use dmabuf_protocol::config::CONFIG_MAGIC;
use dmabuf_protocol::request::OpCode;
use dmabuf_protocol::{
    Access, DeviceConfig, Enforcement, FEATURE_ALLOC, FEATURE_FENCE, FEATURE_STATIC_WINDOW,
    FEATURE_STREAM, Flags, Handle, MappingId, Name, PAGE_SIZE, QUEUE_CONTROL, QUEUE_FENCE, VERSION,
    wire,
};
use virtio_drivers::Hal;
use virtio_drivers::transport::{DeviceStatus, InterruptStatus, Transport};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

bitflags! {
    /// The feature bits that this driver accepts.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        const ALLOC = 1 << FEATURE_ALLOC;
        const FENCE = 1 << FEATURE_FENCE;
        const STREAM = 1 << FEATURE_STREAM;
        const STATIC_WINDOW = 1 << FEATURE_STATIC_WINDOW;
        const VERSION_1 = 1 << 32;
    }
}

/// A handle: this VM's right to a buffer, with one access. Plain data; [`Device::close`] gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    pub(crate) handle: Handle,
    pub(crate) buffer: Buffer,
}

impl Alias {
    /// The buffer, with this alias's access and enforcement.
    #[must_use]
    pub const fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

/// A dmabuf device, running.
///
/// Every function that asks the host waits for its answer, at most for the time limit. Dropping it unmaps what is in
/// the dynamic window, and resets the device: all aliases and mappings are gone then.
pub struct Device<H: Hal, T: Transport, W: Windows, P: Platform> {
    transport: T,
    control: Control<H>,
    events: Events<H>,
    fence: Control<H>,
    windows: W,
    platform: P,
    config: DeviceConfig,
    dynamic: Option<Region>,
    mapped: [Option<MappingId>; MAX_DYNAMIC],
    broken: bool,
}

impl<H: Hal, T: Transport, W: Windows, P: Platform> Device<H, T, W, P> {
    /// Recognises the device by its configuration space and starts it.
    ///
    /// # Errors
    /// [`Error::NotOurs`]: leave the device to others, nothing was done with it. [`Error::Version`],
    /// [`Error::Protocol`], [`Error::Transport`].
    pub fn new(transport: T, windows: W, platform: P) -> Result<Self> {
        let ours = recognise(transport)?.ok_or(Error::NotOurs)?;
        Self::start(ours, windows, platform)
    }

    pub(crate) fn start(ours: Recognised<T>, windows: W, platform: P) -> Result<Self> {
        let Recognised {
            mut transport,
            config,
        } = ours;
        let features = transport.begin_init(Features::all());
        let agreed = transport.get_status().contains(DeviceStatus::FEATURES_OK);
        if !agreed || !features.contains(Features::VERSION_1) {
            transport.set_status(DeviceStatus::FAILED);
            return Err(Error::Protocol("no agreement on features"));
        }
        let mut device = Self {
            control: Control::new(&mut transport, QUEUE_CONTROL)?,
            events: Events::new(&mut transport)?,
            fence: Control::new(&mut transport, QUEUE_FENCE)?,
            dynamic: dynamic_window(&config, &windows),
            windows,
            platform,
            config,
            mapped: [None; MAX_DYNAMIC],
            broken: false,
            transport,
        };
        device.transport.finish_init();
        device.events.fill(&mut device.transport)?;
        Ok(device)
    }

    /// The configuration space.
    #[must_use]
    pub const fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// How long to wait for a reply; [`crate::TIME_LIMIT`] unless told.
    pub fn set_time_limit(&mut self, limit: Duration) {
        self.control.set_limit(limit);
        self.fence.set_limit(limit);
    }

    /// Whether events raise the device's interrupt; they don't unless told. Replies never do.
    pub fn set_interrupts(&mut self, enable: bool) {
        self.events.set_interrupts(enable);
    }

    /// For the interrupt's handler: lowers it, and tells why it was raised.
    pub fn ack_interrupt(&mut self) -> InterruptStatus {
        self.transport.ack_interrupt()
    }

    /// GET_INFO.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn info(&mut self) -> Result<Info> {
        let reply = self.call(OpCode::GetInfo, &())?;
        reply::info(reply.body()?)
    }

    /// LIST: hands `each` the buffers that this VM may open, until there are no more or it breaks.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn list(&mut self, mut each: impl FnMut(&Buffer) -> ControlFlow<()>) -> Result<()> {
        let mut cursor = 0;
        loop {
            let reply = self.call(OpCode::List, &reply::list_request(cursor))?;
            let page = reply::page::<wire::BufferInfo>(reply.body()?, cursor)?;
            for entry in page.entries {
                if each(&reply::buffer(entry)?).is_break() {
                    return Ok(());
                }
            }
            match page.next {
                0 => return Ok(()),
                next => cursor = next,
            }
        }
    }

    /// OPEN: an alias of a buffer, with at least that enforcement if it is read-only ([`Enforcement::None`]: what the
    /// grant demands).
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn open(&mut self, name: Name, access: Access, least: Enforcement) -> Result<Alias> {
        let request = wire::OpenRequest {
            name: name.to_wire(),
            flags: Flags::from(access).0.into(),
            enforcement: least.to_wire().into(),
        };
        let alias = self.alias(OpCode::Open, &request, access, least)?;
        if alias.buffer.name.is_some_and(|theirs| theirs != name) {
            self.give_back(OpCode::Close, alias.handle.0);
            return Err(Error::Protocol("OPEN gave another buffer"));
        }
        Ok(alias)
    }

    /// DERIVE: a second alias of the same memory, with the same or less access.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn derive(&mut self, parent: &Alias, access: Access, least: Enforcement) -> Result<Alias> {
        let request = wire::DeriveRequest {
            handle: parent.handle.0.into(),
            flags: Flags::from(access).0.into(),
            enforcement: least.to_wire().into(),
        };
        let alias = self.alias(OpCode::Derive, &request, access, least)?;
        let (theirs, own) = (&alias.buffer, &parent.buffer);
        if (theirs.id, theirs.size) != (own.id, own.size) {
            self.give_back(OpCode::Close, alias.handle.0);
            return Err(Error::Protocol("DERIVE gave another buffer"));
        }
        Ok(alias)
    }

    /// CLOSE. The alias must have no mappings.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn close(&mut self, alias: &Alias) -> Result<()> {
        let reply = self.call(OpCode::Close, &U64::new(alias.handle.0))?;
        reply::empty(reply.body()?)
    }

    /// MAP: bytes `offset` to `offset + length` of the buffer, whole pages, where they can be read.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::NoWindow`], [`Error::TooManyMappings`], and as all requests.
    pub fn map(
        &mut self,
        alias: &Alias,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Result<Mapping> {
        let inside = offset.checked_add(length);
        let pages = offset.is_multiple_of(PAGE_SIZE) && length.is_multiple_of(PAGE_SIZE);
        if length == 0 || !pages || inside.is_none_or(|end| end > alias.buffer.size) {
            return Err(Error::Argument("not pages of the buffer"));
        }
        let request = wire::MapRequest {
            handle: alias.handle.0.into(),
            offset: offset.into(),
            length: length.into(),
            access: access.to_wire().into(),
            reserved: U32::ZERO,
        };
        let reply = self.call(OpCode::Map, &request)?;
        let body = reply.body()?;
        let id = reply::mapping(body)?;
        let least = match alias.buffer.access {
            Access::ReadOnly => alias.buffer.enforcement,
            Access::ReadWrite => Enforcement::None,
        };
        let mapping = reply::place(body, length, access, least)
            .and_then(|place| self.take_place(&place, length, access));
        if mapping.is_err() {
            self.give_back(OpCode::Unmap, id.0);
        }
        mapping
    }

    /// UNMAP. The mapping is gone for this driver whatever comes of it: after an error it is the device's to undo it,
    /// or stays until the device is dropped.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn unmap(&mut self, mapping: Mapping) -> Result<()> {
        let reply = self.call(OpCode::Unmap, &U64::new(mapping.id.0))?;
        for slot in &mut self.mapped {
            slot.take_if(|id| *id == mapping.id);
        }
        reply::empty(reply.body()?)
    }

    /// The next event, if one has come.
    ///
    /// # Errors
    /// [`Error::Protocol`] for an event that makes no sense; later ones are not lost. [`Error::Broken`].
    pub fn event(&mut self) -> Result<Option<Event>> {
        self.usable()?;
        let event = self.events.next(&mut self.transport);
        self.note(event)
    }

    #[cfg(test)]
    pub(crate) fn now(&self) -> Duration {
        self.platform.now()
    }

    pub(crate) fn alias(
        &mut self,
        op: OpCode,
        request: &(impl IntoBytes + Immutable),
        access: Access,
        least: Enforcement,
    ) -> Result<Alias> {
        let reply = self.call(op, request)?;
        let body = reply.body()?;
        let handle = reply::handle(body)?;
        match reply::opened(body, access, least) {
            Ok(buffer) => Ok(Alias { handle, buffer }),
            Err(error) => {
                self.give_back(OpCode::Close, handle.0);
                Err(error)
            }
        }
    }

    /// Finds the memory of a MAP reply, and remembers what has to be unmapped.
    fn take_place(&mut self, place: &Place, length: u64, access: Access) -> Result<Mapping> {
        let outside = Error::Protocol("a mapping outside its window");
        let region = match place.window {
            Some(uuid) => {
                let window = self.windows.find(uuid).ok_or(Error::NoWindow(uuid))?;
                window.part(place.offset, length).ok_or(outside)?
            }
            None => {
                let window = self.dynamic.ok_or(outside)?;
                let region = window.part(place.offset, length).ok_or(outside)?;
                let free = self.mapped.iter_mut().find(|slot| slot.is_none());
                *free.ok_or(Error::TooManyMappings)? = Some(place.mapping);
                region
            }
        };
        Ok(Mapping {
            id: place.mapping,
            access,
            enforcement: place.enforcement,
            window: place.window,
            memory: region.share::<H>().ok_or(outside)?,
        })
    }

    /// Gives back a handle or mapping that the caller never sees. If that fails, the reset does it.
    pub(crate) fn give_back(&mut self, op: OpCode, number: u64) {
        let _ = self.call(op, &U64::new(number));
    }

    pub(crate) fn call(
        &mut self,
        op: OpCode,
        body: &(impl IntoBytes + Immutable),
    ) -> Result<Reply> {
        self.usable()?;
        let reply = self
            .control
            .call(&mut self.transport, &self.platform, op, body);
        self.note(reply)
    }

    /// As [`Self::call`], on the fence queue.
    pub(crate) fn call_fence(
        &mut self,
        op: OpCode,
        body: &(impl IntoBytes + Immutable),
    ) -> Result<Reply> {
        self.usable()?;
        let reply = self
            .fence
            .call(&mut self.transport, &self.platform, op, body);
        self.note(reply)
    }

    fn usable(&self) -> Result<()> {
        if self.broken {
            return Err(Error::Broken);
        }
        Ok(())
    }

    fn note<V>(&mut self, result: Result<V>) -> Result<V> {
        self.broken |= matches!(result, Err(Error::Broken));
        result
    }
}

impl<H: Hal, T: Transport, W: Windows, P: Platform> Drop for Device<H, T, W, P> {
    fn drop(&mut self) {
        // Before the reset: QEMU 11.1 crashes at a later one if it has to drop mappings by itself.
        for slot in 0..MAX_DYNAMIC {
            if let Some(id) = self.mapped.get_mut(slot).and_then(Option::take)
                && self.call(OpCode::Unmap, &U64::new(id.0)).is_err()
            {
                break;
            }
        }
        // The queues' memory is freed after this, when the device can't use it any more.
        self.transport.set_status(DeviceStatus::empty());
    }
}

/// A device whose magic and version are right.
pub(crate) struct Recognised<T> {
    transport: T,
    config: DeviceConfig,
}

/// Reads the configuration space. `None`: it is somebody else's, and was left as it is.
pub(crate) fn recognise<T: Transport>(transport: T) -> Result<Option<Recognised<T>>> {
    let word = |at: usize| transport.read_config_space::<u32>(at).map(u32::to_le_bytes);
    let mut bytes = [0; size_of::<DeviceConfig>()];
    // The magic first: a foreign configuration space can be shorter.
    let (magic, rest) = bytes.split_at_mut(CONFIG_MAGIC.len());
    for (at, to) in (0..).step_by(4).zip(magic.chunks_exact_mut(4)) {
        to.copy_from_slice(&word(at).unwrap_or_default());
    }
    if *magic != CONFIG_MAGIC {
        // A transport that is dropped resets its device, which another driver may be using.
        core::mem::forget(transport);
        return Ok(None);
    }
    for (at, to) in (CONFIG_MAGIC.len()..)
        .step_by(4)
        .zip(rest.chunks_exact_mut(4))
    {
        to.copy_from_slice(&word(at)?);
    }
    let Ok(config) = DeviceConfig::read_from_bytes(&bytes) else {
        return Err(Error::Protocol("the configuration space"));
    };
    match config.version.get() {
        VERSION => Ok(Some(Recognised { transport, config })),
        other => Err(Error::Version(other)),
    }
}

/// The part of shared memory region 0 in which mappings can be: its last page is the device's own.
fn dynamic_window(config: &DeviceConfig, windows: &impl Windows) -> Option<Region> {
    if config.windows.get() & wire::WINDOW_BIT_DYNAMIC == 0 {
        return None;
    }
    let size = config.window_size.get().checked_sub(PAGE_SIZE)?;
    windows.dynamic()?.part(0, size)
}

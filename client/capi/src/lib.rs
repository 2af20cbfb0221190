// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both ends of streams for C and C++: `include/dmabuf_share.h` says what each function does.
//!
//! A thin layer over [`dmabuf_client::stream`]. Objects are boxes that C holds by pointer. Every function checks its
//! pointers for NULL; that others are what they claim to be is for the caller to see to.
#![allow(unsafe_code, reason = "pointers from C")]

use dmabuf_client::stream::{ConsumeMode, Consumer, Frame, Producer};
use dmabuf_client::{Allocation, Client, DEFAULT_SOCKET, Error, MappingMut, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

const ENOENT: c_int = 2;
const EAGAIN: c_int = 11;
const EINVAL: c_int = 22;
const EIO: c_int = 5;
const EPROTO: c_int = 71;
const ECONNRESET: c_int = 104;
const ETIMEDOUT: c_int = 110;

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// `struct dmabuf_consumer`
pub struct CConsumer {
    consumer: Consumer,
    held: HashMap<u64, Frame>,
}

/// `struct dmabuf_producer`
pub struct CProducer {
    client: Client,
    producer: Producer,
    slots: Vec<Slot>,
}

type Slot = (Allocation, MappingMut);

/// `struct dmabuf_frame`
#[repr(C)]
pub struct CFrame {
    sequence: u64,
    timestamp_ns: u64,
    skipped: u64,
    index: u32,
    ready: u32,
    hold_ms: u32,
    fenced: u32,
}

/// What a function fails with.
enum Failure {
    Argument(&'static str),
    Nothing,
    Client(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    /// Keeps the sentence, and gives the negative errno.
    fn tell(self) -> c_int {
        let (text, errno) = match self {
            Self::Argument(text) => (text.to_owned(), EINVAL),
            Self::Nothing => return -EAGAIN,
            Self::Client(error) => (error.to_string(), errno_of(&error)),
        };
        let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
        LAST.with_borrow_mut(|last| *last = text);
        -errno
    }
}

fn errno_of(error: &Error) -> c_int {
    match error {
        Error::Refused { status, .. } => c_int::try_from(status.0).unwrap_or(EIO),
        Error::Connect { source, .. } | Error::System { source, .. } => source.raw_os_error(),
        Error::Deadline { .. } => ETIMEDOUT,
        Error::Gone => ECONNRESET,
        Error::Protocol(_) | Error::Broken => EPROTO,
        Error::BadName(_) | Error::Argument(_) => EINVAL,
        _ => EIO,
    }
}

fn status(result: std::result::Result<(), Failure>) -> c_int {
    result.map_or_else(Failure::tell, |()| 0)
}

/// # Safety
/// NULL, or a string that ends with a NUL.
unsafe fn text<'a>(pointer: *const c_char) -> std::result::Result<&'a str, Failure> {
    if pointer.is_null() {
        return Err(Failure::Argument("NULL instead of a name"));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str()
        .map_err(|_| Failure::Argument("a name that is not UTF-8"))
}

fn held(frames: &HashMap<u64, Frame>, sequence: u64) -> std::result::Result<&Frame, Failure> {
    frames
        .get(&sequence)
        .ok_or(Failure::Argument("a frame that isn't held"))
}

/// # Safety
/// As [`text`].
unsafe fn connect(socket: *const c_char) -> std::result::Result<Client, Failure> {
    let path = if socket.is_null() {
        DEFAULT_SOCKET
    } else {
        // SAFETY: the caller's promise.
        unsafe { text(socket) }?
    };
    Ok(Client::connect(Path::new(path))?)
}

/// # Safety
/// NULL, or what an open or create function gave, not closed yet, and used by no other thread now.
unsafe fn object<'a, T>(pointer: *mut T) -> std::result::Result<&'a mut T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_mut() }.ok_or(Failure::Argument("NULL instead of an object"))
}

/// See `dmabuf_share.h`.
#[unsafe(no_mangle)]
pub extern "C" fn dmabuf_error() -> *const c_char {
    LAST.with_borrow(|last| last.as_ptr())
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL or strings; `out` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_consumer_open(
    socket: *const c_char,
    stream: *const c_char,
    depth: u32,
    out: *mut *mut CConsumer,
) -> c_int {
    let open = || -> std::result::Result<(), Failure> {
        let mode = match u8::try_from(depth) {
            Ok(0) => ConsumeMode::Latest,
            Ok(depth @ 1..=64) => ConsumeMode::Fifo(depth),
            _ => return Err(Failure::Argument("a depth above 64")),
        };
        // SAFETY: the caller's promise.
        let (name, out) = unsafe { (text(stream)?, object(out)?) };
        // SAFETY: the caller's promise.
        let client = unsafe { connect(socket) }?;
        let consumer = Consumer::open(client, name, mode)?;
        *out = Box::into_raw(Box::new(CConsumer {
            consumer,
            held: HashMap::new(),
        }));
        Ok(())
    };
    status(open())
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_consumer_open`] gave, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_consumer_close(consumer: *mut CConsumer) {
    if !consumer.is_null() {
        // SAFETY: it was made by Box::into_raw, and the caller gives it up.
        drop(unsafe { Box::from_raw(consumer) });
    }
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_consumer_open`] gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_consumer_fd(consumer: *const CConsumer) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { consumer.as_ref() } {
        Some(consumer) => consumer.consumer.as_fd().as_raw_fd(),
        None => Failure::Argument("NULL instead of an object").tell(),
    }
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_consumer_open`] gave; `out` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_consumer_next(
    consumer: *mut CConsumer,
    timeout_ms: u32,
    out: *mut CFrame,
) -> c_int {
    let next = || -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let (this, out) = unsafe { (object(consumer)?, object(out)?) };
        let frame = match timeout_ms {
            0 => this.consumer.try_next()?,
            limit => this.consumer.next(Duration::from_millis(limit.into()))?,
        };
        let frame = frame.ok_or(Failure::Nothing)?;
        let rest = frame.until.saturating_duration_since(Instant::now());
        *out = CFrame {
            sequence: frame.sequence,
            timestamp_ns: frame.timestamp_ns,
            skipped: frame.skipped,
            index: frame.index,
            ready: frame.ready,
            hold_ms: u32::try_from(rest.as_millis()).unwrap_or(u32::MAX),
            fenced: frame.fenced.into(),
        };
        this.held.insert(frame.sequence, frame);
        Ok(())
    };
    status(next())
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_consumer_open`] gave; `size` is NULL or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_consumer_pixels(
    consumer: *mut CConsumer,
    sequence: u64,
    size: *mut usize,
) -> *const c_void {
    let pixels = || -> std::result::Result<*const c_void, Failure> {
        // SAFETY: the caller's promise.
        let this = unsafe { object(consumer) }?;
        let frame = held(&this.held, sequence)?;
        let mapping = this.consumer.pixels(frame)?;
        // SAFETY: the caller's promise.
        if let Some(size) = unsafe { size.as_mut() } {
            *size = mapping.len();
        }
        Ok(mapping.as_ptr().cast())
    };
    pixels().unwrap_or_else(|failure| {
        failure.tell();
        std::ptr::null()
    })
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_consumer_open`] gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_consumer_wait(
    consumer: *mut CConsumer,
    sequence: u64,
    timeout_ms: u32,
) -> c_int {
    let wait = || -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let this = unsafe { object(consumer) }?;
        let frame = held(&this.held, sequence)?;
        let limit = Duration::from_millis(timeout_ms.into());
        match this.consumer.wait_finished(frame, limit)? {
            true => Ok(()),
            false => Err(Failure::Nothing),
        }
    };
    status(wait())
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_consumer_open`] gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_consumer_sync_file(
    consumer: *mut CConsumer,
    sequence: u64,
) -> c_int {
    let file = || -> std::result::Result<c_int, Failure> {
        // SAFETY: the caller's promise.
        let this = unsafe { object(consumer) }?;
        let fence = held(&this.held, sequence)?.fence.as_ref();
        Ok(fence.map_or(-ENOENT, AsRawFd::as_raw_fd))
    };
    file().unwrap_or_else(Failure::tell)
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_consumer_open`] gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_consumer_release(consumer: *mut CConsumer, sequence: u64) -> c_int {
    let release = || -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let this = unsafe { object(consumer) }?;
        let frame = this
            .held
            .remove(&sequence)
            .ok_or(Failure::Argument("a frame that isn't held"))?;
        Ok(this.consumer.release(frame)?)
    };
    status(release())
}

/// All are mapped before the first is published: a memfd pool can't be mapped writable after. If one can't be had, the
/// others are given back.
fn allocate(client: &mut Client, heap: &str, buffers: u32, size: usize) -> Result<Vec<Slot>> {
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    let mut slots = Vec::new();
    let allocated = (0..buffers).try_for_each(|_| {
        slots.push(client.alloc(heap, size)?);
        Ok(())
    });
    let mapped = allocated.and_then(|()| {
        slots
            .iter()
            .map(|slot| slot.map_mut())
            .collect::<Result<Vec<_>>>()
    });
    match mapped {
        Ok(mappings) => Ok(slots.into_iter().zip(mappings).collect()),
        Err(error) => {
            for slot in slots {
                // Where that fails, the connection's end does it.
                let _ = client.close(slot.into_alias());
            }
            Err(error)
        }
    }
}

fn produce(
    mut client: Client,
    stream: &str,
    heap: &str,
    buffers: u32,
    size: usize,
) -> Result<CProducer> {
    let producer = Producer::create(&mut client, stream, None)?;
    let slots = match allocate(&mut client, heap, buffers, size) {
        Ok(slots) => slots,
        Err(error) => {
            // Now, not when the daemon sees the end of the connection: who tries again at once is to find all free.
            let _ = producer.close(&mut client);
            return Err(error);
        }
    };
    for (number, (slot, _)) in slots.iter().enumerate() {
        client.publish(slot, &format!("{stream}/{number}"), None, false)?;
    }
    for (slot, _) in &slots {
        producer.add(&mut client, slot)?;
    }
    Ok(CProducer {
        client,
        producer,
        slots,
    })
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL or strings; `out` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_producer_create(
    socket: *const c_char,
    stream: *const c_char,
    heap: *const c_char,
    buffers: u32,
    size: usize,
    out: *mut *mut CProducer,
) -> c_int {
    let create = || -> std::result::Result<(), Failure> {
        if !(1..=64).contains(&buffers) {
            return Err(Failure::Argument("expected 1 to 64 buffers"));
        }
        // SAFETY: the caller's promise.
        let (stream, heap, out) = unsafe { (text(stream)?, text(heap)?, object(out)?) };
        // SAFETY: the caller's promise.
        let client = unsafe { connect(socket) }?;
        *out = Box::into_raw(Box::new(produce(client, stream, heap, buffers, size)?));
        Ok(())
    };
    status(create())
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_producer_create`] gave, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_producer_close(producer: *mut CProducer) {
    if !producer.is_null() {
        // SAFETY: it was made by Box::into_raw, and the caller gives it up.
        drop(unsafe { Box::from_raw(producer) });
    }
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_producer_create`] gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_producer_fd(producer: *const CProducer) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { producer.as_ref() } {
        Some(producer) => producer.client.as_fd().as_raw_fd(),
        None => Failure::Argument("NULL instead of an object").tell(),
    }
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_producer_create`] gave; `size` is NULL or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_producer_pixels(
    producer: *mut CProducer,
    index: u32,
    size: *mut usize,
) -> *mut c_void {
    let pixels = || -> std::result::Result<*mut c_void, Failure> {
        // SAFETY: the caller's promise.
        let this = unsafe { object(producer) }?;
        let slot = usize::try_from(index).ok();
        let (_, mapping) = slot
            .and_then(|slot| this.slots.get_mut(slot))
            .ok_or(Failure::Argument("no buffer of this index"))?;
        // SAFETY: the caller's promise.
        if let Some(size) = unsafe { size.as_mut() } {
            *size = mapping.len();
        }
        Ok(mapping.as_mut_ptr().cast())
    };
    pixels().unwrap_or_else(|failure| {
        failure.tell();
        std::ptr::null_mut()
    })
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_producer_create`] gave; `sequence` is NULL or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_producer_queue(
    producer: *mut CProducer,
    index: u32,
    timestamp_ns: u64,
    sequence: *mut u64,
) -> c_int {
    let queue = || -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let this = unsafe { object(producer) }?;
        let number = this.producer.queue(&mut this.client, index, timestamp_ns)?;
        // SAFETY: the caller's promise.
        if let Some(sequence) = unsafe { sequence.as_mut() } {
            *sequence = number;
        }
        Ok(())
    };
    status(queue())
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_producer_create`] gave; `sync_file` is -1 or an fd that is open; `sequence` is NULL or can be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_producer_queue_fenced(
    producer: *mut CProducer,
    index: u32,
    timestamp_ns: u64,
    sync_file: c_int,
    sequence: *mut u64,
) -> c_int {
    let queue = || -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let this = unsafe { object(producer) }?;
        // SAFETY: not -1, and the caller's promise; used in this call only.
        let file = (sync_file >= 0).then(|| unsafe { BorrowedFd::borrow_raw(sync_file) });
        let number = this
            .producer
            .queue_fenced(&mut this.client, index, timestamp_ns, file)?;
        // SAFETY: the caller's promise.
        if let Some(sequence) = unsafe { sequence.as_mut() } {
            *sequence = number;
        }
        Ok(())
    };
    status(queue())
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_producer_create`] gave; `index` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_producer_reclaim(
    producer: *mut CProducer,
    timeout_ms: u32,
    index: *mut u32,
) -> c_int {
    let reclaim = || -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let (this, index) = unsafe { (object(producer)?, object(index)?) };
        let free = match timeout_ms {
            0 => this.producer.try_reclaim(&mut this.client)?,
            limit => this
                .producer
                .reclaim(&mut this.client, Duration::from_millis(limit.into()))?,
        };
        *index = free.ok_or(Failure::Nothing)?;
        Ok(())
    };
    status(reclaim())
}

/// See `dmabuf_share.h`.
///
/// # Safety
/// NULL, or what [`dmabuf_producer_create`] gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmabuf_producer_revoke(
    producer: *mut CProducer,
    deadline_ms: u32,
) -> c_int {
    let revoke = || -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let this = unsafe { object(producer) }?;
        let deadline = Duration::from_millis(deadline_ms.into());
        Ok(this.producer.revoke(&mut this.client, deadline)?)
    };
    status(revoke())
}

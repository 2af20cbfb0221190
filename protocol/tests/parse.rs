// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests of all kinds, made up and spoilt: what parses, and what must not.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use dmabuf_protocol::request::{Envelope, Format};
use dmabuf_protocol::stream::StreamRequest;
use dmabuf_protocol::wire::{self, PUBLISH_KEEP};
use dmabuf_protocol::{
    Access, ConsumeMode, Enforcement, FenceUsage, Flags, Handle, MappingId, Name, OpCode,
    PAGE_SIZE, QUEUE_CONTROL, QUEUE_FENCE, Request, RevokeTarget, Status, SyncDirection,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::ops::Range;
use zerocopy::{FromZeros, IntoBytes};

const HEADER: usize = size_of::<wire::RequestHeader>();

/// The bytes of a request, as SPEC.md has them.
fn encode(request: &Request, tag: u64) -> Vec<u8> {
    let mut bytes = wire::RequestHeader {
        op: request.op().to_wire().into(),
        tag: tag.into(),
        ..FromZeros::new_zeroed()
    }
    .as_bytes()
    .to_vec();
    let mut put = |field: &[u8]| bytes.extend_from_slice(field);
    let layout = |format: &Option<Format>| format.unwrap_or_else(FromZeros::new_zeroed);
    let kept = |keep: &bool| {
        if *keep {
            PUBLISH_KEEP.to_le_bytes()
        } else {
            [0; 8]
        }
    };
    match request {
        Request::GetInfo => {}
        Request::Stream(request) => put(&stream_body(request)),
        Request::List { cursor, max } | Request::GetUsage { cursor, max } => {
            put(&cursor.to_le_bytes());
            put(&u64::from(*max).to_le_bytes());
        }
        Request::Open {
            name,
            flags,
            enforcement,
        } => {
            put(&name.to_wire());
            put(&flags.0.to_le_bytes());
            put(&enforcement.to_wire().to_le_bytes());
        }
        Request::Close(handle) => put(&handle.0.to_le_bytes()),
        Request::Map {
            handle,
            offset,
            length,
            access,
        } => {
            put(&handle.0.to_le_bytes());
            put(&offset.to_le_bytes());
            put(&length.to_le_bytes());
            put(&u64::from(access.to_wire()).to_le_bytes());
        }
        Request::Unmap(mapping) => put(&mapping.0.to_le_bytes()),
        Request::Derive {
            handle,
            flags,
            enforcement,
        } => {
            put(&handle.0.to_le_bytes());
            put(&flags.0.to_le_bytes());
            put(&enforcement.to_wire().to_le_bytes());
        }
        Request::SyncStart { handle, direction } | Request::SyncEnd { handle, direction } => {
            put(&handle.0.to_le_bytes());
            put(&u64::from(direction.to_wire()).to_le_bytes());
        }
        Request::FenceWait {
            handle,
            usage,
            timeout_ms,
        }
        | Request::Hold {
            handle,
            usage,
            timeout_ms,
        } => {
            put(&handle.0.to_le_bytes());
            put(&usage.to_wire().to_le_bytes());
            put(&timeout_ms.to_le_bytes());
        }
        Request::FenceCancel { tag } => put(&tag.to_le_bytes()),
        Request::FenceQuery { handle, usage } => {
            put(&handle.0.to_le_bytes());
            put(&u64::from(usage.to_wire()).to_le_bytes());
        }
        Request::Release { handle, value } => {
            put(&handle.0.to_le_bytes());
            put(&value.to_le_bytes());
        }
        Request::Alloc { heap, size } => {
            put(&heap.to_wire());
            put(&size.to_le_bytes());
            put(&[0; 8]);
        }
        Request::Import { name, keep, format } => {
            put(&name.to_wire());
            put(&kept(keep));
            put(layout(format).as_bytes());
        }
        Request::Publish {
            handle,
            name,
            keep,
            format,
        } => {
            put(&handle.0.to_le_bytes());
            put(&kept(keep));
            put(&name.to_wire());
            put(layout(format).as_bytes());
        }
        Request::Withdraw(name) => put(&name.to_wire()),
        Request::HeapList { index } => put(&u64::from(*index).to_le_bytes()),
        Request::Revoke {
            target,
            deadline_ms,
        } => {
            let (handle, name) = match target {
                RevokeTarget::Handle(handle) => (handle.0, [0; 64]),
                RevokeTarget::Name(name) => (0, name.to_wire()),
            };
            put(&handle.to_le_bytes());
            put(&u64::from(*deadline_ms).to_le_bytes());
            put(&name);
        }
    }
    bytes
}

/// Where a request must be zero: whole bytes, and a byte of which only bit 0 may be set.
fn zeros(request: &Request) -> (Vec<usize>, Option<usize>) {
    let body = |range: Range<usize>| (range.start + HEADER)..(range.end + HEADER);
    let padding = |start: usize, name: &Name| body(start + name.as_str().len() + 1..start + 64);
    let reserved = 4..8;
    let mut ranges = vec![reserved];
    let mut keep = None;
    // Bytes after the NUL that ends a name; the place of a format's reserved field.
    match request {
        Request::List { .. }
        | Request::GetUsage { .. }
        | Request::SyncStart { .. }
        | Request::SyncEnd { .. }
        | Request::FenceQuery { .. } => ranges.push(body(12..16)),
        Request::Map { .. } => ranges.push(body(28..32)),
        Request::HeapList { .. } => ranges.push(body(4..8)),
        Request::Revoke { target, .. } => {
            ranges.push(body(12..16));
            ranges.push(match target {
                RevokeTarget::Handle(_) => body(16..80),
                RevokeTarget::Name(name) => padding(16, name),
            });
        }
        Request::Stream(StreamRequest::Revoke { .. }) => ranges.push(body(12..16)),
        Request::Open { name, .. } | Request::Withdraw(name) => ranges.push(padding(0, name)),
        Request::Alloc { heap, .. } => ranges.extend([body(72..80), padding(0, heap)]),
        Request::Import { name, format, .. } => {
            keep = Some(HEADER + 64);
            ranges.extend([body(65..72), padding(0, name)]);
            ranges.extend(format.is_some().then(|| body(72 + 56..72 + 64)));
        }
        Request::Publish { name, format, .. } => {
            keep = Some(HEADER + 8);
            ranges.extend([body(9..16), padding(16, name)]);
            ranges.extend(format.is_some().then(|| body(80 + 56..80 + 64)));
        }
        Request::Stream(StreamRequest::Open { name, .. }) => {
            ranges.extend([body(76..80), padding(0, name)]);
        }
        Request::Stream(StreamRequest::Stats { name, .. }) => {
            ranges.extend([body(68..72), padding(0, name)]);
        }
        Request::Stream(StreamRequest::List { .. }) => ranges.push(body(12..16)),
        Request::Stream(StreamRequest::Create { name, format }) => {
            ranges.extend([body(64..72), padding(0, name)]);
            ranges.extend(format.is_some().then(|| body(72 + 56..72 + 64)));
        }
        Request::Stream(StreamRequest::Queue { .. }) => ranges.push(body(21..24)),
        Request::Stream(_)
        | Request::GetInfo
        | Request::Close(_)
        | Request::Unmap(_)
        | Request::Derive { .. }
        | Request::FenceWait { .. }
        | Request::FenceCancel { .. }
        | Request::Release { .. }
        | Request::Hold { .. } => {}
    }
    (ranges.into_iter().flatten().collect(), keep)
}

fn names() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9._/-]{1,64}".prop_map(|text| Name::new(&text).unwrap())
}

fn enforcements() -> impl Strategy<Value = Enforcement> {
    (0u32..5).prop_map(|raw| Enforcement::from_wire(raw).unwrap())
}

fn formats() -> impl Strategy<Value = Option<Format>> {
    let planes = (1usize..5, any::<[u32; 4]>(), any::<[u32; 4]>());
    let some = (1u32.., 1u32.., 1u32.., any::<u64>(), planes).prop_map(
        |(fourcc, width, height, modifier, planes)| {
            let (count, offset, stride) = planes;
            let used = |fields: [u32; 4]| {
                std::array::from_fn(|i| if i < count { fields[i] } else { 0 }.into())
            };
            Format {
                fourcc: fourcc.into(),
                width: width.into(),
                height: height.into(),
                num_planes: u32::try_from(count).unwrap().into(),
                modifier: modifier.into(),
                offset: used(offset),
                stride: used(stride),
                reserved: 0.into(),
            }
        },
    );
    proptest::option::of(some)
}

fn ranges() -> impl Strategy<Value = (u64, u64)> {
    let pages = u64::MAX / PAGE_SIZE;
    (0..pages, 1..=pages)
        .prop_map(|(offset, length)| (offset * PAGE_SIZE, length * PAGE_SIZE))
        .prop_filter("the end overflows", |(offset, length)| {
            offset.checked_add(*length).is_some()
        })
}

fn directions() -> impl Strategy<Value = SyncDirection> {
    (1u32..4).prop_map(|raw| SyncDirection::from_wire(raw).unwrap())
}

fn usages() -> impl Strategy<Value = FenceUsage> {
    (1u32..3).prop_map(|raw| FenceUsage::from_wire(raw).unwrap())
}

fn fence_requests() -> impl Strategy<Value = Request> {
    let handle = || any::<u64>().prop_map(Handle);
    prop_oneof![
        (handle(), directions())
            .prop_map(|(handle, direction)| Request::SyncStart { handle, direction }),
        (handle(), directions())
            .prop_map(|(handle, direction)| Request::SyncEnd { handle, direction }),
        (handle(), usages(), any::<u32>()).prop_map(|(handle, usage, timeout_ms)| {
            Request::FenceWait {
                handle,
                usage,
                timeout_ms,
            }
        }),
        any::<u64>().prop_map(|tag| Request::FenceCancel { tag }),
        (handle(), usages()).prop_map(|(handle, usage)| Request::FenceQuery { handle, usage }),
        (handle(), any::<u64>()).prop_map(|(handle, value)| Request::Release { handle, value }),
        (handle(), usages(), any::<u32>()).prop_map(|(handle, usage, timeout_ms)| Request::Hold {
            handle,
            usage,
            timeout_ms,
        }),
    ]
}

fn revoke_targets() -> impl Strategy<Value = RevokeTarget> {
    prop_oneof![
        (1..=u64::MAX).prop_map(|handle| RevokeTarget::Handle(Handle(handle))),
        names().prop_map(RevokeTarget::Name),
    ]
}

fn requests() -> impl Strategy<Value = Request> {
    let handle = any::<u64>().prop_map(Handle);
    let flags = any::<u32>().prop_map(Flags);
    let access = prop_oneof![Just(Access::ReadOnly), Just(Access::ReadWrite)];
    prop_oneof![
        Just(Request::GetInfo),
        any::<(u64, u32)>().prop_map(|(cursor, max)| Request::List { cursor, max }),
        any::<(u64, u32)>().prop_map(|(cursor, max)| Request::GetUsage { cursor, max }),
        (names(), flags.clone(), enforcements()).prop_map(|(name, flags, enforcement)| {
            Request::Open {
                name,
                flags,
                enforcement,
            }
        }),
        handle.clone().prop_map(Request::Close),
        (handle.clone(), ranges(), access).prop_map(|(handle, (offset, length), access)| {
            Request::Map {
                handle,
                offset,
                length,
                access,
            }
        }),
        any::<u64>().prop_map(|number| Request::Unmap(MappingId(number))),
        (handle.clone(), flags, enforcements()).prop_map(|(handle, flags, enforcement)| {
            Request::Derive {
                handle,
                flags,
                enforcement,
            }
        }),
        (names(), 1..=u64::MAX - PAGE_SIZE).prop_map(|(heap, size)| Request::Alloc { heap, size }),
        (names(), any::<bool>(), formats()).prop_map(|(name, keep, format)| Request::Import {
            name,
            keep,
            format
        }),
        (handle, names(), any::<bool>(), formats()).prop_map(|(handle, name, keep, format)| {
            Request::Publish {
                handle,
                name,
                keep,
                format,
            }
        }),
        names().prop_map(Request::Withdraw),
        any::<u32>().prop_map(|index| Request::HeapList { index }),
        (revoke_targets(), any::<u32>()).prop_map(|(target, deadline_ms)| Request::Revoke {
            target,
            deadline_ms,
        }),
        fence_requests(),
        stream_requests().prop_map(Request::Stream),
    ]
}

fn stream_requests() -> impl Strategy<Value = StreamRequest> {
    let modes = prop_oneof![
        Just(ConsumeMode::Latest),
        (1u8..65).prop_map(ConsumeMode::Fifo)
    ];
    prop_oneof![
        (names(), modes, any::<u32>()).prop_map(|(name, mode, hold_ms)| StreamRequest::Open {
            name,
            mode,
            hold_ms
        }),
        any::<u64>().prop_map(StreamRequest::Close),
        (any::<(u64, u32)>(), enforcements()).prop_map(|((stream, index), enforcement)| {
            StreamRequest::Buffer {
                stream,
                index,
                enforcement,
            }
        }),
        any::<u64>().prop_map(StreamRequest::Acquire),
        any::<(u64, u64)>()
            .prop_map(|(stream, sequence)| StreamRequest::Release { stream, sequence }),
        (names(), any::<u32>()).prop_map(|(name, cursor)| StreamRequest::Stats { name, cursor }),
        any::<(u64, u32)>().prop_map(|(cursor, max)| StreamRequest::List { cursor, max }),
        (names(), formats()).prop_map(|(name, format)| StreamRequest::Create { name, format }),
        (any::<u64>(), any::<u64>().prop_map(Handle))
            .prop_map(|(stream, handle)| StreamRequest::Add { stream, handle }),
        (any::<(u64, u32, u64)>(), 0u32..2).prop_map(|((stream, index, timestamp_ns), flags)| {
            StreamRequest::Queue {
                stream,
                index,
                timestamp_ns,
                flags,
            }
        }),
        any::<u64>().prop_map(StreamRequest::Reclaim),
        any::<(u64, u32)>().prop_map(|(stream, deadline_ms)| StreamRequest::Revoke {
            stream,
            deadline_ms,
        }),
    ]
}

/// The body of a request about streams.
fn stream_body(request: &StreamRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |field: &[u8]| bytes.extend_from_slice(field);
    match *request {
        StreamRequest::Open {
            name,
            mode,
            hold_ms,
        } => {
            let (mode, depth) = mode.to_wire();
            put(&name.to_wire());
            [mode, depth, hold_ms, 0]
                .iter()
                .for_each(|field| put(&field.to_le_bytes()));
        }
        StreamRequest::Close(stream)
        | StreamRequest::Acquire(stream)
        | StreamRequest::Reclaim(stream) => put(&stream.to_le_bytes()),
        StreamRequest::Revoke {
            stream,
            deadline_ms,
        } => {
            put(&stream.to_le_bytes());
            put(&u64::from(deadline_ms).to_le_bytes());
        }
        StreamRequest::Buffer {
            stream,
            index,
            enforcement,
        } => {
            put(&stream.to_le_bytes());
            put(&index.to_le_bytes());
            put(&enforcement.to_wire().to_le_bytes());
        }
        StreamRequest::Release { stream, sequence } => {
            [stream, sequence]
                .iter()
                .for_each(|field| put(&field.to_le_bytes()));
        }
        StreamRequest::Stats { name, cursor } => {
            put(&name.to_wire());
            [cursor, 0]
                .iter()
                .for_each(|field| put(&field.to_le_bytes()));
        }
        StreamRequest::List { cursor, max } => {
            [cursor, max.into()]
                .iter()
                .for_each(|field| put(&field.to_le_bytes()));
        }
        StreamRequest::Create { name, format } => {
            put(&name.to_wire());
            put(&[0; 8]);
            put(format.unwrap_or_else(FromZeros::new_zeroed).as_bytes());
        }
        StreamRequest::Add { stream, handle } => {
            [stream, handle.0]
                .iter()
                .for_each(|field| put(&field.to_le_bytes()));
        }
        StreamRequest::Queue {
            stream,
            index,
            timestamp_ns,
            flags,
        } => {
            [stream, timestamp_ns]
                .iter()
                .for_each(|field| put(&field.to_le_bytes()));
            [index, flags]
                .iter()
                .for_each(|field| put(&field.to_le_bytes()));
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Request::parse(&bytes);
        let envelope = Envelope::of(&bytes);
        let whole = bytes.len() >= HEADER;
        prop_assert_eq!(envelope.op, if whole { u32::from_le_bytes(*bytes.first_chunk().unwrap()) } else { 0 });
        if !whole {
            prop_assert_eq!(Request::parse(&bytes), Err(Status::EINVAL));
        }
    }

    #[test]
    fn any_body_of_the_right_length_is_answered(request in requests(), body in vec(any::<u8>(), 200)) {
        let mut bytes = encode(&request, 0);
        let len = bytes.len();
        bytes[HEADER..].copy_from_slice(&body[..len - HEADER]);
        if let Ok(parsed) = Request::parse(&bytes) {
            prop_assert_eq!(encode(&parsed, 0), bytes, "what parses says all that was in it");
        }
    }

    #[test]
    fn what_was_encoded_is_parsed(request in requests(), tag in any::<u64>()) {
        let bytes = encode(&request, tag);
        prop_assert_eq!(Request::parse(&bytes), Ok(request));
        prop_assert_eq!(Envelope::of(&bytes), Envelope { op: request.op().to_wire(), tag });
        prop_assert!(bytes.len() <= Request::MAX_LEN);
    }

    #[test]
    fn a_reserved_byte_that_is_not_zero_is_refused(request in requests(), value in 1u8..) {
        let bytes = encode(&request, 1);
        let (zeros, keep) = zeros(&request);
        for at in zeros {
            let mut spoilt = bytes.clone();
            spoilt[at] = value;
            prop_assert_eq!(Request::parse(&spoilt), Err(Status::EINVAL), "byte {} of {:?}", at, request);
        }
        for (at, bit) in keep.into_iter().flat_map(|at| (1..8).map(move |bit| (at, bit))) {
            let mut spoilt = bytes.clone();
            spoilt[at] |= 1 << bit;
            prop_assert_eq!(Request::parse(&spoilt), Err(Status::EINVAL), "flag {} of {:?}", bit, request);
        }
    }

    #[test]
    fn a_wrong_length_is_refused(request in requests(), more in 1usize..64) {
        let bytes = encode(&request, 1);
        for len in 0..bytes.len() {
            prop_assert_eq!(Request::parse(&bytes[..len]), Err(Status::EINVAL), "{} bytes of {:?}", len, request);
        }
        let long = [bytes, vec![0; more]].concat();
        prop_assert_eq!(Request::parse(&long), Err(Status::EINVAL));
    }

    #[test]
    fn an_unknown_request_is_not_supported(op in any::<u32>(), body in vec(any::<u8>(), 0..150)) {
        prop_assume!(OpCode::try_from(op).is_err());
        let header = wire::RequestHeader { op: op.into(), ..FromZeros::new_zeroed() };
        let bytes = [header.as_bytes(), &body].concat();
        prop_assert_eq!(Request::parse(&bytes), Err(Status::EOPNOTSUPP));
    }
}

fn refused(request: &Request, change: impl FnOnce(&mut [u8])) {
    let mut bytes = encode(request, 1);
    change(&mut bytes[HEADER..]);
    assert_eq!(Request::parse(&bytes), Err(Status::EINVAL), "{request:?}");
}

#[test]
fn values_without_meaning_are_refused() {
    let name = Name::new("a").unwrap();
    let map = Request::Map {
        handle: Handle(1),
        offset: 0,
        length: PAGE_SIZE,
        access: Access::ReadOnly,
    };
    for access in [1, 3, 4, 0x80000] {
        refused(&map, |body| {
            body[24..28].copy_from_slice(&u32::to_le_bytes(access))
        });
    }
    for (offset, length) in [
        (0, 0),
        (1, PAGE_SIZE),
        (0, PAGE_SIZE + 1),
        (u64::MAX - 4095, PAGE_SIZE),
    ] {
        refused(&map, |body| {
            body[8..16].copy_from_slice(&u64::to_le_bytes(offset));
            body[16..24].copy_from_slice(&u64::to_le_bytes(length));
        });
    }
    let open = Request::Open {
        name,
        flags: Flags(0),
        enforcement: Enforcement::None,
    };
    refused(&open, |body| body[68] = 5);
    refused(&open, |body| body[0] = 0);
    refused(&open, |body| body[0] = b'*');
    let alloc = Request::Alloc {
        heap: name,
        size: 1,
    };
    refused(&alloc, |body| body[64] = 0);
    refused(&alloc, |body| body[64..72].fill(0xff));
}

#[test]
fn a_format_is_whole_or_absent() {
    let format = Format {
        fourcc: 1.into(),
        width: 1.into(),
        height: 1.into(),
        num_planes: 2.into(),
        ..FromZeros::new_zeroed()
    };
    let import = Request::Import {
        name: Name::new("a").unwrap(),
        keep: false,
        format: Some(format),
    };
    assert_eq!(Request::parse(&encode(&import, 1)), Ok(import));
    for field in [0, 4, 8, 12] {
        refused(&import, |body| body[72 + field..72 + field + 4].fill(0));
    }
    refused(&import, |body| body[72 + 12] = 5);
    // offset[2], stride[3]: planes that aren't used
    refused(&import, |body| body[72 + 24 + 8] = 1);
    refused(&import, |body| body[72 + 40 + 12] = 1);
}

#[test]
fn directions_and_usages_without_meaning_are_refused() {
    let handle = Handle(1);
    let (direction, usage) = (SyncDirection::ReadWrite, FenceUsage::Read);
    for request in [
        Request::SyncStart { handle, direction },
        Request::SyncEnd { handle, direction },
    ] {
        for flags in [0, 4, 5, 7, 0x8000_0001] {
            refused(&request, |body| {
                body[8..12].copy_from_slice(&u32::to_le_bytes(flags));
            });
        }
    }
    for request in [
        Request::FenceWait {
            handle,
            usage,
            timeout_ms: 1,
        },
        Request::FenceQuery { handle, usage },
        Request::Hold {
            handle,
            usage,
            timeout_ms: 1,
        },
    ] {
        for value in [0, 3, 4, 0x8000_0001] {
            refused(&request, |body| {
                body[8..12].copy_from_slice(&u32::to_le_bytes(value));
            });
        }
    }
}

#[test]
fn waits_have_a_queue_of_their_own() {
    let of_fences: Vec<OpCode> = OpCode::ALL
        .iter()
        .copied()
        .filter(|op| op.queue() == QUEUE_FENCE)
        .collect();
    assert_eq!(
        of_fences,
        [OpCode::FenceWait, OpCode::FenceCancel, OpCode::FenceQuery]
    );
    assert_eq!(OpCode::SyncStart.queue(), QUEUE_CONTROL);
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Rust structures against the files, both ways.

use crate::fence_messages::{RELEASE_VALUE, WAIT_TAG};
use crate::files;
use crate::messages::{self, HANDLE, MAPPING, format};
use dmabuf_protocol::request::Envelope;
use dmabuf_protocol::{
    Access, Enforcement, FenceUsage, Flags, Handle, MappingId, Name, OpCode, Request, RevokeTarget,
    Status, SyncDirection,
};
use std::collections::BTreeSet;

#[test]
fn the_structures_build_every_file() {
    for (name, built) in messages::all() {
        assert_eq!(
            files::hex(&built),
            files::hex(&files::vector(name)),
            "{name}"
        );
    }
    let files: BTreeSet<_> = files::all().into_keys().collect();
    let built: BTreeSet<_> = messages::all()
        .into_iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(files, built, "every file is checked");
}

#[test]
fn every_request_has_a_file_and_parses() {
    let name = |text| Name::new(text).unwrap();
    let front = name("front-camera/0");
    let expected = [
        ("get_info", Request::GetInfo),
        ("list", Request::List { cursor: 6, max: 2 }),
        (
            "open",
            Request::Open {
                name: front,
                flags: Flags(0x80000),
                enforcement: Enforcement::Sealed,
            },
        ),
        ("close", Request::Close(Handle(HANDLE))),
        (
            "map",
            Request::Map {
                handle: Handle(HANDLE),
                offset: 4096,
                length: 12288,
                access: Access::ReadOnly,
            },
        ),
        ("unmap", Request::Unmap(MappingId(MAPPING))),
        (
            "derive",
            Request::Derive {
                handle: Handle(HANDLE),
                flags: Flags(0),
                enforcement: Enforcement::Derived,
            },
        ),
        ("get_usage", Request::GetUsage { cursor: 6, max: 2 }),
        (
            "sync_start",
            Request::SyncStart {
                handle: Handle(HANDLE),
                direction: SyncDirection::Read,
            },
        ),
        (
            "sync_end",
            Request::SyncEnd {
                handle: Handle(HANDLE),
                direction: SyncDirection::ReadWrite,
            },
        ),
        (
            "fence_wait",
            Request::FenceWait {
                handle: Handle(HANDLE),
                usage: FenceUsage::Read,
                timeout_ms: 1500,
            },
        ),
        ("fence_cancel", Request::FenceCancel { tag: WAIT_TAG }),
        (
            "fence_query",
            Request::FenceQuery {
                handle: Handle(HANDLE),
                usage: FenceUsage::Write,
            },
        ),
        (
            "release",
            Request::Release {
                handle: Handle(HANDLE),
                value: RELEASE_VALUE,
            },
        ),
        (
            "hold",
            Request::Hold {
                handle: Handle(HANDLE),
                usage: FenceUsage::Read,
                timeout_ms: 20_000,
            },
        ),
        (
            "alloc",
            Request::Alloc {
                heap: name("camera"),
                size: 1_382_400,
            },
        ),
        (
            "import",
            Request::Import {
                name: name("decoder/out"),
                keep: true,
                format: None,
            },
        ),
        (
            "publish",
            Request::Publish {
                handle: Handle(HANDLE),
                name: name(&("n".repeat(63) + "/")),
                keep: false,
                format: Some(format()),
            },
        ),
        ("withdraw", Request::Withdraw(front)),
        ("heap_list", Request::HeapList { index: 1 }),
        (
            "revoke",
            Request::Revoke {
                target: RevokeTarget::Name(front),
                deadline_ms: 1500,
            },
        ),
    ];
    let expected = [&expected[..], &crate::stream_messages::parsed()].concat();
    for (file, request) in &expected {
        assert_eq!(
            Request::parse(&files::vector(&format!("{file}.request"))),
            Ok(*request),
            "{file}"
        );
    }
    let ops: Vec<OpCode> = expected.iter().map(|(_, request)| request.op()).collect();
    assert_eq!(ops, OpCode::ALL, "every request is there");
}

#[test]
fn replies_belong_to_their_requests() {
    for (name, reply) in files::all() {
        let Some(op) = name
            .strip_suffix(".reply")
            .and_then(|op| op.split('.').next())
        else {
            continue;
        };
        let request = files::vector(&format!("{op}.request"));
        assert_eq!(reply[..4], request[..4], "{name}: op");
    }
    let refused = Envelope::of(&files::vector("open.request")).reply(Status::EACCES);
    assert_eq!(
        zerocopy::IntoBytes::as_bytes(&refused),
        files::vector("open.refused")
    );
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The producer's loop with the test pattern: what it asks of the daemon, and what it says in lockstep.

use crate::daemon::*;
use dmabuf_client::picture::Fourcc;
use dmabuf_client::share::{ShareArguments, share};
use dmabuf_client::source::pattern::Pattern;
use dmabuf_client::{Access, Error, Status};
use dmabuf_protocol::{Request, wire};
use rustix::fs::{SealFlags, fcntl_add_seals};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// 128 × 64 pixels of NV12 are 3 pages.
const FRAME: u64 = 3 * 4096;

fn reply(slot: u64, name: &str, access: Access) -> wire::OpenReply {
    let mut reply = opened(name, access);
    reply.handle = U64::new(0x1_0000_0000 + slot);
    reply.fd_offset = U64::new(4096 + slot * FRAME);
    reply.buffer.size = U64::new(FRAME);
    reply
}

/// Gives out two slots of a memfd pool; slot 0 can be opened read-only, slot 1 can't.
fn serve_two_slots(daemon: &mut Daemon, pool: &OwnedFd) {
    for slot in 0..2 {
        assert!(matches!(
            daemon.request(),
            Some(Request::Alloc { size: FRAME, .. })
        ));
        daemon.reply(
            reply(slot, "", Access::ReadWrite).as_bytes(),
            &[pool.as_fd()],
        );
    }
    for slot in 0..2 {
        let Some(Request::Publish {
            handle,
            keep: false,
            format: Some(format),
            ..
        }) = daemon.request()
        else {
            panic!("each slot is published with its format, and leaves with its producer");
        };
        assert_eq!(handle.0, 0x1_0000_0000 + slot);
        assert_eq!(format.fourcc.get(), Fourcc::NV12.0);
        assert_eq!(
            (format.offset[1].get(), format.stride[1].get()),
            (128 * 64, 128)
        );
        daemon.reply(&[], &[]);
    }
    fcntl_add_seals(pool, SealFlags::FUTURE_WRITE | SealFlags::SEAL).unwrap();
}

fn run(script: &str, frames: Option<u64>) -> (Result<(), Error>, Vec<String>, File) {
    let pool = memfd(4096 + 2 * FRAME, SealFlags::SHRINK | SealFlags::GROW);
    let copy = pool.try_clone().unwrap();
    let (mut client, daemon) = with_daemon(move |daemon| {
        serve_two_slots(daemon, &pool);
        daemon.request();
        daemon.reply(
            reply(0, "t/0", Access::ReadOnly).as_bytes(),
            &[pool.as_fd()],
        );
        daemon.request();
        daemon.refuse(Status::EACCES);
        assert!(daemon.request().is_none(), "no request per frame");
    });
    let mut pattern = Pattern::new(128, 64, None).unwrap();
    let arguments = ShareArguments {
        heap: "pool".to_owned(),
        name: "t".to_owned(),
        buffers: 2,
        frames,
        stream: false,
        crc: false,
        lockstep: true,
    };
    let mut output = Vec::new();
    let result = share(
        &mut client,
        &mut pattern,
        &arguments,
        &mut script.as_bytes(),
        &mut output,
    );
    drop(client);
    daemon.join().unwrap();
    let lines = String::from_utf8(output)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    (result, lines, File::from(copy))
}

#[test]
fn frames_stand_still_until_the_partner_says_next() {
    let (result, lines, pool) = run("crc\nnext\ncrc\nbogus\ntag ff\ncrc\nquit\n", None);
    result.unwrap();
    let first: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!(
        (first[0], first[1], first[2], first[4]),
        ("frame", "t/0", "0", "12288")
    );
    assert_eq!(
        lines[1],
        format!("crc {}", first[5]),
        "a frame that stands still stays the same"
    );
    let second: Vec<&str> = lines[2].split(' ').collect();
    assert_eq!((second[1], second[2]), ("t/1", "1"));
    assert_ne!(second[5], first[5], "the picture moves");
    assert_eq!(lines[3], format!("crc {}", second[5]));
    assert!(lines[4].starts_with("error "), "{}", lines[4]);
    assert_eq!(lines[5], "tagged");
    assert_ne!(lines[6], lines[3]);
    assert_eq!(lines.len(), 7);
    let mut frame = vec![0; 12288];
    pool.read_exact_at(&mut frame, 4096).unwrap();
    assert_eq!(
        format!("{:08x}", crc32fast::hash(&frame)),
        first[5],
        "the CRC is that of the slot's bytes"
    );
    for page in 0..3 {
        let mut tag = [0; 8];
        pool.read_exact_at(&mut tag, 4096 + FRAME + page * 4096)
            .unwrap();
        assert_eq!(u64::from_le_bytes(tag), 0xff + page);
    }
}

#[test]
fn it_ends_with_the_input_or_the_number_of_frames() {
    let (result, lines, _) = run("next\n", None);
    result.unwrap();
    assert_eq!(
        lines.len(),
        2,
        "the second frame was shown, then the input ended"
    );
    let (result, lines, _) = run("next\nnext\nnext\nnext\nnext\n", Some(3));
    result.unwrap();
    let slots: Vec<_> = lines.iter().map(|line| &line[..9]).collect();
    assert_eq!(slots, ["frame t/0", "frame t/1", "frame t/0"]);
}

#[test]
fn frames_are_dumped() {
    let path = std::env::temp_dir().join(format!("dmabuf-client-dump-{}", std::process::id()));
    let script = format!("dump {}\ndump /nonexistent/file\nquit\n", path.display());
    let (result, lines, pool) = run(&script, None);
    result.unwrap();
    let dumped = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut frame = vec![0; 12288];
    pool.read_exact_at(&mut frame, 4096).unwrap();
    assert!(dumped == frame);
    assert_eq!(lines[1], "dumped");
    assert!(
        lines[2].starts_with("error /nonexistent/file"),
        "{}",
        lines[2]
    );
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who may open what: grants, enforcement, DERIVE, handles that go stale, other peers' buffers, quotas.

use crate::client::{Client, SEALED};
use crate::daemon::{CONFIG, Daemon};
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE, text};
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::Status;
use rustix::fs::SealFlags;

const SEALED_ENFORCEMENT: u32 = 4;
const VMM_ENFORCEMENT: u32 = 1;
const NOT_SEALED: SealFlags = SealFlags::SHRINK;

/// Buffers of every kind of grant that VM `a` has, and some that it has none for.
fn share_some(producer: &mut Client) {
    producer.share("ro/x", 4, SEALED);
    producer.share("ro/unsealed", 4, NOT_SEALED);
    producer.share("rw/x", 4, NOT_SEALED);
    producer.share("vmm/x", 4, NOT_SEALED);
    producer.share("b/x", 4, NOT_SEALED);
    producer.share("hidden", 4, SEALED);
}

#[test]
pub fn open_follows_the_grants() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    share_some(&mut producer);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);

    let open = vm.try_open("ro/x", READ_ONLY, 0).unwrap();
    assert_eq!(open.fd_offset.get(), 0);
    assert_eq!(text(&open.buffer.name), "ro/x");
    assert_eq!(open.buffer.size.get(), 4 * PAGE);
    assert_eq!(open.buffer.access.get(), READ_ONLY);
    assert_eq!(open.buffer.enforcement.get(), SEALED_ENFORCEMENT);
    assert_eq!(open.buffer.flags.get(), 0, "not in a static window");
    let open = vm
        .try_open("ro/x", 0o2_000_000, SEALED_ENFORCEMENT)
        .unwrap();
    assert_eq!(
        open.buffer.enforcement.get(),
        SEALED_ENFORCEMENT,
        "O_CLOEXEC is accepted"
    );
    let open = vm.try_open("rw/x", READ_WRITE, 0).unwrap();
    assert_eq!(
        (open.buffer.access.get(), open.buffer.enforcement.get()),
        (READ_WRITE, 0)
    );
    let open = vm.try_open("rw/x", READ_ONLY, 0).unwrap();
    assert_eq!(open.buffer.access.get(), READ_ONLY, "less than granted");
    let open = vm.try_open("vmm/x", READ_ONLY, 0).unwrap();
    assert_eq!(open.buffer.enforcement.get(), VMM_ENFORCEMENT);

    let mut refused = |name, flags, enforcement| vm.try_open(name, flags, enforcement).unwrap_err();
    assert_eq!(refused("ro/x", READ_WRITE, 0), Status::EACCES);
    assert_eq!(refused("ro/unsealed", READ_ONLY, 0), Status::EACCES);
    assert_eq!(
        refused("rw/x", READ_ONLY, SEALED_ENFORCEMENT),
        Status::EACCES
    );
    assert_eq!(
        refused("vmm/x", READ_ONLY, SEALED_ENFORCEMENT),
        Status::EACCES
    );
    assert_eq!(refused("vmm/x", READ_WRITE, 0), Status::EACCES);
    assert_eq!(refused("ro/none", READ_ONLY, 0), Status::ENOENT);
    // Whether what isn't granted exists can't be told.
    assert_eq!(refused("b/x", READ_ONLY, 0), Status::EACCES);
    assert_eq!(refused("b/none", READ_ONLY, 0), Status::EACCES);
    assert_eq!(refused("hidden", READ_ONLY, 0), Status::EACCES);
    assert_eq!(refused("cam/0", READ_ONLY, 0), Status::EACCES);
    daemon.logged(&["peer a", "ro/unsealed", "udmabuf pool", "enforcement"]);

    assert_eq!(vm.info().handles.get(), 5);
    for name in ["ro/x", "ro/unsealed", "rw/x", "vmm/x", "b/x", "hidden"] {
        producer.withdraw(name).unwrap();
    }
    drop(vm);
    drop(producer);
    daemon.returns_to(idle);
}

#[test]
pub fn list_shows_what_can_be_opened_page_by_page() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.list_page(0, 0).0.len(), 0);
    let mut producer = Client::connect(&daemon);
    share_some(&mut producer);
    let _slots = producer.fill_pool();
    let expected = ["ro/x", "rw/x", "vmm/x", "cam/0", "cam/1"];
    assert_eq!(vm.names(), expected);

    for max in [1, 2, 4, 5, 6, u32::MAX] {
        let (mut names, mut cursor) = (Vec::new(), 0);
        loop {
            let (page, next) = vm.list_page(cursor, max);
            assert!(page.len() <= max as usize);
            for info in &page {
                assert!(info.id.get() > cursor, "ascending");
                names.push(text(&info.name));
            }
            if next == 0 {
                break;
            }
            assert_eq!(page.last().unwrap().id.get(), next);
            cursor = next;
        }
        assert_eq!(names, expected, "{max} at a time");
    }
    assert_eq!(vm.list_page(u64::MAX, 0).0.len(), 0);

    let (page, _) = vm.list_page(0, 0);
    let facts = |i: usize| {
        (
            page[i].access.get(),
            page[i].enforcement.get(),
            page[i].flags.get(),
        )
    };
    assert_eq!(facts(0), (READ_ONLY, SEALED_ENFORCEMENT, 0));
    assert_eq!(facts(1), (READ_WRITE, 0, 0));
    assert_eq!(facts(2), (READ_ONLY, VMM_ENFORCEMENT, 0));
    assert_eq!(
        facts(3),
        (READ_ONLY, SEALED_ENFORCEMENT, 1),
        "in the static window"
    );
}

#[test]
pub fn derive_follows_the_contract() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    share_some(&mut producer);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let (ro, rw) = (vm.open("ro/x", READ_ONLY), vm.open("rw/x", READ_WRITE));
    let id = vm.list_page(0, 1).0[0].id.get();

    let less = vm.derive(rw, READ_ONLY, 0).unwrap();
    assert_eq!(less.buffer.access.get(), READ_ONLY);
    let same = vm.derive(rw, 0o2_000_000 | READ_WRITE, 0).unwrap();
    assert_eq!(same.buffer.access.get(), READ_WRITE);
    let again = vm.derive(ro, READ_ONLY, SEALED_ENFORCEMENT).unwrap();
    assert_eq!(again.buffer.id.get(), id);
    assert_eq!(text(&again.buffer.name), "ro/x");
    assert_eq!(again.buffer.enforcement.get(), SEALED_ENFORCEMENT);

    // Never more than the parent has, by no detour; O_WRONLY is write access.
    for parent in [ro, less.handle.get(), again.handle.get()] {
        assert_eq!(
            vm.derive(parent, READ_WRITE, 0).unwrap_err(),
            Status::EACCES
        );
        assert_eq!(vm.derive(parent, 1, 0).unwrap_err(), Status::EACCES);
    }
    for flags in [1, 3, 4, 0o4000, 0o2_000_003] {
        assert_eq!(
            vm.derive(rw, flags, 0).unwrap_err(),
            Status::EINVAL,
            "{flags:#o}"
        );
    }
    assert_eq!(vm.derive(ro, 3, 0).unwrap_err(), Status::EINVAL);
    assert_eq!(
        vm.derive(rw, READ_ONLY, SEALED_ENFORCEMENT).unwrap_err(),
        Status::EACCES
    );
    assert_eq!(vm.derive(0, READ_ONLY, 0).unwrap_err(), Status::ESTALE);

    // The derived alias outlives its parent, and the buffer's name.
    vm.close(ro).unwrap();
    producer.withdraw("ro/x").unwrap();
    assert_eq!(vm.derive(ro, READ_ONLY, 0).unwrap_err(), Status::ESTALE);
    assert!(vm.map(again.handle.get(), 0, PAGE, READ_ONLY).is_ok());
    assert_eq!(
        vm.try_open("ro/x", READ_ONLY, 0).unwrap_err(),
        Status::ENOENT
    );
}

#[test]
pub fn handles_go_stale_and_never_come_back() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    share_some(&mut producer);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let first = vm.open("ro/x", READ_ONLY);
    vm.close(first).unwrap();
    let second = vm.open("rw/x", READ_WRITE);
    assert_ne!(first, second);
    for stale in [
        first,
        0,
        u64::MAX,
        second + 1,
        second ^ 1 << 32,
        second & 0xffff_ffff,
    ] {
        assert_eq!(vm.close(stale).unwrap_err(), Status::ESTALE, "{stale:#x}");
        assert_eq!(vm.derive(stale, READ_ONLY, 0).unwrap_err(), Status::ESTALE);
        assert_eq!(
            vm.map(stale, 0, PAGE, READ_ONLY).unwrap_err(),
            Status::ESTALE
        );
        assert_eq!(vm.unmap(stale).unwrap_err(), Status::ESTALE);
    }
    vm.close(second).unwrap();
}

#[test]
pub fn a_handle_is_worth_nothing_to_another_peer() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    share_some(&mut producer);
    let mut a = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let mut b = FrontEnd::connect(&daemon, "b", Answer::Honours);
    let handle = a.open("rw/x", READ_WRITE);
    let mapping = a.map(handle, 0, PAGE, READ_WRITE).unwrap().mapping.get();
    assert_eq!(b.close(handle).unwrap_err(), Status::ESTALE);
    assert_eq!(b.derive(handle, READ_ONLY, 0).unwrap_err(), Status::ESTALE);
    assert_eq!(
        b.map(handle, 0, PAGE, READ_ONLY).unwrap_err(),
        Status::ESTALE
    );
    assert_eq!(b.unmap(mapping).unwrap_err(), Status::ESTALE);
    assert_eq!(
        b.try_open("rw/x", READ_WRITE, 0).unwrap_err(),
        Status::EACCES
    );
    assert_eq!(b.names(), ["b/x"]);
    let own = b.open("b/x", READ_WRITE);
    assert_ne!(own, handle, "no session has the numbers of another one");
    b.close(own).unwrap();
    a.unmap(mapping).unwrap();
    a.close(handle).unwrap();
    // Another connection of the same client has handles of its own, too.
    let mut other = Client::connect(&daemon);
    let own = producer.open("rw/x", READ_WRITE);
    assert_eq!(other.close(own).unwrap_err(), Status::ESTALE);
    assert_eq!(producer.close(own), Ok(()));
}

#[test]
pub fn handles_and_mappings_have_a_limit() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _slots = producer.fill_pool();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handles: Vec<u64> = (0..8).map(|_| vm.open("cam/0", READ_ONLY)).collect();
    assert_eq!(
        vm.try_open("cam/0", READ_ONLY, 0).unwrap_err(),
        Status::EMFILE
    );
    assert_eq!(
        vm.derive(handles[0], READ_ONLY, 0).unwrap_err(),
        Status::EMFILE
    );
    vm.close(handles[7]).unwrap();
    let derived = vm.derive(handles[0], READ_ONLY, 0).unwrap().handle.get();
    assert_eq!(vm.info().handles.get(), 8);

    let mappings: Vec<u64> = (0..6)
        .map(|_| vm.map(derived, 0, PAGE, READ_ONLY).unwrap().mapping.get())
        .collect();
    assert_eq!(
        vm.map(derived, 0, PAGE, READ_ONLY).unwrap_err(),
        Status::EMFILE
    );
    vm.unmap(mappings[2]).unwrap();
    assert!(vm.map(derived, 0, PAGE, READ_ONLY).is_ok());
    assert_eq!(vm.info().mappings.get(), 6);
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Configurations: one that has everything, and one of each kind that is wrong.

use super::*;
use crate::session::Target;
use dmabuf_protocol::{Access, Enforcement, HeapKind};

const EVERYTHING: &str = r#"
[broker]
socket-path = "/run/broker.sock"

[[heap]]
name = "system"
kind = "dma-heap"

[[heap]]
name = "cma"
kind = "dma-heap"
path = "/dev/dma_heap/linux,cma"

[[heap]]
name = "plain"
kind = "memfd"

[[pool]]
name = "camera"
kind = "udmabuf"
slots = 4
slot-size = "2M"
uuid = "5f0c1f6e-93a1-4f0e-8f5a-0d5b2c1a7e10"
link = "/run/camera.pool"

[[pool]]
name = "huge"
kind = "memfd"
slots = 2
slot-size = 4194304
huge-pages = true

[[buffer]]
name = "scratch"
heap = "system"
size = "64K"

[[vm]]
name = "cluster"
socket-path = "/run/cluster.sock"
window-size = "64M"
pools = ["camera"]
max-handles = 8
max-mappings = 4
allocate = ["system", "cma"]
publish = ["cluster/*"]
max-buffers = 3
max-waits = 12
max-holds = 5

[[vm.grant]]
pool = "camera"
access = "read-only"

[[vm.grant]]
buffer = "rw/*"
access = "read-write"
enforcement = "vmm"
fail-stop = true
max-wait-ms = 250
host-fence = true

[[vm]]
name = "ivi"
socket-path = "/run/ivi.sock"

[[client]]
name = "capture"
uid = 1000
gid = 44
publish = ["rw/*", "front"]
allocate = ["camera", "plain"]
max-handles = 16
max-bytes = "1G"
max-buffers = 7
max-waits = 13
max-consumers = 6
monitor = true

[[client.grant]]
buffer = "*"
access = "read-only"
enforcement = "sealed"

[fence-source]
device = "/dev/dri/renderD128"
"#;

#[test]
fn everything() {
    let config = Config::parse("f", EVERYTHING).unwrap();
    let devices: Vec<_> = config
        .heaps
        .iter()
        .map(|heap| heap.device.as_deref())
        .collect();
    let system = Path::new("/dev/dma_heap/system");
    assert_eq!(
        devices,
        [
            Some(system),
            Some(Path::new("/dev/dma_heap/linux,cma")),
            None
        ]
    );
    let [camera, huge] = &config.pools[..] else {
        panic!("two pools")
    };
    assert_eq!(
        (camera.kind, camera.slots, camera.slot_size),
        (HeapKind::Udmabuf, 4, 2 << 20)
    );
    assert_eq!(
        camera.uuid.to_string(),
        "5f0c1f6e-93a1-4f0e-8f5a-0d5b2c1a7e10"
    );
    assert_eq!(camera.link.as_deref(), Some(Path::new("/run/camera.pool")));
    assert_eq!(
        (huge.kind, huge.slot_size, huge.huge_pages),
        (HeapKind::Memfd, 4 << 20, true)
    );
    assert_ne!(huge.uuid.0, [0; 16]);
    assert_eq!(
        huge.size(),
        Some(16 << 20),
        "a header and two slots, up to a power of two"
    );
    assert_eq!(
        (config.buffers[0].name.as_str(), config.buffers[0].size),
        ("scratch", 64 << 10)
    );

    let [cluster, ivi] = &config.vms[..] else {
        panic!("two VMs")
    };
    assert_eq!(
        (
            cluster.window_size,
            cluster.limits.handles,
            cluster.limits.mappings
        ),
        (64 << 20, 8, 4)
    );
    assert_eq!(cluster.static_pools, ["camera"]);
    assert_eq!(cluster.grants[0].target, Target::Pool("camera".to_owned()));
    assert_eq!(
        cluster.grants[0].enforcement,
        Enforcement::Derived,
        "the kernel, by default"
    );
    assert_eq!(
        (cluster.grants[0].access, cluster.grants[0].fail_stop),
        (Access::ReadOnly, false)
    );
    assert_eq!(cluster.grants[1].enforcement, Enforcement::Vmm);
    assert_eq!(
        (cluster.grants[1].access, cluster.grants[1].fail_stop),
        (Access::ReadWrite, true)
    );
    assert_eq!(
        (ivi.window_size, ivi.limits.handles, ivi.limits.mappings),
        (0, 256, 256)
    );
    assert!(ivi.grants.is_empty(), "default deny");
    assert_eq!(cluster.allocate, ["system", "cma"]);
    assert_eq!(
        (cluster.limits.buffers, cluster.limits.bytes),
        (3, 64 << 20),
        "as many bytes as its window has, by default"
    );
    assert_eq!((cluster.publish.len(), ivi.publish.len()), (1, 0));
    assert!(ivi.allocate.is_empty(), "default deny");

    let client = &config.clients[0];
    assert_eq!(
        (client.uid, client.gid, client.limits.handles),
        (Some(1000), Some(44), 16)
    );
    assert_eq!((client.limits.bytes, client.publish.len()), (1 << 30, 2));
    assert_eq!(client.limits.buffers, 7);
    assert_eq!(client.grants[0].enforcement, Enforcement::Sealed);
    assert_eq!(
        config.broker.as_deref(),
        Some(Path::new("/run/broker.sock"))
    );
}

#[test]
fn enforcement_words() {
    let with = |word: &str| {
        let text = format!(
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\n[[vm.grant]]\nbuffer = \"b\"\naccess = \"read-only\"\n\
             enforcement = \"{word}\"\n"
        );
        Config::parse("f", &text).map(|config| config.vms[0].grants[0].enforcement)
    };
    assert_eq!(with("kernel").unwrap(), Enforcement::Derived);
    for enforcement in [
        Enforcement::Sealed,
        Enforcement::Derived,
        Enforcement::Ioctl,
        Enforcement::Vmm,
    ] {
        assert_eq!(with(enforcement.as_str()).unwrap(), enforcement);
    }
    assert!(with("none").is_err(), "nobody can't enforce anything");
}

/// `EVERYTHING` with `from` replaced must be refused in the line of the replacement, with `expected` in the message.
fn wrong(from: &str, to: &str, expected: &str) {
    assert_eq!(
        EVERYTHING.matches(from).count(),
        1,
        "{from:?} is there once"
    );
    let text = EVERYTHING.replace(from, to);
    let place = text.find(to).unwrap();
    let line = text[..place].matches('\n').count() + 1;
    let error = Config::parse("dmabuf.toml", &text).expect_err(to);
    assert_eq!(error.line, line, "{error}");
    assert!(
        error.message.contains(expected),
        "{error}: expected {expected:?}"
    );
    assert_eq!(
        error.to_string(),
        format!("dmabuf.toml:{line}: {}", error.message)
    );
}

#[test]
fn wrong_text() {
    wrong("slots = 4", "slots = ", "");
    wrong("slots = 4", "slots = \"4\"", "expected u32");
    wrong("slots = 4", "slots = -1", "u32");
    wrong(
        "slots = 4",
        "slot = 4",
        "unknown field `slot`, expected one of",
    );
    wrong("fail-stop = true", "fail-stop = 1", "expected a boolean");
    wrong("uid = 1000", "uid = \"root\"", "expected u32");
    let text = EVERYTHING.replace("kind = \"udmabuf\"\n", "");
    let error = Config::parse("f", &text).unwrap_err();
    assert!(error.message.contains("missing field `kind`"), "{error}");
    assert_eq!(
        text.lines().nth(error.line - 1),
        Some("[[pool]]"),
        "{error}"
    );
}

#[test]
fn what_a_vm_may_allocate_from() {
    let list = "[\"system\", \"cma\"]";
    wrong(list, "[\"absent\"]", "there is no [[heap]] or [[pool]]");
    wrong(list, "[\"cma\", \"cma\"]", "is there twice");
    wrong(list, "[\"huge\"] ", "is a memfd pool");
    let text = EVERYTHING.replace("window-size = \"64M\"\n", "");
    let error = Config::parse("f", &text).unwrap_err();
    assert!(error.message.contains("needs a window-size"), "{error}");
    wrong("max-buffers = 3", "max-buffers = 0", "expected 1 to 65536");
    let pool = EVERYTHING.replace(list, "[\"camera\"]");
    assert_eq!(
        Config::parse("f", &pool).unwrap().vms[0].allocate,
        ["camera"]
    );
}

#[test]
fn wrong_names_and_paths() {
    wrong(
        "name = \"capture\"",
        "name = \"\"",
        "expected a name of 1 to 64",
    );
    wrong("name = \"scratch\"", "name = \"a b\"", "found \"a b\"");
    wrong(
        "name = \"capture\"",
        "name = \"ivi\" ",
        "taken by another peer",
    );
    wrong(
        "name = \"huge\"",
        "name = \"system\" ",
        "taken by another heap or pool",
    );
    wrong(
        "\"/run/ivi.sock\"",
        "\"ivi.sock\"",
        "expected an absolute path",
    );
    wrong("\"/run/ivi.sock\"", "\"/run/camera.pool\" ", "used twice");
    wrong(
        "path = \"/dev/dma_heap/linux,cma\"",
        "path = \"cma\"",
        "expected an absolute path",
    );
    let path = EVERYTHING.replace(
        "kind = \"memfd\"\n\n[[pool]]",
        "kind = \"memfd\"\npath = \"/x\"\n\n[[pool]]",
    );
    let error = Config::parse("f", &path).unwrap_err();
    assert_eq!(
        (error.line, error.message.as_str()),
        (17, "a memfd heap has no path")
    );
    wrong("publish = [\"rw/*\"", "publish = [\"*rw\"", "found \"*rw\"");
    let twice = EVERYTHING.replace(
        "[[vm]]\nname = \"cluster\"",
        "[[buffer]]\nname = \"scratch\" \nheap = \"system\"\nsize = 1\n[[vm]]\nname = \"cluster\"",
    );
    let error = Config::parse("f", &twice).unwrap_err();
    assert!(error.message.contains("scratch is there twice"), "{error}");
}

#[test]
fn wrong_kinds_and_references() {
    wrong(
        "kind = \"udmabuf\"",
        "kind = \"dma-heap\" ",
        "expected kind = \"udmabuf\" or \"memfd\"",
    );
    wrong(
        "heap = \"system\"",
        "heap = \"sistem\"",
        "there is no [[heap]] or [[pool]] \"sistem\"",
    );
    wrong(
        "pools = [\"camera\"]",
        "pools = [\"kamera\"]",
        "there is no [[pool]] \"kamera\"",
    );
    wrong(
        "pools = [\"camera\"]",
        "pools = [\"system\"]",
        "there is no [[pool]] \"system\"",
    );
    wrong(
        "pools = [\"camera\"]",
        "pools = [\"camera\", \"camera\"]",
        "twice",
    );
    wrong(
        "pools = [\"camera\"]",
        "pools = [\"camera\", \"huge\"]",
        "no grant for it",
    );
    wrong(
        "pool = \"camera\"",
        "pool = \"cam\"",
        "there is no [[pool]] \"cam\"",
    );
    wrong(
        "allocate = [\"camera\"",
        "allocate = [\"none\"",
        "there is no [[heap]] or [[pool]]",
    );
    wrong(
        "access = \"read-write\"",
        "access = \"rw\"",
        "expected access = \"read-only\" or \"read-write\"",
    );
    wrong(
        "enforcement = \"vmm\"",
        "enforcement = \"guest\"",
        "expected enforcement = ",
    );
    let kind = EVERYTHING.replace(
        "name = \"system\"\nkind = \"dma-heap\"",
        "name = \"system\"\nkind = \"udmabuf\"",
    );
    let error = Config::parse("f", &kind).unwrap_err();
    assert_eq!(
        (
            error.line,
            error.message.contains("a udmabuf pool is a [[pool]]")
        ),
        (7, true),
        "{error}"
    );
}

#[test]
fn wrong_grants() {
    let grant = |lines: &str| {
        let text = format!(
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\n[[vm.grant]]\naccess = \"read-only\"\n{lines}"
        );
        Config::parse("f", &text).unwrap_err()
    };
    for lines in ["", "pool = \"a\"\nbuffer = \"b\"\n"] {
        let error = grant(lines);
        assert_eq!(
            (
                error.line,
                error
                    .message
                    .contains("one of pool =, buffer = and stream =")
            ),
            (5, true),
            "{error}"
        );
    }
    assert_eq!(grant("buffer = \"a*b\"\n").line, 6);
}

#[test]
fn wrong_sizes_and_numbers() {
    wrong("slots = 4", "slots = 0", "expected 1 to 1024 slots");
    wrong("slots = 4", "slots = 1025", "expected 1 to 1024 slots");
    wrong("slot-size = \"2M\"", "slot-size = 0", "multiple of 4096");
    wrong(
        "slot-size = \"2M\"",
        "slot-size = \"1000\"",
        "multiple of 4096",
    );
    wrong(
        "slot-size = \"2M\"",
        "slot-size = \"2MB\"",
        "expected a size",
    );
    wrong("slot-size = \"2M\"", "slot-size = true", "expected a size");
    wrong("slot-size = \"2M\"", "slot-size = -4096", "expected a size");
    wrong(
        "slot-size = \"2M\"",
        "slot-size = \"17179869184G\"",
        "expected a size",
    );
    wrong(
        "slot-size = \"2M\"",
        "slot-size = \"4294967296G\"",
        "too large",
    );
    wrong(
        "slot-size = 4194304",
        "slot-size = 4096",
        "multiple of 2097152",
    );
    wrong("size = \"64K\"", "size = 0 ", "expected a size above 0");
    wrong(
        "window-size = \"64M\"",
        "window-size = \"3M\"",
        "expected a power of two from 8K",
    );
    wrong(
        "window-size = \"64M\"",
        "window-size = 4096",
        "expected a power of two from 8K",
    );
    wrong(
        "window-size = \"64M\"",
        "window-size = \"2048G\"",
        "expected a power of two from 8K",
    );
    wrong("max-handles = 8", "max-handles = 0", "expected 1 to 65536");
    wrong(
        "max-mappings = 4",
        "max-mappings = 65537",
        "expected 1 to 65536",
    );
    wrong(
        "max-bytes = \"1G\"",
        "max-bytes = \"lots\"",
        "expected a size",
    );
}

#[test]
fn waits_and_holds() {
    let config = Config::parse("f", EVERYTHING).unwrap();
    let device = Path::new("/dev/dri/renderD128");
    assert_eq!(config.fence_source.as_deref(), Some(device));
    assert_eq!(
        (config.vms[0].limits.waits, config.vms[1].limits.waits),
        (12, 256)
    );
    assert_eq!(config.clients[0].limits.waits, 13);
    let streams: Vec<_> = config.vms.iter().map(|vm| vm.limits).collect();
    let streams: Vec<_> = streams.iter().map(|l| (l.holds, l.consumers)).collect();
    assert_eq!(streams, [(5, 64), (64, 64)]);
    assert_eq!(config.clients[0].limits.consumers, 6);
    assert!(config.clients[0].monitor);
    let terms: Vec<_> = config.vms[0]
        .grants
        .iter()
        .map(|grant| (grant.fences.max_wait_ms, grant.fences.host_fence))
        .collect();
    assert_eq!(terms, [(5000, false), (250, true)]);
    for (wrong_value, expected) in [
        ("max-waits = 0", "expected 1 to 65536"),
        ("max-waits = 65537", "expected 1 to 65536"),
    ] {
        wrong("max-waits = 12", wrong_value, expected);
    }
    wrong("max-holds = 5", "max-holds = 0", "expected 1 to 65536");
    wrong(
        "max-consumers = 6",
        "max-consumers = 65537",
        "expected 1 to 65536",
    );
    wrong("max-holds = 5", "monitor = true", "unknown field `monitor`");
    for bad in ["0", "3600001"] {
        wrong(
            "max-wait-ms = 250",
            &format!("max-wait-ms = {bad}"),
            "expected 1 to 3600000 milliseconds",
        );
    }
    wrong(
        "device = \"/dev/dri/renderD128\"",
        "device = \"dri/renderD128\"",
        "expected an absolute path",
    );
    let source = "[fence-source]\ndevice = \"/dev/dri/renderD128\"\n";
    let error = Config::parse("f", &EVERYTHING.replace(source, "")).unwrap_err();
    assert!(
        error
            .message
            .contains("host-fence = true needs a [fence-source]"),
        "{error}"
    );
}

#[test]
fn a_buffer_fits_its_slot() {
    let text = EVERYTHING.replace(
        "heap = \"system\"\nsize = \"64K\"",
        "heap = \"camera\"\nsize = \"3M\"",
    );
    let error = Config::parse("f", &text).unwrap_err();
    assert!(
        error
            .message
            .contains("expected at most 2097152 bytes, a slot of pool \"camera\""),
        "{error}"
    );
}

#[test]
fn wrong_uuids() {
    let uuid = "uuid = \"5f0c1f6e-93a1-4f0e-8f5a-0d5b2c1a7e10\"";
    for bad in [
        "",
        "5f0c1f6e93a14f0e8f5a0d5b2c1a7e10",
        "5f0c1f6e-93a1-4f0e-8f5a-0d5b2c1a7e1g",
        "00000000-0000-0000-0000-000000000000",
    ] {
        wrong(uuid, &format!("uuid = \"{bad}\""), "expected a uuid like");
    }
    let text = EVERYTHING.replace("huge-pages = true", &format!("huge-pages = true\n{uuid}"));
    let error = Config::parse("f", &text).unwrap_err();
    assert!(error.message.contains("taken by another pool"), "{error}");
}

#[test]
fn a_client_needs_a_broker() {
    let text = EVERYTHING.replace("[broker]\nsocket-path = \"/run/broker.sock\"\n", "");
    let error = Config::parse("f", &text).unwrap_err();
    assert!(error.message.contains("needs a [broker]"), "{error}");
    let nothing = Config::parse("f", "# nothing\n").unwrap_err();
    assert!(
        nothing.message.contains("expected at least one [[vm]]"),
        "{nothing}"
    );
    assert_eq!(nothing.line, 1);
}

#[test]
fn a_file_that_is_not_there() {
    let error = Config::load(Path::new("/nonexistent/dmabuf.toml")).unwrap_err();
    assert_eq!(
        (error.file.as_str(), error.line),
        ("/nonexistent/dmabuf.toml", 1)
    );
    assert!(error.message.contains("No such file"), "{error}");
}

#[test]
fn sizes() {
    for (text, size) in [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65536),
        ("3m", 3 << 20),
        ("1G", 1 << 30),
    ] {
        assert_eq!(parse_size(text), Some(size), "{text}");
    }
    for text in [
        "",
        "K",
        "-1",
        "1.5M",
        "1T",
        "0x10",
        "1 K",
        "18446744073709551616",
        "17179869184G",
    ] {
        assert_eq!(parse_size(text), None, "{text}");
    }
    assert_eq!(check_window(0), Ok(0));
    assert_eq!(check_window(8192), Ok(8192));
    assert_eq!(check_window(1 << 40), Ok(1 << 40));
}

#[test]
fn random_uuids_are_version_4_and_differ() {
    let (a, b) = (random_uuid(), random_uuid());
    assert_ne!(a, b);
    assert_eq!((a.0[6] >> 4, a.0[8] >> 6), (4, 2));
}

fn document(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What stands between each line `start` and the next line `end`.
fn blocks(text: &str, start: &str, end: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| line == start) {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
        blocks.push(block.join("\n"));
    }
    blocks
}

#[test]
fn the_examples_in_the_documents_are_right() {
    let manual = document("docs/man/vhost-device-dmabuf.toml.5");
    let readme = document("README.md");
    let manual = blocks(&manual, ".Bd -literal -offset indent", ".Ed");
    let readme = blocks(&readme, "```toml", "```");
    assert_eq!((manual.len(), readme.len()), (1, 2));
    for text in manual.iter().chain(&readme) {
        let config =
            Config::parse("example", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert!(!config.vms.is_empty() || !config.clients.is_empty());
    }
}

#[test]
fn the_manual_has_every_key_and_every_option() {
    let manual = document("docs/man/vhost-device-dmabuf.toml.5");
    let keys = EVERYTHING.lines().filter_map(|line| line.split_once(" = "));
    for (key, _) in keys {
        let words = |line: &str| line.split_whitespace().any(|word| word == key);
        let items = manual.lines().filter(|line| line.starts_with(".It Ic "));
        assert!(items.into_iter().any(words), "{key} is not in the manual");
    }
    let manual = document("docs/man/vhost-device-dmabuf.1");
    let command = <crate::args::Args as clap::CommandFactory>::command();
    for option in command.get_arguments().filter_map(clap::Arg::get_long) {
        assert!(
            manual.contains(&format!(".It Fl -{option}")),
            "--{option} is not in the manual"
        );
    }
}

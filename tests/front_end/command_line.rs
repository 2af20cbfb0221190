// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program as it is started: options, configuration files, sockets that are there already, and its end.

use crate::client::Client;
use crate::daemon::{CONFIG, Daemon, Directory, program};
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE};
use crate::vmm::FrontEnd;
use crate::window::Answer;
use rustix::io::{FdFlags, fcntl_setfd};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use vhost_device_dmabuf::sys;

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

/// Checks that it ends with an error of one line that says all of `parts`.
fn refused(output: &Output, parts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it succeeded: {error}");
    assert!(output.stdout.is_empty());
    let last = error.lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "{last:?} doesn't say {part:?}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

fn check(directory: &Directory, text: &str) -> Output {
    let path = directory.join("config.toml");
    let text = text.replace("{dir}", directory.path().to_str().unwrap());
    std::fs::write(&path, text).unwrap();
    run(&["--check", "--config", path.to_str().unwrap()])
}

#[test]
fn capabilities_are_json() {
    let output = run(&["--print-capabilities"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let compact: String = text.split_whitespace().collect();
    assert_eq!(compact, r#"{"type":"dmabuf","features":[]}"#);
    assert!(output.stderr.is_empty());
    assert!(run(&["--help"]).status.success());
    assert!(
        run(&["--version"])
            .stdout
            .starts_with(b"vhost-device-dmabuf ")
    );
}

#[test]
fn a_right_configuration_passes_and_touches_nothing() {
    let directory = Directory::new();
    let output = check(&directory, CONFIG);
    assert!(output.status.success(), "{output:?}");
    assert!(!directory.join("a.sock").exists());
}

#[test]
fn wrong_configurations_are_refused_with_their_line() {
    let directory = Directory::new();
    let cases: &[(&str, usize, &[&str])] = &[
        ("", 1, &["[[vm]]", "[broker]"]),
        ("[[vm]\n", 1, &[]),
        ("\n\n[colour]\n", 3, &["unknown field"]),
        (
            "[broker]\nsocket = \"/x\"\n",
            2,
            &["unknown field", "socket-path"],
        ),
        ("[broker]\nsocket-path = \"x\"\n", 2, &["absolute path"]),
        ("[broker]\n", 1, &["socket-path"]),
        (
            "[[heap]]\nname = \"x\"\nkind = \"udmabuf\"\n",
            3,
            &["expected", "[[pool]]"],
        ),
        (
            "[[heap]]\nname = \"x y\"\nkind = \"dma-heap\"\n",
            2,
            &["name"],
        ),
        (
            "[[pool]]\nname = \"p\"\nkind = \"shm\"\nslots = 1\nslot-size = 4096\n",
            3,
            &["udmabuf", "memfd"],
        ),
        (
            "[[pool]]\nname = \"p\"\nkind = \"memfd\"\nslots = 0\nslot-size = 4096\n",
            4,
            &["1 to"],
        ),
        (
            "[[pool]]\nname = \"p\"\nkind = \"memfd\"\nslots = 1\nslot-size = \"3K\"\n",
            5,
            &["multiple of 4096"],
        ),
        (
            "[[pool]]\nname = \"p\"\nkind = \"memfd\"\nslots = 1\nslot-size = \"4 MB\"\n",
            5,
            &["size"],
        ),
        (
            "[[pool]]\nname = \"p\"\nkind = \"memfd\"\nslots = 1\nslot-size = 4096\nuuid = \"x\"\n",
            6,
            &["uuid"],
        ),
        (
            "[[pool]]\nname = \"p\"\nkind = \"memfd\"\nslots = 1\nslot-size = 4096\n\n[[heap]]\nname = \"p\"\nkind = \"memfd\"\n",
            0,
            &["taken"],
        ),
        (
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\nwindow-size = \"3M\"\n",
            4,
            &["power of two"],
        ),
        (
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\npools = [\"p\"]\n",
            4,
            &["there is no [[pool]]"],
        ),
        (
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\nmax-handles = 0\n",
            4,
            &["1 to"],
        ),
        (
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\n[[vm.grant]]\nbuffer = \"x\"\naccess = \"write\"\n",
            6,
            &["read-only", "read-write"],
        ),
        (
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\n[[vm.grant]]\naccess = \"read-only\"\n",
            5,
            &["pool", "buffer"],
        ),
        (
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\n[[vm.grant]]\nbuffer = \"a*b\"\naccess = \"read-only\"\n",
            5,
            &["name"],
        ),
        (
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\n[[vm.grant]]\nbuffer = \"x\"\naccess = \"read-only\"\nenforcement = \"hope\"\n",
            7,
            &["kernel", "sealed"],
        ),
        (
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\n\n[[vm]]\nname = \"v\"\nsocket-path = \"/w\"\n",
            6,
            &["taken"],
        ),
        (
            "[[vm]]\nname = \"v\"\nsocket-path = \"/v\"\n\n[[vm]]\nname = \"w\"\nsocket-path = \"/v\"\n",
            7,
            &["twice"],
        ),
        ("[[client]]\nname = \"c\"\n", 2, &["[broker]"]),
        (
            "[broker]\nsocket-path = \"/b\"\n[[client]]\nname = \"c\"\nallocate = [\"none\"]\n",
            5,
            &["there is no"],
        ),
        (
            "[[buffer]]\nname = \"b\"\nheap = \"none\"\nsize = 4096\n",
            3,
            &["there is no"],
        ),
    ];
    for (text, line, parts) in cases {
        let output = check(&directory, text);
        let place = if *line == 0 {
            "config.toml:".to_owned()
        } else {
            format!("config.toml:{line}: ")
        };
        refused(&output, &[&[&place[..]], *parts].concat());
    }
    // The VM sees the whole pool: it needs a grant for it.
    let ungranted = CONFIG.replace(
        "[[vm.grant]]\npool = \"cam\"",
        "[[vm.grant]]\nbuffer = \"cam\"",
    );
    refused(
        &check(&directory, &ungranted),
        &["no grant for it", "[[vm.grant]]"],
    );
    let path = directory.join("absent.toml");
    refused(
        &run(&["--config", path.to_str().unwrap()]),
        &["absent.toml"],
    );
}

#[test]
fn wrong_options_are_refused() {
    let directory = Directory::new();
    let socket = directory.join("vm.sock");
    let socket = socket.to_str().unwrap();
    refused(&run(&[]), &["--config", "--socket-path", "--fd"]);
    let with = |more: &[&str]| run(&[&["--check", "--socket-path", socket], more].concat());
    assert!(with(&[]).status.success());
    refused(
        &with(&["--window-size", "5M"]),
        &["--window-size", "power of two"],
    );
    refused(&with(&["--window-size", "big"]), &["--window-size"]);
    refused(&with(&["--pool", "p"]), &["--pool", "NAME="]);
    refused(&with(&["--pool", "p=memfd:0x4K"]), &["--pool"]);
    refused(
        &with(&["--pool", "p=memfd:1x4K", "--pool", "p=memfd:1x4K"]),
        &["twice"],
    );
    refused(&with(&["--buffer", "b=none:4K"]), &["--buffer"]);
    refused(&with(&["--grant", "b:wo"]), &["--grant"]);
    for conflict in [
        &["--config", "/x", "--socket-path", "/y"][..],
        &["--fd", "3", "--socket-path", "/y"],
        &["--nonsense"],
    ] {
        assert!(!run(conflict).status.success(), "{conflict:?}");
    }
    // fds that are no listening sockets.
    for fd in ["0", "1", "2", "999"] {
        refused(&run(&["--fd", fd]), &["fd", fd]);
    }
}

#[test]
fn a_vm_with_a_broker() {
    let directory = Directory::new();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (socket, broker) = (path("vm.sock"), path("broker.sock"));
    let common = ["--socket-path", &socket, "--broker", &broker];
    let with = |more: &[&str]| run(&[&common[..], more].concat());
    assert!(
        with(&["--check", "--window-size", "1M"]).status.success(),
        "nothing is connected to"
    );
    refused(&with(&["--window-size", "5M"]), &["--window-size"]);
    for option in [
        ["--pool", "p=memfd:1x4K"],
        ["--heap", "system"],
        ["--buffer", "b=p:4K"],
        ["--grant", "b:ro"],
    ] {
        refused(&with(&option), &[option[0], "--broker", "[[client]]"]);
    }
    refused(&with(&["--serve-broker", "/x"]), &["--serve-broker"]);
    refused(&run(&["--broker", &broker]), &["--socket-path", "--fd"]);
    refused(
        &run(&["--broker", &broker, "--config", "/x"]),
        &["--config", "[[client]]"],
    );
    refused(
        &run(&["--socket-path", &socket, "--static-window", "/x"]),
        &["--static-window", "--broker", "--pool"],
    );
    // Nobody there; nobody listening; somebody who closes at once.
    refused(&with(&[]), &[&broker, "is the daemon running"]);
    drop(sys::listen(&directory.join("broker.sock")).unwrap());
    refused(&with(&[]), &[&broker, "refused"]);
    let daemon = Daemon::start(&CONFIG.replace("\"producer\"", "\"producer\"\nuid = 4999"));
    let theirs = daemon.file("broker.sock");
    refused(
        &run(&[
            "--socket-path",
            &socket,
            "--broker",
            theirs.to_str().unwrap(),
        ]),
        &["[[client]]", "uid"],
    );
    assert!(!directory.join("vm.sock").exists(), "no socket is left");
    // A static window that is none.
    let daemon = Daemon::start(CONFIG);
    let theirs = daemon.file("broker.sock");
    let common = [
        "--socket-path",
        &socket,
        "--broker",
        theirs.to_str().unwrap(),
    ];
    let with = |window: &str| run(&[&common[..], &["--static-window", window]].concat());
    let link = daemon.file("cam.pool");
    refused(&with(link.to_str().unwrap()), &["cam.pool", "sealed"]);
    refused(&with("/dev/null"), &["/dev/null", "pool"]);
    let config = daemon.file("config.toml");
    refused(&with(config.to_str().unwrap()), &["pool"]);
}

#[test]
fn one_vm_by_options() {
    let directory = Directory::new();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let mut command = program();
    command
        .args([
            "--socket-path",
            &path("vm.sock"),
            "--serve-broker",
            &path("broker.sock"),
        ])
        .args(["--window-size", "1M"])
        .args(["--pool", &format!("cam=memfd:2x64K:{}", path("cam.pool"))])
        .args(["--buffer", "one=cam:4K", "--buffer", "two=cam:64K"])
        .args(["--grant", "rw/*:rw"]);
    let daemon = Daemon::start_with(command, directory);
    assert!(
        daemon.file("cam.pool").exists(),
        "full from the start, and thus sealed"
    );
    let mut vm = FrontEnd::connect(&daemon, "vm", Answer::IgnoresReadOnly);
    assert_eq!(vm.names(), ["one", "two"]);
    let handle = vm.open("two", READ_ONLY);
    assert_eq!(vm.map(handle, 0, PAGE, READ_ONLY).unwrap().window.get(), 1);
    let mut client = Client::connect(&daemon);
    client.share("rw/x", 1, rustix::fs::SealFlags::SHRINK);
    let handle = vm.open("rw/x", READ_WRITE);
    assert!(vm.map(handle, 0, PAGE, READ_WRITE).is_ok());
}

#[test]
fn an_inherited_socket() {
    let directory = Directory::new();
    let listener = UnixListener::bind(directory.join("vm.sock")).unwrap();
    let mut command = program();
    command.args(["--fd", &listener.as_raw_fd().to_string()]);
    fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let daemon = Daemon::start_with(command, directory);
    fcntl_setfd(&listener, FdFlags::CLOEXEC).unwrap();
    drop(listener);
    for _ in 0..3 {
        let mut vm = FrontEnd::connect(&daemon, "vm", Answer::Honours);
        assert_eq!(vm.info().handles.get(), 0);
    }
}

/// A pool that is full from the start, so that its link is there.
fn full_pool() -> String {
    let buffers = "[[buffer]]\nname = \"one\"\nheap = \"cam\"\nsize = 4096\n\
                   [[buffer]]\nname = \"two\"\nheap = \"cam\"\nsize = 4096\n";
    format!("{buffers}{CONFIG}")
}

#[test]
fn a_second_daemon_does_not_disturb_the_first() {
    let daemon = Daemon::start(&full_pool());
    let link = std::fs::read_link(daemon.file("cam.pool")).unwrap();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let config = daemon.file("config.toml");
    let second = run(&["--config", config.to_str().unwrap()]);
    refused(&second, &["sock", "in use"]);
    assert_eq!(
        std::fs::read_link(daemon.file("cam.pool")).unwrap(),
        link,
        "the first one's link"
    );
    assert_eq!(vm.info().handles.get(), 0);
    drop(vm);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.names(), ["one", "two"]);
    let mut client = Client::connect(&daemon);
    assert_eq!(client.names(), ["one", "two"]);
}

#[test]
fn what_a_dead_daemon_left_is_replaced() {
    let directory = Directory::new();
    for name in ["a.sock", "b.sock"] {
        drop(UnixListener::bind(directory.join(name)).unwrap());
    }
    std::os::unix::fs::symlink("/proc/1/fd/999", directory.join("cam.pool")).unwrap();
    let config = directory.join("config.toml");
    std::fs::write(
        &config,
        full_pool().replace("{dir}", directory.path().to_str().unwrap()),
    )
    .unwrap();
    let mut command = program();
    command.arg("--config").arg(&config);
    let daemon = Daemon::start_with(command, directory);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.names(), ["one", "two"]);
    assert!(std::fs::File::open(daemon.file("cam.pool")).is_ok());
}

#[test]
fn files_that_are_not_its_own_stay() {
    for name in ["a.sock", "broker.sock", "cam.pool"] {
        let directory = Directory::new();
        std::fs::write(directory.join(name), b"precious").unwrap();
        let config = directory.join("config.toml");
        std::fs::write(
            &config,
            full_pool().replace("{dir}", directory.path().to_str().unwrap()),
        )
        .unwrap();
        let output = run(&["--config", config.to_str().unwrap()]);
        refused(&output, &[]);
        assert_eq!(std::fs::read(directory.join(name)).unwrap(), b"precious");
    }
}

#[test]
fn what_is_missing_is_named() {
    let directory = Directory::new();
    let start = |text: &str| {
        let text = format!(
            "[broker]\nsocket-path = \"{dir}/broker.sock\"\n{text}",
            dir = "{dir}"
        );
        let config = directory.join("config.toml");
        std::fs::write(
            &config,
            text.replace("{dir}", directory.path().to_str().unwrap()),
        )
        .unwrap();
        run(&["--config", config.to_str().unwrap()])
    };
    let heap = "[[heap]]\nname = \"none\"\nkind = \"dma-heap\"\n";
    refused(&start(heap), &["none", "/dev/dma_heap/none"]);
    let socket = "[[vm]]\nname = \"v\"\nsocket-path = \"/none/vm.sock\"\n";
    refused(&start(socket), &["/none/vm.sock"]);
    // Whatever it had made by then is gone again.
    let linked = "[[pool]]\nname = \"p\"\nkind = \"memfd\"\nslots = 1\nslot-size = 4096\nlink = \"{dir}/link\"\n\
                  [[buffer]]\nname = \"b\"\nheap = \"p\"\nsize = 4096\n\
                  [[buffer]]\nname = \"c\"\nheap = \"p\"\nsize = 4096\n";
    refused(&start(linked), &["\"c\"", "EBUSY"]);
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["config.toml"]);
}

#[test]
fn it_ends_with_peers_connected_and_leaves_nothing() {
    let mut daemon = Daemon::start(&full_pool());
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let mut client = Client::connect(&daemon);
    assert_eq!(vm.names(), client.names());
    let names = ["a.sock", "b.sock", "blind.sock", "broker.sock", "cam.pool"];
    for name in names {
        assert!(
            std::fs::symlink_metadata(daemon.file(name)).is_ok(),
            "{name}"
        );
    }
    assert!(daemon.end().success());
    for name in names {
        assert!(
            std::fs::symlink_metadata(daemon.file(name)).is_err(),
            "{name} is left"
        );
    }
    assert!(client.is_closed(std::time::Duration::from_secs(5)));
}

#[test]
fn the_log_level_is_obeyed() {
    let directory = Directory::new();
    let mut command: Command = program();
    command.args([
        "--log-level",
        "error",
        "--socket-path",
        directory.join("vm.sock").to_str().unwrap(),
    ]);
    let daemon = Daemon::start_with(command, directory);
    let mut vm = FrontEnd::connect(&daemon, "vm", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
    drop(vm);
    daemon.idle(1);
    assert_eq!(daemon.log(), [""; 0]);
}

#[test]
fn what_a_peer_may_do_is_told_without_a_daemon() {
    let directory = Directory::new();
    let path = directory.join("config.toml");
    let text = CONFIG.replace("{dir}", directory.path().to_str().unwrap());
    let stream = "[[client.grant]]\nstream = \"t/*\"\naccess = \"read-only\"\nmax-held = 3\n";
    std::fs::write(&path, format!("{text}{stream}")).unwrap();
    let path = path.to_str().unwrap();
    let told = |peer: &str, what: &str| {
        let output = run(&["--config", path, "--check", "--peer", peer, "--what", what]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let says = |text: &str, what: &str, parts: &[&str]| {
        let line = text.lines().find(|line| line.starts_with(what)).unwrap();
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    };
    let in_vm = told("a", "ro/x");
    says(
        &in_vm,
        "open, as a buffer",
        &["read-only", "derived or better", "read-write is EACCES"],
    );
    says(&in_vm, "open, as a slot of cam", &["read-only", "EACCES"]);
    says(
        &in_vm,
        "consume",
        &["EACCES", "[[vm.grant]] stream = \"ro/x\""],
    );
    says(&in_vm, "publish", &["EOPNOTSUPP"]);
    says(&in_vm, "allocate", &["EOPNOTSUPP"]);
    says(&told("a", "vmm/x"), "open, as a buffer", &["vmm or better"]);
    says(
        &told("a", "rw/x"),
        "open, as a buffer",
        &["read-write; read-only"],
    );
    says(
        &told("b", "ro/x"),
        "open, as a buffer",
        &["EACCES: no grant covers it"],
    );
    let client = told("producer", "t/front");
    says(&client, "open, as a buffer", &["read-write"]);
    says(&client, "consume", &["at most 3 frames", "1000 ms"]);
    says(&client, "publish", &["yes"]);
    says(&client, "allocate", &["EACCES"]);
    says(
        &told("producer", "plain"),
        "allocate",
        &["yes, 600 buffers"],
    );
    let wrong = |more: &[&str], parts: &[&str]| {
        let all = [&["--config", path, "--check"], more].concat();
        refused(&run(&all), parts);
    };
    wrong(&["--peer", "nobody", "--what", "x"], &["nobody"]);
    wrong(&["--peer", "a", "--what", "x y"], &["x y", "name"]);
    for alone in [["--peer", "a"], ["--what", "x"]] {
        assert_eq!(
            run(&[&["--config", path, "--check"][..], &alone].concat())
                .status
                .code(),
            Some(2)
        );
    }
}

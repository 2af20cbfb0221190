// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-device-dmabuf: host processes and virtual machines share the same dma-buf memory.
//!
//! A request's way: virtqueue ([`vhost`]) or socket ([`broker`]) → bytes → `dmabuf_protocol` (all validation) →
//! [`session`] → [`buffer`], [`heap`], [`fence`] → reply bytes. Transports know nothing about buffers, buffers nothing about
//! transports.
//!
//! | module | owns |
//! |---|---|
//! | [`args`], [`config`] | what the user wants, checked |
//! | [`buffer`] | buffers, aliases, derive, the list of what is published |
//! | [`heap`] | dma-heaps, pools, imports |
//! | [`fence`] | waiting for fences, CPU access brackets, fences that hold a buffer |
//! | [`session`] | one peer: handles, grants, mappings, requests → replies |
//! | [`stream`] | frames, holds, release |
//! | [`gauge`] | what is in use, counted |
//! | [`vhost`] | virtqueues, windows, the front-end |
//! | [`broker`] | the Unix socket of host processes |
//! | [`relay`] | one VM in a process of its own, with what a broker grants it |
//! | [`sys`] | ioctls, mappings, fds: the only module with unsafe code |

pub mod args;
pub mod broker;
pub mod buffer;
pub mod complaints;
pub mod config;
pub mod error;
pub mod fence;
pub mod gauge;
pub mod heap;
pub mod relay;
pub mod session;
mod sockets;
pub mod stream;
pub mod sys;
pub mod vhost;
mod watch;

pub use config::{Config, RelayConfig};
pub use error::Error;

use ::vhost::vhost_user::Listener;
use buffer::{Buffer, Deriver, Published};
use fence::{FenceSource, Fences, HostKernel};
use heap::{DmaHeap, Heap, MemfdHeap, Pool, PoolHeap};
use session::{Host, Policy};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sockets::Sockets;
use std::collections::HashMap;
use std::sync::Arc;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(config: &Config) -> Result<(), Error> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut sockets = Sockets::open(config)?;
    // Each buffer is an fd, each slot of a udmabuf pool too.
    sys::raise_fd_limit();
    sys::survive_truncation()?;
    let mut pools = HashMap::new();
    let fences = Fences::start(Arc::new(HostKernel), open_fence_source(config)?)?;
    let vms = config.vms.iter().map(|vm| Arc::new(vm.policy()));
    let vms: Vec<Arc<Policy>> = vms.collect();
    let clients = config
        .clients
        .iter()
        .map(|client| Arc::new(client.policy()));
    let clients: Vec<Arc<Policy>> = clients.collect();
    let mut host = Host {
        deriver: Arc::new(Deriver::open()),
        peers: vms.iter().chain(&clients).cloned().collect(),
        ..Host::new(fences)
    };
    for heap in &config.heaps {
        host.heaps
            .insert(heap.name.clone(), open_heap(heap, &host.deriver)?);
    }
    for options in &config.pools {
        let pool = Pool::create(options.clone())?;
        pools.insert(options.name.clone(), Arc::clone(&pool));
        host.heaps
            .insert(options.name.clone(), Box::new(PoolHeap(pool)));
    }
    host.streams.start()?;
    host.revocations.start()?;
    let host = Arc::new(host);
    for buffer in &config.buffers {
        predeclare(&host, buffer).map_err(|status| Error::Buffer {
            name: buffer.name.as_str().to_owned(),
            heap: buffer.heap.clone(),
            status,
        })?;
    }
    for ((vm, policy), listener) in config.vms.iter().zip(vms).zip(sockets.vms.drain(..)) {
        serve_vm(vm, policy, &pools, &host, listener)?;
    }
    if let Some(listener) = sockets.broker.take() {
        let clients = config.clients.iter().zip(clients);
        let clients = clients.map(|(client, policy)| broker::Client::new(client, policy));
        broker::start(listener, clients.collect(), &host)?;
    }
    wait_for_end(&mut signals);
    // Threads that serve peers hold pools, so these are not dropped; their links are taken away here.
    pools.values().for_each(|pool| pool.remove_link());
    Ok(())
}

/// Runs one VM's device with what a broker grants it, until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting: no broker above all.
pub fn run_relay(config: &RelayConfig) -> Result<(), Error> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut sockets = Sockets::default();
    sockets.open_vm(&config.socket)?;
    sys::raise_fd_limit();
    sys::survive_truncation()?;
    let broker = relay::Broker {
        path: config.broker.clone(),
        terms: relay::Terms::ask(&config.broker)?,
        fixed: config
            .static_windows
            .iter()
            .map(|path| relay::Fixed::open(path))
            .collect::<Result<_, _>>()?,
    };
    let device = vhost::Vm {
        name: broker.terms.name,
        max_handles: broker.terms.max_handles,
        max_mappings: session::Limits::DEFAULT.mappings,
        allocates: broker.terms.allocates,
        window_size: config.window_size,
        fixed: broker.fixed.iter().map(|f| f.window.clone()).collect(),
        sessions: Arc::new(broker),
    };
    if let Some(listener) = sockets.vms.pop() {
        start_vm(device, listener)?;
    }
    wait_for_end(&mut signals);
    Ok(())
}

fn wait_for_end(signals: &mut Signals) {
    log::info!("ready");
    sys::notify_ready();
    let signal = signals.forever().next();
    log::info!(
        "ending on {}",
        signal.map_or("request", |s| if s == SIGINT {
            "SIGINT"
        } else {
            "SIGTERM"
        })
    );
}

fn open_fence_source(config: &Config) -> Result<Option<FenceSource>, Error> {
    let open = |device: &std::path::PathBuf| {
        FenceSource::open(device).map_err(|source| Error::FenceSource {
            device: device.clone(),
            source,
        })
    };
    config.fence_source.as_ref().map(open).transpose()
}

fn open_heap(heap: &config::HeapConfig, deriver: &Arc<Deriver>) -> Result<Box<dyn Heap>, Error> {
    let Some(path) = &heap.device else {
        return Ok(Box::new(MemfdHeap));
    };
    match DmaHeap::open(path, Arc::clone(deriver)) {
        Ok(opened) => Ok(Box::new(opened)),
        Err(source) => {
            let what = format!("open {}", path.display());
            Err(Error::Heap {
                name: heap.name.clone(),
                what,
                source,
            })
        }
    }
}

fn predeclare(host: &Host, config: &config::BufferConfig) -> Result<(), dmabuf_protocol::Status> {
    let heap: &dyn Heap = host
        .heaps
        .get(&config.heap)
        .ok_or(dmabuf_protocol::Status::ENOENT)?
        .as_ref();
    let buffer = Buffer::new(heap.allocate(config.size)?, None);
    host.publish(Published {
        name: config.name,
        buffer,
        format: None,
        owner: None,
    })
}

fn serve_vm(
    vm: &config::VmConfig,
    policy: Arc<Policy>,
    pools: &HashMap<String, Arc<Pool>>,
    host: &Arc<Host>,
    listener: Listener,
) -> Result<(), Error> {
    let fixed = vm.static_pools.iter().filter_map(|name| pools.get(name));
    let device = vhost::Vm {
        name: vm.name,
        max_handles: vm.limits.handles,
        max_mappings: vm.limits.mappings,
        allocates: !vm.allocate.is_empty(),
        window_size: vm.window_size,
        fixed: fixed
            .map(|pool| vhost::StaticWindow {
                uuid: pool.uuid(),
                inodes: pool.inodes(),
            })
            .collect(),
        sessions: vhost::Local {
            host: Arc::clone(host),
            policy,
        },
    };
    start_vm(device, listener)
}

/// Starts the thread that serves a VM's front-ends.
fn start_vm<S: vhost::Sessions + Send + 'static>(
    device: vhost::Vm<S>,
    listener: Listener,
) -> Result<(), Error> {
    std::thread::Builder::new()
        .name(format!("vm {}", device.name))
        .spawn(move || device.serve(listener))?;
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the file as TOML has it to a checked [`Config`]: every table, and the references between them.
//!
//! Every complaint names the place in the text, and what was expected there. Called by [`Config::parse`].

use super::values::{
    Wrong, absolute, byte_limit, bytes, check_window, limit, name, parse_uuid, pattern,
    random_uuid, wait_ms, wrong,
};
use super::{BufferConfig, ClientConfig, Config, HeapConfig, SocketSource, VmConfig, raw};
use crate::heap::PoolOptions;
use crate::session::{FenceTerms, Grant, Limits, Target};
use dmabuf_protocol::wire::STREAM_MAX_BUFFERS;
use dmabuf_protocol::{Enforcement, HeapKind, Name, PAGE_SIZE, Uuid};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// Most slots of a pool: as many as udmabuf's default list_limit.
const MAX_POOL_SLOTS: u32 = 1024;

/// What has been seen of a file so far.
#[derive(Default)]
pub(super) struct Checker {
    /// Names of heaps and pools, which share one name space.
    sources: HashSet<String>,
    /// Slot size of each pool.
    pools: HashMap<String, u64>,
    memfd_pools: HashSet<String>,
    uuids: HashSet<Uuid>,
    paths: HashSet<PathBuf>,
    peers: HashSet<Name>,
    /// There is a fence source.
    fences: bool,
}

impl Checker {
    /// Checks a whole file.
    pub fn check(mut self, raw: raw::File) -> Result<Config, Wrong> {
        let mut config = Config::default();
        for heap in raw.heap {
            config.heaps.push(self.heap(heap)?);
        }
        for pool in raw.pool {
            config.pools.push(self.pool(pool)?);
        }
        if let Some(broker) = raw.broker {
            config.broker = Some(self.path(&broker.socket_path)?);
        }
        if let Some(source) = raw.fence_source {
            config.fence_source = Some(absolute(&source.device)?);
            self.fences = true;
        }
        let mut names = HashSet::new();
        for buffer in raw.buffer {
            let buffer = self.buffer(&buffer)?;
            if !names.insert(buffer.1.name) {
                return Err(Wrong {
                    offset: buffer.0,
                    message: format!("buffer {} is there twice", buffer.1.name),
                });
            }
            config.buffers.push(buffer.1);
        }
        for vm in raw.vm {
            config.vms.push(self.vm(vm)?);
        }
        for client in raw.client {
            if config.broker.is_none() {
                return Err(wrong(
                    &client.name,
                    "a [[client]] needs a [broker] with socket-path",
                ));
            }
            config.clients.push(self.client(client)?);
        }
        if config.vms.is_empty() && config.broker.is_none() {
            return Err(Wrong {
                offset: 0,
                message: "expected at least one [[vm]], or a [broker]: this serves nobody"
                    .to_owned(),
            });
        }
        Ok(config)
    }

    fn heap(&mut self, raw: raw::Heap) -> Result<HeapConfig, Wrong> {
        let device = match (raw.kind.get_ref().as_str(), &raw.path) {
            ("dma-heap", Some(path)) => Some(absolute(path)?),
            ("dma-heap", None) => Some(Path::new("/dev/dma_heap").join(raw.name.get_ref())),
            ("memfd", None) => None,
            ("memfd", Some(path)) => return Err(wrong(path, "a memfd heap has no path")),
            (other, _) => {
                let message = format!(
                    "expected kind = \"dma-heap\" or \"memfd\", found {other:?} (a udmabuf pool is a [[pool]])"
                );
                return Err(wrong(&raw.kind, message));
            }
        };
        Ok(HeapConfig {
            name: self.source(&raw.name)?,
            device,
        })
    }

    fn pool(&mut self, raw: raw::Pool) -> Result<PoolOptions, Wrong> {
        let kind = match raw.kind.get_ref().as_str() {
            "udmabuf" => HeapKind::Udmabuf,
            "memfd" => HeapKind::Memfd,
            other => {
                let message = format!("expected kind = \"udmabuf\" or \"memfd\", found {other:?}");
                return Err(wrong(&raw.kind, message));
            }
        };
        let name = self.source(&raw.name)?;
        let slots = *raw.slots.get_ref();
        if !(1..=MAX_POOL_SLOTS).contains(&slots) {
            return Err(wrong(
                &raw.slots,
                format!("expected 1 to {MAX_POOL_SLOTS} slots, found {slots}"),
            ));
        }
        let unit = if raw.huge_pages { 2 << 20 } else { PAGE_SIZE };
        let slot_size = bytes(&raw.slot_size, unit)?;
        self.pools.insert(name.clone(), slot_size);
        if kind == HeapKind::Memfd {
            self.memfd_pools.insert(name.clone());
        }
        let uuid = match &raw.uuid {
            Some(text) => self.uuid(text)?,
            None => random_uuid(),
        };
        let link = raw.link.as_ref().map(|link| self.path(link)).transpose()?;
        let options = PoolOptions {
            name,
            kind,
            slots,
            slot_size,
            huge_pages: raw.huge_pages,
            uuid,
            link,
        };
        if options.size().is_none() {
            return Err(wrong(
                &raw.slot_size,
                "the pool is too large: expected at most 2^62 bytes in all",
            ));
        }
        Ok(options)
    }

    fn buffer(&self, raw: &raw::Buffer) -> Result<(usize, BufferConfig), Wrong> {
        let heap = self.known_source(&raw.heap)?;
        let size = bytes(&raw.size, 1)?;
        if let Some(slot) = self.pools.get(&heap).filter(|slot| size > **slot) {
            let message =
                format!("expected at most {slot} bytes, a slot of pool {heap:?}, found {size}");
            return Err(wrong(&raw.size, message));
        }
        Ok((
            raw.name.span().start,
            BufferConfig {
                name: name(&raw.name)?,
                heap,
                size,
            },
        ))
    }

    fn vm(&mut self, raw: raw::Vm) -> Result<VmConfig, Wrong> {
        let name = self.peer(&raw.name)?;
        let socket = SocketSource::Path(self.path(&raw.socket_path)?);
        let window_size = match &raw.window_size {
            None => 0,
            Some(size) => {
                check_window(bytes(size, PAGE_SIZE)?).map_err(|message| wrong(size, message))?
            }
        };
        let mut static_pools = Vec::new();
        for pool in &raw.pools {
            if !self.pools.contains_key(pool.get_ref()) {
                return Err(wrong(
                    pool,
                    format!("there is no [[pool]] {:?}", pool.get_ref()),
                ));
            }
            if static_pools.contains(pool.get_ref()) {
                return Err(wrong(
                    pool,
                    format!("pool {:?} is there twice", pool.get_ref()),
                ));
            }
            static_pools.push(pool.get_ref().clone());
        }
        let grants = self.grants(raw.grant)?;
        for pool in &raw.pools {
            let granted = |grant: &Grant| matches!(&grant.target, Target::Pool(name) if name == pool.get_ref());
            if !grants.iter().any(granted) {
                let message = format!(
                    "the VM sees all of pool {:?} through its window, but has no grant for it: \
                     add [[vm.grant]] pool = {:?}",
                    pool.get_ref(),
                    pool.get_ref()
                );
                return Err(wrong(pool, message));
            }
        }
        let allocate = self.sources_of(&raw.allocate)?;
        for heap in &raw.allocate {
            self.vm_may_allocate(heap, window_size)?;
        }
        let default = Limits::DEFAULT;
        let handles = limit(raw.max_handles.as_ref(), default.handles)?;
        Ok(VmConfig {
            name,
            socket,
            window_size,
            static_pools,
            grants,
            publish: raw.publish.iter().map(pattern).collect::<Result<_, _>>()?,
            allocate,
            limits: Limits {
                handles,
                mappings: limit(raw.max_mappings.as_ref(), default.mappings)?,
                waits: limit(raw.max_waits.as_ref(), default.waits)?,
                buffers: limit(raw.max_buffers.as_ref(), handles)?,
                bytes: byte_limit(raw.max_bytes.as_ref(), window_size)?,
                holds: limit(raw.max_holds.as_ref(), default.holds)?,
                consumers: limit(raw.max_consumers.as_ref(), default.consumers)?,
            },
        })
    }

    /// What a VM allocates from must be of use to it, and give its VMM nothing but the buffer.
    fn vm_may_allocate(&self, heap: &Spanned<String>, window_size: u64) -> Result<(), Wrong> {
        if window_size == 0 {
            let message =
                "a VM that allocates needs a window-size: its buffers appear in the dynamic window";
            return Err(wrong(heap, message));
        }
        if self.memfd_pools.contains(heap.get_ref()) {
            let message = format!(
                "{:?} is a memfd pool, whose slots can't be told apart by a VMM that may write to one: \
                 expected a [[heap]] or a udmabuf pool",
                heap.get_ref()
            );
            return Err(wrong(heap, message));
        }
        Ok(())
    }

    fn client(&mut self, raw: raw::Client) -> Result<ClientConfig, Wrong> {
        let name = self.peer(&raw.name)?;
        let grants = self.grants(raw.grant)?;
        let publish = raw.publish.iter().map(pattern).collect::<Result<_, _>>()?;
        let allocate = self.sources_of(&raw.allocate)?;
        let default = Limits::DEFAULT;
        let handles = limit(raw.max_handles.as_ref(), default.handles)?;
        Ok(ClientConfig {
            name,
            uid: raw.uid,
            gid: raw.gid,
            grants,
            publish,
            allocate,
            monitor: raw.monitor,
            limits: Limits {
                handles,
                mappings: 0,
                waits: limit(raw.max_waits.as_ref(), default.waits)?,
                buffers: limit(raw.max_buffers.as_ref(), handles)?,
                bytes: byte_limit(raw.max_bytes.as_ref(), u64::MAX)?,
                holds: limit(raw.max_holds.as_ref(), default.holds)?,
                consumers: limit(raw.max_consumers.as_ref(), default.consumers)?,
            },
        })
    }

    fn grants(&self, raw: Vec<raw::Grant>) -> Result<Vec<Grant>, Wrong> {
        raw.into_iter()
            .map(|raw| {
                let target = match (&raw.pool, &raw.buffer, &raw.stream) {
                    (Some(pool), None, None) if self.pools.contains_key(pool.get_ref()) => {
                        Target::Pool(pool.get_ref().clone())
                    }
                    (Some(pool), None, None) => {
                        return Err(wrong(pool, format!("there is no [[pool]] {:?}", pool.get_ref())));
                    }
                    (None, Some(buffer), None) => Target::Buffers(pattern(buffer)?),
                    (None, None, Some(stream)) => stream_target(&raw, stream)?,
                    _ => {
                        return Err(wrong(&raw.access, "expected one of pool =, buffer = and stream = in a grant"));
                    }
                };
                let access = match raw.access.get_ref().as_str() {
                    "read-only" => dmabuf_protocol::Access::ReadOnly,
                    "read-write" => dmabuf_protocol::Access::ReadWrite,
                    other => {
                        let message =
                            format!("expected access = \"read-only\" or \"read-write\", found {other:?}");
                        return Err(wrong(&raw.access, message));
                    }
                };
                if raw.stream.is_none()
                    && let Some(key) = raw.max_held.as_ref().or(raw.max_hold_ms.as_ref())
                {
                    return Err(wrong(key, "max-held and max-hold-ms belong to the grant of a stream"));
                }
                if raw.stream.is_some() && access != dmabuf_protocol::Access::ReadOnly {
                    return Err(wrong(
                        &raw.access,
                        "a stream's frames are read-only for its consumers: expected access = \"read-only\"",
                    ));
                }
                let enforcement = match raw.enforcement.as_ref().map(|e| (e, e.get_ref().as_str())) {
                    None | Some((_, "kernel" | "derived")) => Enforcement::Derived,
                    Some((_, "sealed")) => Enforcement::Sealed,
                    Some((_, "ioctl")) => Enforcement::Ioctl,
                    Some((_, "vmm")) => Enforcement::Vmm,
                    Some((span, other)) => {
                        let message = format!(
                            "expected enforcement = \"kernel\", \"sealed\", \"derived\", \"ioctl\" or \"vmm\", \
                             found {other:?}"
                        );
                        return Err(wrong(span, message));
                    }
                };
                let fail_stop = raw.fail_stop;
                let fences = self.fence_terms(raw.max_wait_ms.as_ref(), raw.host_fence.as_ref())?;
                Ok(Grant { target, access, enforcement, fail_stop, fences })
            })
            .collect()
    }

    fn fence_terms(
        &self,
        max_wait_ms: Option<&Spanned<u32>>,
        host_fence: Option<&Spanned<bool>>,
    ) -> Result<FenceTerms, Wrong> {
        if let Some(wanted) = host_fence.filter(|wanted| *wanted.get_ref() && !self.fences) {
            return Err(wrong(
                wanted,
                "host-fence = true needs a [fence-source] with device",
            ));
        }
        let default = FenceTerms::default();
        Ok(FenceTerms {
            max_wait_ms: wait_ms(max_wait_ms, default.max_wait_ms)?,
            host_fence: host_fence.is_some_and(|wanted| *wanted.get_ref()),
        })
    }

    fn peer(&mut self, raw: &Spanned<String>) -> Result<Name, Wrong> {
        let name = name(raw)?;
        if !self.peers.insert(name) {
            return Err(wrong(
                raw,
                format!("the name {name} is taken by another peer"),
            ));
        }
        Ok(name)
    }

    fn source(&mut self, raw: &Spanned<String>) -> Result<String, Wrong> {
        let name = name(raw)?.as_str().to_owned();
        if !self.sources.insert(name.clone()) {
            return Err(wrong(
                raw,
                format!("the name {name:?} is taken by another heap or pool"),
            ));
        }
        Ok(name)
    }

    fn known_source(&self, raw: &Spanned<String>) -> Result<String, Wrong> {
        if self.sources.contains(raw.get_ref()) {
            return Ok(raw.get_ref().clone());
        }
        Err(wrong(
            raw,
            format!("there is no [[heap]] or [[pool]] {:?}", raw.get_ref()),
        ))
    }

    /// Heaps and pools to allocate from, each once.
    fn sources_of(&self, raw: &[Spanned<String>]) -> Result<Vec<String>, Wrong> {
        let mut sources = Vec::new();
        for heap in raw {
            let name = self.known_source(heap)?;
            if sources.contains(&name) {
                return Err(wrong(heap, format!("{name:?} is there twice")));
            }
            sources.push(name);
        }
        Ok(sources)
    }

    fn uuid(&mut self, raw: &Spanned<String>) -> Result<Uuid, Wrong> {
        let uuid = parse_uuid(raw)?;
        if self.uuids.insert(uuid) {
            Ok(uuid)
        } else {
            Err(wrong(
                raw,
                format!("the uuid {uuid} is taken by another pool"),
            ))
        }
    }

    fn path(&mut self, raw: &Spanned<PathBuf>) -> Result<PathBuf, Wrong> {
        let path = absolute(raw)?;
        if !self.paths.insert(path.clone()) {
            return Err(wrong(
                raw,
                format!("the path {} is used twice", path.display()),
            ));
        }
        Ok(path)
    }
}

/// A stream's consumers: which streams, and on what terms.
fn stream_target(raw: &raw::Grant, stream: &Spanned<String>) -> Result<Target, Wrong> {
    let in_range = |key: &Option<Spanned<u32>>, default: u32, most: u32| match key {
        None => Ok(default),
        Some(value) if (1..=most).contains(value.get_ref()) => Ok(*value.get_ref()),
        Some(value) => Err(wrong(
            value,
            format!("expected 1 to {most}, found {}", value.get_ref()),
        )),
    };
    Ok(Target::Streams {
        names: pattern(stream)?,
        max_held: in_range(&raw.max_held, 2, STREAM_MAX_BUFFERS)?,
        max_hold: Duration::from_millis(in_range(&raw.max_hold_ms, 1000, 3_600_000)?.into()),
    })
}

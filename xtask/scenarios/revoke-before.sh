# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What will be revoked: a slot of the pool, and two buffers of the heap.
dmabufctl alloc --heap camera --size 2M --fill b2b2b2b2 --name frame/0 --keep
dmabufctl alloc --heap system --size 1M --fill a1a1a1a1 --name rw/x --keep
dmabufctl alloc --heap system --size 1M --fill a7a7a7a7 --name rw/pinned --keep

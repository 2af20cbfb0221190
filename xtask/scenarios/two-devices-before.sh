# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# All slots of both pools, and a buffer for each device.
for number in 0 1; do
	dmabufctl alloc --heap front --size 1M --fill "1${number}2${number}3${number}" --name "front/$number" --keep
	dmabufctl alloc --heap common --size 1M --fill "4${number}5${number}6${number}" --name "common/$number" --keep
done
dmabufctl alloc --heap system --size 1M --fill 5a --name rw/first --keep
dmabufctl alloc --heap system --size 2M --fill a5 --name rw/second --keep

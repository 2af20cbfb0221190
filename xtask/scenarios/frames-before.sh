# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# All slots of the pool, with different contents, as frame/0 to frame/3.
for number in 0 1 2 3; do
	dmabufctl alloc --heap camera --size 2M --fill "1${number}2${number}3${number}" --name "frame/$number" --keep
done

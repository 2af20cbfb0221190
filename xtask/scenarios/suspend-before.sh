# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Frames that stand in slots of the pool, and a stream in the others.
for number in 0 1 2 3; do
	dmabufctl alloc --heap camera --size 2M --fill "1${number}2${number}3${number}" --name "frame/$number" --keep
done
test-pattern --heap camera --name live --width 320 --height 240 --fps 20 --stream &
wait

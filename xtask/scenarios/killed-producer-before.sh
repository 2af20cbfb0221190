# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Three slots stay in the daemon; the fourth belongs to a producer that goes on.
for number in 0 1 2; do
	dmabufctl alloc --heap camera --size 2M --fill "1${number}2${number}3${number}" --name "frame/$number" --keep
done
mkfifo "$BED_RUN/producer.in"
echo $$ >"$BED_RUN/producer.pid"
exec dmabufctl alloc --heap camera --size 2M --fill beef --name live/frame 0<>"$BED_RUN/producer.in"

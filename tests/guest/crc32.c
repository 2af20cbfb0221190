// SPDX-License-Identifier: GPL-2.0-only
/* CRC-32/ISO-HDLC, as zlib's: reflected, polynomial 0x04c11db7. Four bytes at a time. */
#include <string.h>

#include "guest-check.h"

static uint32_t table[4][256];

static void fill(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
		table[0][i] = c;
	}
	for (int t = 1; t < 4; t++)
		for (int i = 0; i < 256; i++)
			table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 0xff];
}

uint32_t crc32(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t word;

	if (!table[0][1])
		fill();
	crc = ~crc;
	for (; len >= 4; len -= 4, p += 4) {
		memcpy(&word, p, 4);
		crc ^= word;
		crc = table[3][crc & 0xff] ^ table[2][crc >> 8 & 0xff] ^
		      table[1][crc >> 16 & 0xff] ^ table[0][crc >> 24];
	}
	while (len--)
		crc = crc >> 8 ^ table[0][(crc ^ *p++) & 0xff];
	return ~crc;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * derive-check: the host module's contract, and attacks on its aliases.
 *
 * Results are lines "check NAME pass|fail VALUE"; the exit status is 1 if one
 * failed, 2 if the program could not do what was asked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "derive-check.h"

static char current[64];
static int failures;

void group(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(current, sizeof(current), format, args);
	va_end(args);
}

void check(const char *name, bool pass, const char *format, ...)
{
	va_list args;

	printf("check %s/%s %s ", current, name, pass ? "pass" : "fail");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	failures += !pass;
}

void expect(const char *name, int got, int want)
{
	if (got == want)
		check(name, true, "%s", errno_name(got));
	else
		check(name, false, "%s, not %s", errno_name(got), errno_name(want));
}

const char *errno_name(int err)
{
	const char *name = strerrorname_np(err);

	return name ? name : "unknown";
}

static void each_exporter(void (*run)(const char *exporter))
{
	char names[MAX_EXPORTERS][48];
	size_t n = exporters(names);

	for (size_t i = 0; i < n; i++)
		run(names[i]);
	group("exporters");
	check("some", n > 0, "%zu", n);
}

int main(int argc, char **argv)
{
	bool all = argc == 2 && !strcmp(argv[1], "all");
	bool known = all;

	if (argc != 2)
		goto usage;
	if (all || !strcmp(argv[1], "contract")) {
		contract_device();
		each_exporter(contract);
		each_exporter(fences);
		known = true;
	}
	if (all || !strcmp(argv[1], "careless")) {
		careless_exporters();
		known = true;
	}
	if (all || !strcmp(argv[1], "attack")) {
		each_exporter(attack);
		attack_controls();
		known = true;
	}
	if (known)
		return failures ? 1 : 0;
usage:
	fprintf(stderr, "usage: derive-check contract | careless | attack | all\n");
	return 2;
}

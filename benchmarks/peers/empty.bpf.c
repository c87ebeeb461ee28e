/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The least that tracing openat(2) at its entry and exit can cost: programs that do nothing.
 */
typedef unsigned short umode_t;

TRACEPOINT_PROBE(syscalls, sys_enter_openat) {
  return 0;
}

TRACEPOINT_PROBE(syscalls, sys_exit_openat) {
  return 0;
}

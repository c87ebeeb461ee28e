/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The least that seeing every system call can cost: programs that do nothing.
 */
RAW_TRACEPOINT_PROBE(sys_enter) {
  return 0;
}

RAW_TRACEPOINT_PROBE(sys_exit) {
  return 0;
}

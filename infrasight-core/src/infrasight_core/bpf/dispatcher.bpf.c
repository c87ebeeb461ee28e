/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The dispatcher: runs in every system call of the machine and jumps to the probes' programs by the
 * call's number. A call that no probe handles costs a lookup at its entry, and the read of its
 * number and a lookup at its exit. A number that any probe handles, in whatever ABI, leads to the
 * programs that look at the ABI, too. The agent fills the arrays (kernel/dispatcher.py).
 */
#include "task.bpf.h"
#include "call.bpf.h"

#define X32_BIT 30
#define ENOSYS 38

BPF_PROG_ARRAY(handled_enter, CALLS);
BPF_PROG_ARRAY(handled_exit, CALLS);
BPF_PROG_ARRAY(first_enter, CALL_SLOTS);
BPF_PROG_ARRAY(first_exit, CALL_SLOTS);
BPF_F_TABLE("array", int, u64, x32_calls, 1, BPF_F_MMAPABLE);

/* Calls of the x32 ABI, 64-bit calls with other numbers, reach no probe. */
static inline void count_x32(void) {
  int zero = 0;
  u64 *count = x32_calls.lookup(&zero);
  if (count) __sync_fetch_and_add(count, 1);
}

/* The same number as number_at_exit() returns, for one helper call. */
static inline u32 number_in(u64 registers) {
  int offset = HAS_FIELD(pt_regs__orig_ax) ? OFFSET_pt_regs__orig_ax : OFFSET_pt_regs__syscallno;
  u32 number = 0;
  bpf_probe_read_kernel(&number, sizeof(number), (char *)registers + offset);
  return number;
}

int dispatch_enter(struct raw_enter *raw) {
  handled_enter.call(raw, raw->number); /* returns only if the slot has no program */
  return 0;
}

int dispatch_exit(struct raw_exit *raw) {
  u32 number = number_in(raw->registers);
  handled_exit.call(raw, number);
  if (number >> X32_BIT == 1 && raw->ret != -ENOSYS) count_x32();
  return 0;
}

int route_enter(struct raw_enter *raw) {
  u32 slot = slot_of(registers_of_call(), raw->number);
  first_enter.call(raw, slot);
  return 0;
}

int route_exit(struct raw_exit *raw) {
  u64 registers = registers_of_call();
  u32 slot = slot_of(registers, number_at_exit(registers));
  first_exit.call(raw, slot);
  return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The programs around a probe's functions. The agent adds one of the macros below for each function
 * that it attaches. Included by infrasight.bpf.h.
 *
 * The dispatcher (dispatcher.bpf.c) jumps to the program of a call's first handler. Each program
 * jumps to the next handler of the same call, whatever its own function did; the agent puts that
 * one's program into `next_enter` and `next_exit` (kernel/dispatcher.py).
 *
 * A block has one writer at a time:
 *
 * - The kernel runs these programs with preemption disabled. On a perf-type tracepoint,
 *   trace_call_bpf() requires it (cant_sleep()). On a raw tracepoint, up to Linux 6.12 the
 *   tracepoint's own macro disables it (__DO_TRACE in include/linux/tracepoint.h); since 6.13, when
 *   the tracepoints of system calls became ones that may fault, __BPF_DECLARE_TRACE_SYSCALL in
 *   include/trace/bpf_probe.h does so around bpf_trace_run2().
 * - An interrupt may still come, and with it a program on a tracepoint such as
 *   sock:inet_sock_set_state. The kernel skips a program on a perf-type tracepoint while another
 *   one runs on the same CPU (bpf_prog_active), but a raw tracepoint does not count as such. Each
 *   program therefore holds its CPU's block while it runs; one that finds it held is skipped and
 *   counted, as the kernel would have done.
 *
 * The block is held by an atomic exchange, so that a kernel that ran these programs preemptibly
 * would skip runs, counted, but never mix two rows.
 */
BPF_PROG_ARRAY(next_enter, CALL_SLOTS);
BPF_PROG_ARRAY(next_exit, CALL_SLOTS);

/* The number of arguments of each call inside socketcall(2), 4 bits each: nargs in net/socket.c. */
#define SOCKETCALL_COUNTS 0x5526644433323330ULL
#define LATER_SOCKETCALL_COUNTS 0x45433ULL

/* Returns this CPU's block, held by the caller; NULL if another program holds it. Only one program
 * at a time finds it held, so that the counter needs no atomic addition. */
static inline struct block *hold_block(void) {
  struct block *b = this_block();
  if (!b || __sync_val_compare_and_swap(&b->_held, 0, 1) == 0) return b;
  b->_skipped++;
  return NULL;
}

static inline void release_block(struct block *b) {
  *(volatile u64 *)&b->_held = 0;
}

/* Reads the arguments of a call that came through socketcall(2), which are in user memory. Returns
 * false if they cannot be read. */
static inline bool read_socketcall(struct sys_enter *call, u64 registers) {
  u32 arguments[16] = {};
  u32 inner = first_compat_argument(registers);
  u64 counts = inner < 16 ? SOCKETCALL_COUNTS : LATER_SOCKETCALL_COUNTS;
  u64 count = counts >> 4 * (inner & 15) & 15;
  void *from = (void *)(u64)(u32)REGISTER(registers, OFFSET_pt_regs__cx);
  if (bpf_probe_read_user(arguments, count * sizeof(*arguments), from)) return false;
  for (int i = 0; i < 6; i++)
    call->args[i] = arguments[i];
  return true;
}

/* Reads the arguments of a call that begins. Returns false if they cannot be read. */
static inline bool read_call(struct sys_enter *call, u64 registers, long number) {
  bool is_compat = in_compat_call();
  call->number = number;
#ifdef SOCKETCALL
  if (is_compat && number == SOCKETCALL) return read_socketcall(call, registers);
#endif
  if (!HAS_FIELD(pt_regs__orig_ax)) { /* arm64: the same registers for both ABIs */
    call->args[0] = REGISTER(registers, OFFSET_pt_regs__orig_x0);
    call->args[1] = REGISTER(registers, OFFSET_pt_regs__regs + 8);
    call->args[2] = REGISTER(registers, OFFSET_pt_regs__regs + 16);
    call->args[3] = REGISTER(registers, OFFSET_pt_regs__regs + 24);
    call->args[4] = REGISTER(registers, OFFSET_pt_regs__regs + 32);
    call->args[5] = REGISTER(registers, OFFSET_pt_regs__regs + 40);
  } else if (is_compat) {
    call->args[0] = REGISTER(registers, OFFSET_pt_regs__bx);
    call->args[1] = REGISTER(registers, OFFSET_pt_regs__cx);
    call->args[2] = REGISTER(registers, OFFSET_pt_regs__dx);
    call->args[3] = REGISTER(registers, OFFSET_pt_regs__si);
    call->args[4] = REGISTER(registers, OFFSET_pt_regs__di);
    call->args[5] = REGISTER(registers, OFFSET_pt_regs__bp);
  } else {
    call->args[0] = REGISTER(registers, OFFSET_pt_regs__di);
    call->args[1] = REGISTER(registers, OFFSET_pt_regs__si);
    call->args[2] = REGISTER(registers, OFFSET_pt_regs__dx);
    call->args[3] = REGISTER(registers, OFFSET_pt_regs__r10);
    call->args[4] = REGISTER(registers, OFFSET_pt_regs__r8);
    call->args[5] = REGISTER(registers, OFFSET_pt_regs__r9);
  }
  return true;
}

static inline void run_next_enter(struct raw_enter *raw, u32 slot) {
  next_enter.call(raw, slot);
}

static inline void run_next_exit(struct raw_exit *raw, u32 slot) {
  next_exit.call(raw, slot);
}

/* The program around a function for a call's entry. */
#define ENTER_PROGRAM(function)                                                                    \
  int function##__run(struct raw_enter *raw) {                                                     \
    u64 registers = registers_of_call();                                                           \
    u32 slot = slot_of(registers, raw->number);                                                    \
    struct sys_enter call = {};                                                                    \
    struct block *b = hold_block();                                                                \
    if (b) {                                                                                       \
      if (read_call(&call, registers, raw->number)) function(&call);                               \
      release_block(b);                                                                            \
    }                                                                                              \
    run_next_enter(raw, slot);                                                                     \
    return 0;                                                                                      \
  }

/* The program around a function for a call's exit. */
#define EXIT_PROGRAM(function)                                                                     \
  int function##__run(struct raw_exit *raw) {                                                      \
    u64 registers = registers_of_call();                                                           \
    u32 number = number_at_exit(registers);                                                        \
    u32 slot = slot_of(registers, number);                                                         \
    struct sys_exit call = {number, raw->ret};                                                     \
    struct block *b = hold_block();                                                                \
    if (b) {                                                                                       \
      function(&call);                                                                             \
      release_block(b);                                                                            \
    }                                                                                              \
    run_next_exit(raw, slot);                                                                      \
    return 0;                                                                                      \
  }

/* The program around a function on a tracepoint. */
#define TRACEPOINT_PROGRAM(function)                                                               \
  int function##__run(void *context) {                                                             \
    struct block *b = hold_block();                                                                \
    if (b) {                                                                                       \
      function(context);                                                                           \
      release_block(b);                                                                            \
    }                                                                                              \
    return 0;                                                                                      \
  }

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * TCP connection attempts, stored by socket. An attempt ends twice: by the socket's next state and
 * by the exit of its call. The later of the two deletes it, and writes the row of the outcome if
 * the call did not wait for it.
 *
 * No program runs while another one of the probe runs on the same CPU (handler.bpf.h), so that a
 * change of state in an interrupt at that moment is not seen. The next event of the socket, at the
 * latest its destruction, then ends the attempt.
 */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define IPPROTO_TCP 6
#define ECANCELED 125
#define ATTEMPT_EXE_BYTES 256 /* a path of this length or longer is missing in the outcome's row */
enum stage { CALL, OUTCOME };

/* The contexts of sock:inet_sock_set_state and tcp:tcp_destroy_sock. */
struct set_state {
  u64 common, sk;
  int old, new;
  u16 local_port, remote_port, family, protocol;
  u32 local_ipv4, remote_ipv4, local[4], remote[4];
};

struct destroy_sock {
  u64 common, sk;
};

/* An attempt that a call of connect(2) began. `caller` also has the time at which the call began
 * and, once the attempt has ended, its duration, return code and quality. */
struct attempt {
  u64 id, has_ended, arrived;
  struct caller caller;
  struct tuple tuple;
  u32 family, exe_length;
  int fd;
  char exe[ATTEMPT_EXE_BYTES];
};

BPF_HASH(attempts, u64, struct attempt, ENTRIES);

/* An attempt that no call of connect(2) began: one of io_uring, which reads here the ends that a
 * failed attempt had, or one of sendto(2), which is not recorded. The kernel evicts the oldest. */
struct other_attempt {
  u64 time, id;
  struct tuple tuple;
};

BPF_TABLE("lru_hash", u64, struct other_attempt, other_attempts, ENTRIES);

/* A number that this machine never uses again: the time since the epoch in units of 512 ns, in
 * which no CPU begins two attempts, and the CPU. */
static inline u64 new_id(void) {
  u64 units = (BOOT_TIME + bpf_ktime_get_boot_ns()) >> 9;
  return units << 12 | (bpf_get_smp_processor_id() & 0xfff);
}

static inline void copy_tuple(struct tuple *tuple, struct set_state *change) {
  tuple->local_port = change->local_port;
  tuple->remote_port = change->remote_port;
  for (int i = 0; i < 4; i++) {
    tuple->local[i] = change->local[i];
    tuple->remote[i] = change->remote[i];
  }
}

/* Sets the local port from the socket if it is unknown: the kernel chooses it after the state
 * SYN_SENT, and a socket keeps it when its connection fails. */
static inline void set_local_port(struct tuple *tuple, char *sk) {
  if (tuple->local_port) return;
  tuple->local_port = __builtin_bswap16(FIELD(u16, sk, inet_sock__inet_sport));
}

/* Fills the columns of the socket. */
static inline void set_attempt(struct block *b, struct attempt *attempt) {
  SET_TUPLE(b, &attempt->tuple);
  SET(b, family, attempt->family);
  SET(b, socket_type, SOCK_STREAM);
  SET(b, protocol, IPPROTO_TCP);
}

/* Stores the executable of the call's row: the process may be gone by the outcome. */
static inline void store_exe(struct block *b, struct attempt *attempt) {
  u64 length = TEXT_LENGTH(b, exe);
  OPAQUE(length);
  if (length >= ATTEMPT_EXE_BYTES || (b->_quality & (TEXT_CUT(exe) | TEXT_MISSING(exe)))) return;
  bpf_probe_read_kernel(attempt->exe, length & (ATTEMPT_EXE_BYTES - 1), TEXT_START(b, exe));
  attempt->exe_length = length;
}

static inline void set_stored_exe(struct block *b, struct attempt *attempt) {
  u64 length = attempt->exe_length;
  if (!length) {
    b->_quality |= TEXT_MISSING(exe);
    return;
  }
  bpf_probe_read_kernel(TEXT_AT(b, exe), length & (ATTEMPT_EXE_BYTES - 1), attempt->exe);
  TEXT_LENGTH(b, exe) = length;
}

/* Writes the row of the outcome. The columns describe the call, whatever task this runs in. */
static inline void write_outcome(struct attempt *attempt) {
  struct block *b = begin_for_other();
  if (!b) return;
  common_of(b, &attempt->caller);
  b->_quality = attempt->caller.header.quality;
  set_stored_exe(b, attempt);
  set_attempt(b, attempt);
  SET(b, fd, attempt->fd);
  SET(b, connection_id, attempt->id);
  SET(b, stage, OUTCOME);
  SET(b, in_progress, false);
  commit(b);
}

/* Notes one of the two ends; writes the outcome and deletes the attempt at the second. */
static inline void arrive(struct attempt *attempt, u64 sk) {
  if (__sync_fetch_and_add(&attempt->arrived, 1) == 0) return;
  write_outcome(attempt);
  attempts.delete(&sk);
}

static inline void end_attempt(struct attempt *attempt, u64 sk, int error, u64 problems) {
  struct header *header = &attempt->caller.header;
  bool is_timed = !(problems & FLAG(duration_ns_missing));
  header->duration_ns = is_timed ? bpf_ktime_get_boot_ns() - header->time : 0;
  header->return_code = -error;
  header->quality = problems;
  set_local_port(&attempt->tuple, (char *)sk);
  attempt->has_ended = true;
  arrive(attempt, sk);
}

/* Stores an attempt that the current task's call begins, unless the filters reject the task. */
static inline void begin_attempt(struct entry *entry, struct set_state *change) {
  struct block *b = this_block();
  u64 sk = change->sk;
  if (!b) return;
  struct attempt *attempt = (void *)walk_of(b)->scratch;
  if (!store_caller(b, &attempt->caller)) return;
  attempt->caller.header.time = entry->time;
  attempt->id = new_id();
  attempt->has_ended = false;
  attempt->arrived = 0;
  attempt->exe_length = 0;
  attempt->family = change->family;
  attempt->fd = entry->fd;
  copy_tuple(&attempt->tuple, change);
  attempt->tuple.local_port = 0;
  attempts.update(&sk, attempt); /* without room, the call's row is flagged outcome_missing */
}

/* Stores an attempt that another operation began, and its ends as the kernel has them before it
 * clears the socket. */
static inline void store_other_attempt(struct set_state *change) {
  u64 sk = change->sk;
  if (change->new == TCP_SYN_SENT) {
    struct other_attempt fresh = {.time = bpf_ktime_get_boot_ns(), .id = new_id()};
    copy_tuple(&fresh.tuple, change);
    fresh.tuple.local_port = 0;
    other_attempts.update(&sk, &fresh);
  } else if (change->old == TCP_SYN_SENT) {
    struct other_attempt *known = other_attempts.lookup(&sk);
    if (known && known->tuple.remote_port == change->remote_port) copy_tuple(&known->tuple, change);
  }
}

/* Ends the stored attempt of the socket, then begins one if the new state is SYN_SENT. */
int state_changed(void *context) {
  struct set_state change; /* read once: the verifier forbids access by a computed pointer */
  bpf_probe_read_kernel(&change, sizeof(change), context);
  u64 sk = change.sk;
  u64 problems = FLAG(return_code_missing) | FLAG(duration_ns_missing);
  struct attempt *attempt = attempts.lookup(&sk);
  if (attempt && !attempt->has_ended && change.new != TCP_SYN_RECV) {
    bool is_in_time = change.old == TCP_SYN_SENT || change.old == TCP_SYN_RECV;
    int error = 0;
    if (change.old != TCP_CLOSE && attempt->tuple.remote_port == change.remote_port) {
      if (is_in_time && change.new == TCP_CLOSE)
        error = FIELD(int, (char *)sk, sock__sk_err) ?: ECANCELED;
      problems = is_in_time ? 0 : FLAG(duration_ns_missing);
      copy_tuple(&attempt->tuple, &change);
    }
    end_attempt(attempt, sk, error, problems);
  }
  if (change.protocol != IPPROTO_TCP) return 0;
  struct entry *entry = NULL;
  if (change.new == TCP_SYN_SENT) entry = entry_of(bpf_get_current_pid_tgid());
  if (entry && (u64)entry->sk == sk)
    begin_attempt(entry, &change);
  else
    store_other_attempt(&change);
  return 0;
}

/* The socket is gone: every attempt that is stored for it has ended. */
int destroyed(struct destroy_sock *event) {
  u64 sk = event->sk;
  struct attempt *attempt = attempts.lookup(&sk);
  if (attempt && !attempt->has_ended)
    end_attempt(attempt, sk, 0, FLAG(return_code_missing) | FLAG(duration_ns_missing));
  other_attempts.delete(&sk);
  return 0;
}

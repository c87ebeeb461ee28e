/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Attempts of TCP to connect, by socket. Each ends twice: by the socket's next state and by the exit of its call; whichever comes
 * second deletes it, and writes the row of the outcome if the call did not wait for it.
 *
 * The kernel runs no program of a tracepoint while another one runs on the same CPU, so that a change of state that an interrupt
 * brings just then is not seen. What is seen next of the socket, at last that it is destroyed, ends the attempt then.
 */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define IPPROTO_TCP 6
#define ECANCELED 125
#define EXE_BYTES 256 /* a path as long as that or longer is missing in the row of the outcome */
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

struct attempt {
  u64 time, id, duration, quality, has_ended, arrived;
  struct caller caller;
  struct tuple tuple;
  u32 family, exe_length;
  int fd, error;
  char exe[EXE_BYTES];
};

BPF_HASH(attempts, u64, struct attempt, ENTRIES);

/* What no call of connect(2) began: io_uring's, which asks here for the ends that a failed one had, and sendto's, which nobody asks
 * for. The kernel lets the eldest go. */
struct begun {
  u64 time, id;
  struct tuple tuple;
};

BPF_TABLE("lru_hash", u64, struct begun, others, ENTRIES);

/* A number that this machine never uses again: units of 512 ns since the epoch, in which no CPU begins two, and the CPU. */
static inline u64 new_id(void) {
  return (BOOT_TIME + bpf_ktime_get_boot_ns()) >> 9 << 12 | (bpf_get_smp_processor_id() & 0xfff);
}

static inline void keep_tuple(struct tuple *tuple, struct set_state *change) {
  tuple->local_port = change->local_port;
  tuple->remote_port = change->remote_port;
  for (int i = 0; i < 4; i++) {
    tuple->local[i] = change->local[i];
    tuple->remote[i] = change->remote[i];
  }
}

/* Fills the socket's columns. */
static inline void set_attempt(struct block *b, struct attempt *attempt) {
  SET_TUPLE(b, &attempt->tuple);
  SET(b, family, attempt->family);
  SET(b, socket_type, SOCK_STREAM);
  SET(b, protocol, IPPROTO_TCP);
}

/* Keeps the executable of the call's row: by the outcome the process may be gone. */
static inline void keep_exe(struct block *b, struct attempt *attempt) {
  u64 length = TEXT_LENGTH(b, exe);
  OPAQUE(length);
  if (length >= EXE_BYTES || (b->_quality & (TEXT_CUT(exe) | TEXT_MISSING(exe)))) return;
  bpf_probe_read_kernel(attempt->exe, length & (EXE_BYTES - 1), TEXT_START(b, exe));
  attempt->exe_length = length;
}

static inline void set_kept_exe(struct block *b, struct attempt *attempt) {
  u64 length = attempt->exe_length;
  if (length) {
    bpf_probe_read_kernel(TEXT_AT(b, exe), length & (EXE_BYTES - 1), attempt->exe);
    TEXT_LENGTH(b, exe) = length;
  } else
    b->_quality |= TEXT_MISSING(exe);
}

/* The row of how it ended; in whatever task this runs, the columns are those of the call. */
static inline void write_outcome(struct attempt *attempt) {
  struct block *b = begin_for_other();
  if (!b) return;
  common_of(b, &attempt->caller, attempt->time, attempt->duration, -attempt->error);
  b->_quality = attempt->quality;
  set_kept_exe(b, attempt);
  set_attempt(b, attempt);
  SET(b, fd, attempt->fd);
  SET(b, connection_id, attempt->id);
  SET(b, stage, OUTCOME);
  SET(b, in_progress, false);
  commit(b);
}

/* One of the two ends has come. */
static inline void arrive(struct attempt *attempt, u64 sk) {
  if (__sync_fetch_and_add(&attempt->arrived, 1) == 0) return;
  write_outcome(attempt);
  attempts.delete(&sk);
}

static inline void end_attempt(struct attempt *attempt, u64 sk, int error, u64 quality) {
  attempt->duration = quality & FLAG(duration_ns_missing) ? 0 : bpf_ktime_get_boot_ns() - attempt->time;
  attempt->error = error;
  attempt->quality = quality;
  attempt->has_ended = true;
  arrive(attempt, sk);
}

/* Keeps an attempt that the current task's call begins, unless that is filtered. */
static inline void begin_attempt(struct entry *entry, struct set_state *change) {
  struct block *b = this_block();
  u64 sk = change->sk;
  if (!b) return;
  struct attempt *attempt = (void *)walk_of(b)->scratch;
  if (!keep_caller(b, &attempt->caller)) return;
  attempt->time = entry->time;
  attempt->id = new_id();
  attempt->duration = attempt->quality = attempt->has_ended = attempt->arrived = attempt->error = attempt->exe_length = 0;
  attempt->family = change->family;
  attempt->fd = entry->fd;
  keep_tuple(&attempt->tuple, change);
  attempts.update(&sk, attempt); /* where there is no room, the call's row says outcome_missing */
}

/* Keeps what io_uring has begun, or anyone; and its ends as the kernel has them before it clears the socket. */
static inline void keep_other(struct set_state *change) {
  u64 sk = change->sk;
  struct begun fresh = {}, *known = others.lookup(&sk);
  if (change->new == TCP_SYN_SENT) {
    fresh.time = bpf_ktime_get_boot_ns();
    fresh.id = new_id();
    keep_tuple(&fresh.tuple, change);
    others.update(&sk, &fresh);
  } else if (known && change->old == TCP_SYN_SENT && known->tuple.remote_port == change->remote_port)
    keep_tuple(&known->tuple, change);
}

/* Ends the attempt that is known of the socket, then begins one if that is what the state says. */
int state_changed(void *context) {
  struct set_state change; /* read at once: the context may not be reached through a pointer that was computed */
  bpf_probe_read_kernel(&change, sizeof(change), context);
  u64 sk = change.sk, quality = FLAG(return_code_missing) | FLAG(duration_ns_missing);
  struct attempt *attempt = attempts.lookup(&sk);
  if (attempt && !attempt->has_ended && change.new != TCP_SYN_RECV) {
    bool in_time = change.old == TCP_SYN_SENT || change.old == TCP_SYN_RECV;
    int error = 0;
    if (change.old != TCP_CLOSE && attempt->tuple.remote_port == change.remote_port) {
      if (in_time && change.new == TCP_CLOSE) error = FIELD(int, (char *)sk, sock__sk_err) ?: ECANCELED;
      quality = in_time ? 0 : FLAG(duration_ns_missing);
      keep_tuple(&attempt->tuple, &change);
    }
    end_attempt(attempt, sk, error, quality);
  }
  if (change.protocol != IPPROTO_TCP) return 0;
  struct entry *entry = change.new == TCP_SYN_SENT ? entry_of(bpf_get_current_pid_tgid()) : NULL;
  if (entry && (u64)entry->sk == sk)
    begin_attempt(entry, &change);
  else
    keep_other(&change);
  return 0;
}

/* The socket is gone: whatever is known of it has ended. */
int destroyed(struct destroy_sock *event) {
  u64 sk = event->sk;
  struct attempt *attempt = attempts.lookup(&sk);
  if (attempt && !attempt->has_ended) end_attempt(attempt, sk, 0, FLAG(return_code_missing) | FLAG(duration_ns_missing));
  others.delete(&sk);
  return 0;
}

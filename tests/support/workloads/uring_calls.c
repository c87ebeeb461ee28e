/* uring_calls SETUP_FLAGS CQ_ENTRIES < REQUESTS > RESULTS: submits requests to an io_uring, 32 at a time, and waits for each.
 *
 * REQUESTS goes to the address AREA: how many there are, in 64 bytes, then their `struct io_uring_sqe`, then what these point at.
 * RESULTS is what each returned, DROPPED_UPDATES where no completion came: of those that ask for none, and of a ring whose completions are
 * never taken because SETUP_FLAGS has NEVER_TAKE. */
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AREA ((char *)0x20000000)
#define AREA_BYTES (16 << 20)
#define BATCH 32
#define NEVER_TAKE (1U << 31)
#define DROPPED_UPDATES 0x7fffffff
#define AT(memory, offset) ((unsigned *)((char *)(memory) + (offset)))

static void *map(int ring, size_t size, off_t what) {
  return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);
}

int main(int argc, char **argv) {
  unsigned setup = argc > 1 ? strtoul(argv[1], NULL, 0) : 0,
           completions = argc > 2 ? atoi(argv[2]) : 0;
  int never_take = !!(setup & NEVER_TAKE), ring;
  struct io_uring_params p = {.flags = (setup & ~NEVER_TAKE) | IORING_SETUP_SUBMIT_ALL,
                              .sq_thread_idle = 50,
                              .cq_entries = completions};
  mmap(AREA, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  for (ssize_t got, at = 0; (got = read(0, AREA + at, AREA_BYTES - at)) > 0;)
    at += got;
  if (completions) p.flags |= IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  if ((ring = syscall(SYS_io_uring_setup, completions ? 1 : BATCH, &p)) < 0) return 1;
  char *sq = map(ring, p.sq_off.array + p.sq_entries * 4, IORING_OFF_SQ_RING);
  char *cq =
      map(ring, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
  struct io_uring_sqe *sqes = map(ring, p.sq_entries * sizeof(*sqes), IORING_OFF_SQES),
                      *given = (void *)AREA;
  struct io_uring_cqe *cqes = (void *)(cq + p.cq_off.cqes);
  unsigned count = *(unsigned *)given++, mask = *AT(sq, p.sq_off.ring_mask),
           cq_mask = *AT(cq, p.cq_off.ring_mask);
  int32_t *results = malloc(count * sizeof(*results));
  int files[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
  syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, files, 8);
  for (unsigned done = 0, batch; done < count; done += batch) {
    unsigned tail = *AT(sq, p.sq_off.tail), wait = 0, flags = IORING_ENTER_GETEVENTS;
    batch = count - done < p.sq_entries ? count - done : p.sq_entries;
    for (unsigned i = 0; i < batch; i++) {
      sqes[tail + i & mask] = given[done + i];
      sqes[tail + i & mask].user_data = done + i;
      AT(sq, p.sq_off.array)[tail + i & mask] = tail + i & mask;
      results[done + i] = DROPPED_UPDATES;
      wait += !(given[done + i].flags & IOSQE_CQE_SKIP_SUCCESS);
    }
    __atomic_store_n(AT(sq, p.sq_off.tail), tail + batch, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(AT(sq, p.sq_off.flags), __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
      flags |= IORING_ENTER_SQ_WAKEUP;
    syscall(SYS_io_uring_enter, ring, batch, never_take ? 0 : wait,
            never_take ? flags & ~IORING_ENTER_GETEVENTS : flags, NULL, 0);
    while (!never_take &&
           *AT(cq, p.cq_off.head) != __atomic_load_n(AT(cq, p.cq_off.tail), __ATOMIC_SEQ_CST)) {
      struct io_uring_cqe *cqe = &cqes[*AT(cq, p.cq_off.head) & cq_mask];
      results[cqe->user_data] = cqe->res;
      if (cqe->res > 2) close(cqe->res);
      __atomic_fetch_add(AT(cq, p.cq_off.head), 1, __ATOMIC_SEQ_CST);
    }
  }
  if (never_take) sleep(1); /* what a worker has must not be cancelled by the program's end */
  return write(1, results, count * sizeof(*results)) < 0;
}

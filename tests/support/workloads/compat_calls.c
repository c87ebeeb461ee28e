/* compat_calls < CALLS > RESULTS: makes system calls of the 32-bit ABI (int 0x80), without a C
 * library. Compiled as a 64-bit program, it fills the upper halves of the registers, which the
 * kernel must ignore.
 *
 * CALLS is copied to the address AREA: the number of calls, the number and five arguments of each
 * call, 32 bits each, and the data that these point to. RESULTS has the result of each call. */
#define AREA 0x20000000
#define AREA_BYTES 0x100000
#define RESULTS (AREA + AREA_BYTES / 2)
#define READ_WRITE 3
#define PRIVATE_ANONYMOUS_FIXED 0x32

enum { EXIT = 1, READ = 3, WRITE = 4, MMAP = 90 };

#ifdef __x86_64__
#define RUBBISH 0xdeadbeef00000000
typedef unsigned long word;
#else
#define RUBBISH 0
typedef unsigned int word;
#endif

static int call(unsigned int number, unsigned int a, unsigned int b, unsigned int c, unsigned int d,
                unsigned int e) {
  int result;
  __asm__ volatile("int $0x80"
                   : "=a"(result)
                   : "a"(number), "b"(RUBBISH | (word)a), "c"(RUBBISH | (word)b),
                     "d"(RUBBISH | (word)c), "S"(RUBBISH | (word)d), "D"(RUBBISH | (word)e)
                   : "memory");
  return result;
}

static unsigned int mapping[] = {AREA, AREA_BYTES, READ_WRITE, PRIVATE_ANONYMOUS_FIXED, -1, 0};

void _start(void) {
  unsigned int *calls = (void *)AREA;
  unsigned int *results = (void *)RESULTS;
  unsigned int at = AREA;
  int got;
  call(MMAP, (word)mapping, 0, 0, 0, 0);
  while ((got = call(READ, 0, at, RESULTS - at, 0, 0)) > 0)
    at += got;
  for (unsigned int i = 0; i < calls[0]; i++) {
    unsigned int *next = calls + 1 + 6 * i; /* the number, then five arguments */
    results[i] = call(next[0], next[1], next[2], next[3], next[4], next[5]);
  }
  call(WRITE, 1, RESULTS, 4 * calls[0], 0, 0);
  call(EXIT, 0, 0, 0, 0, 0);
}

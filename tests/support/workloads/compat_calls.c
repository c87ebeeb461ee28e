/* compat_calls < CALLS > RESULTS: makes system calls of the 32-bit ABI (int 0x80), as a 32-bit program or, compiled as such, as a
 * 64-bit one, whose registers hold rubbish in their upper halves, which the kernel does not look at. Without a C library.
 *
 * CALLS goes to the address AREA: how many calls there are, then each one's number and five arguments, all of 32 bits, then what
 * these point at. RESULTS is what each call returned. */
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
  unsigned int *in = (void *)AREA, *to = (void *)RESULTS, at = AREA, got;
  call(MMAP, (word)mapping, 0, 0, 0, 0);
  while ((int)(got = call(READ, 0, at, RESULTS - at, 0, 0)) > 0)
    at += got;
  for (unsigned int i = 0; i < *in; i++) {
    unsigned int *of = in + 1 + 6 * i;
    to[i] = call(of[0], of[1], of[2], of[3], of[4], of[5]);
  }
  call(WRITE, 1, RESULTS, 4 * *in, 0, 0);
  call(EXIT, 0, 0, 0, 0, 0);
}

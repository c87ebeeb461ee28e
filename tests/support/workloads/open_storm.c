/* open_storm COUNT: opens COUNT paths that contain the process id and a running number, as fast as
 * it can; all calls fail with ENOENT. Prints the CPU time of one call in nanoseconds. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct timespec start, end;
  long count = argc > 1 ? atol(argv[1]) : 0;
  char path[64];
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
  for (long i = 0; i < count; i++) {
    snprintf(path, sizeof(path), "/storm/%d-%ld", getpid(), i);
    open(path, i & 0xff & ~O_CREAT);
  }
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
  printf("%.1f\n", ((end.tv_sec - start.tv_sec) * 1e9 + end.tv_nsec - start.tv_nsec) / count);
}

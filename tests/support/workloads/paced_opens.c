/* paced_opens RATE SECONDS: opens paths that contain the process id and a running number, RATE
 * times a second, in a group every millisecond; all calls fail with ENOENT. Prints how many it
 * made, also when SIGTERM ends it earlier. */
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define GROUPS_PER_SECOND 1000

static volatile sig_atomic_t is_stopped;

static void stop(int number) {
  is_stopped = number;
}

int main(int argc, char **argv) {
  if (argc < 3) errx(2, "usage: paced_opens RATE SECONDS");
  double per_group = atof(argv[1]) / GROUPS_PER_SECOND;
  long groups = atol(argv[2]) * GROUPS_PER_SECOND;
  long made = 0;
  char path[64];
  struct timespec next;
  signal(SIGTERM, stop);
  clock_gettime(CLOCK_MONOTONIC, &next);
  for (long group = 1; group <= groups && !is_stopped; group++) {
    for (; made < (long)(per_group * group); made++) {
      snprintf(path, sizeof(path), "/paced/%d-%ld", getpid(), made);
      open(path, O_RDONLY);
    }
    next.tv_nsec += 1000000000 / GROUPS_PER_SECOND;
    if (next.tv_nsec >= 1000000000) {
      next.tv_nsec -= 1000000000;
      next.tv_sec++;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
  }
  printf("%ld\n", made);
}

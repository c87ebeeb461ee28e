/* varied_opens COUNT PATHS PROCESSES RATE [CGROUP...]: PROCESSES processes together open COUNT
 * paths, RATE a second, of which PATHS are different and all are of the same length; all calls
 * fail with ENOENT. The processes take turns. Each runs in one of the cgroups, given by their
 * folders. */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TURN 20 /* opens until it is another process's turn */

static void enter(const char *cgroup) {
  char path[4096];
  snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
  FILE *file = fopen(path, "w");
  if (!file) err(1, "%s", path);
  fprintf(file, "%d\n", getpid());
  if (fclose(file)) err(1, "%s", path);
}

/* Sleeps until so many seconds after a time. */
static void sleep_until(struct timespec from, double seconds) {
  long nanoseconds = from.tv_nsec + (long)(seconds * 1e9);
  from.tv_sec += nanoseconds / 1000000000;
  from.tv_nsec = nanoseconds % 1000000000;
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &from, NULL);
}

int main(int argc, char **argv) {
  if (argc < 5) errx(2, "usage: varied_opens COUNT PATHS PROCESSES RATE [CGROUP...]");
  long turns = atol(argv[1]) / TURN, paths = atol(argv[2]), processes = atol(argv[3]);
  double rate = atof(argv[4]);
  int cgroups = argc - 5, go[2];
  struct timespec start;
  char path[64];
  if (pipe(go)) err(1, "pipe");
  for (long process = 0; process < processes; process++) {
    pid_t child = fork();
    if (child < 0) err(1, "fork");
    if (child) continue;
    if (cgroups) enter(argv[5 + process % cgroups]);
    close(go[1]);
    if (read(go[0], &start, sizeof(start)) < 0) err(1, "read"); /* until all are here */
    for (long turn = process; turn < turns; turn += processes) {
      sleep_until(start, turn * TURN / rate);
      for (long number = turn * TURN; number < (turn + 1) * TURN; number++) {
        snprintf(path, sizeof(path), "/varied/%08ld", number % paths);
        open(path, O_RDONLY);
      }
    }
    _exit(0);
  }
  close(go[0]);
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (long process = 0; process < processes; process++)
    if (write(go[1], &start, sizeof(start)) < 0) err(1, "write");
  while (wait(NULL) > 0) {
  }
}

/* exec_storm COUNT: executes /bin/true COUNT times, one after the other, with the arguments "storm"
 * and a running number. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

int main(int argc, char **argv, char **environment) {
  long count = argc > 1 ? atol(argv[1]) : 0;
  char number[32];
  char *arguments[] = {"true", "storm", number, 0};
  for (long i = 0; i < count; i++) {
    pid_t pid;
    snprintf(number, sizeof(number), "%ld", i);
    if (posix_spawn(&pid, "/bin/true", 0, 0, arguments, environment)) return 1;
    waitpid(pid, 0, 0);
  }
  return 0;
}

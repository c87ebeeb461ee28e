/* thread_exec PROGRAM: executes PROGRAM with the argument "from-thread" in a thread other than the
 * first. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void *run(void *program) {
  execl(program, program, "from-thread", (char *)0);
  abort();
}

int main(int argc, char **argv) {
  pthread_t thread;
  if (argc != 2 || pthread_create(&thread, 0, run, argv[1])) return 1;
  for (;;)
    pause();
}

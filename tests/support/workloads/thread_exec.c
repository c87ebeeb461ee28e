/* thread_exec PROGRAM: a thread that is not the first one executes PROGRAM with the argument "from-thread". */
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

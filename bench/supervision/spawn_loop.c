/* The floor of "start" and "stop": spawn_loop COUNT PROGRAM ARG..
 * For a byte on standard input it spawns COUNT processes and does nothing else; at the end of the
 * input it kills them and collects them. */
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
    char byte;
    if (argc < 3 || read(0, &byte, 1) != 1)
        return 2;
    int count = atoi(argv[1]);
    pid_t *pids = calloc(count, sizeof *pids);
    for (int i = 0; i < count; i++) {
        if (posix_spawn(&pids[i], argv[2], NULL, NULL, &argv[2], environ) != 0) {
            perror("posix_spawn");
            return 1;
        }
    }
    while (read(0, &byte, 1) > 0)
        continue;
    for (int i = 0; i < count; i++)
        kill(pids[i], SIGTERM);
    for (int i = 0; i < count; i++)
        waitpid(pids[i], NULL, 0);
    return 0;
}

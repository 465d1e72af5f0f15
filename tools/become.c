/* A function for GNU make: $(become COMMAND) replaces make itself by COMMAND.
 *
 * make answers SIGINT and SIGTERM by dying of them, whatever its recipe returns, and does not pass
 * on a SIGINT that is sent to it alone. Whoever runs `make up` (a terminal, a supervisor, a test)
 * is promised a clean stop and exit code 0, so that process has to be `innover up`, not its parent.
 * Where make cannot load this (no cc, make before 4.0), the recipe runs the same command as a child. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

/* Declared as in gnumake.h, which is not installed everywhere. */
typedef char *(*gmk_func_ptr)(const char *, unsigned int, char **);
extern void gmk_add_function(const char *, gmk_func_ptr, unsigned int, unsigned int, unsigned int);
int plugin_is_GPL_compatible;

static char *become(const char *name, unsigned int count, char **arguments) {
    (void)name;
    (void)count;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    fflush(NULL);
    execl("/bin/sh", "sh", "-c", arguments[0], (char *)NULL);
    perror("become: /bin/sh");
    return NULL;
}

int become_gmk_setup(void) {
    gmk_add_function("become", become, 1, 1, 0);
    return 1;
}

/* Giving privileges up: another user, no capabilities, and nothing that an exec could bring back.
 *
 * The order matters. The bounding set can be emptied only while CAP_SETPCAP is there, groups only while CAP_SETGID is, and
 * the parent-death signal is forgotten by the kernel whenever the user changes, so it is set again at the end.
 */
#include "internal.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define DUMPABLE 1 /* a sanitizer looks at its own process through /proc */
#endif
#endif
#ifndef DUMPABLE
#define DUMPABLE 0
#endif

#define CAPABILITIES_LIMIT 64
#define ACCOUNT_BYTES 16384

/* ---- Names ------------------------------------------------------------------------------------------------------------ */

/* A number that is nothing but digits, and not the (uid_t)-1 that means "leave it". */
static bool number_parse(const char *text, uint32_t *number) {
    if (*text < '0' || *text > '9') return false;
    char *end = NULL;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || *end != 0 || value >= UINT32_MAX) return false;
    *number = (uint32_t)value;
    return true;
}

static int user_find(const char *name, uid_t *uid, gid_t *gid, bool *has_group) {
    char buffer[ACCOUNT_BYTES];
    struct passwd entry, *found = NULL;
    uint32_t number;
    bool numeric = number_parse(name, &number);
    int error = numeric ? getpwuid_r(number, &entry, buffer, sizeof buffer, &found)
                        : getpwnam_r(name, &entry, buffer, sizeof buffer, &found);
    *has_group = found != NULL;
    if (found != NULL) {
        *uid = found->pw_uid;
        *gid = found->pw_gid;
        return 0;
    }
    if (!numeric) return error != 0 && error != ENOENT && error != ESRCH ? -error : -ENOENT;
    *uid = number;
    *gid = number; /* a user without an account is in no group but one of its own number */
    return 0;
}

static int group_find(const char *name, gid_t *gid) {
    char buffer[ACCOUNT_BYTES];
    struct group entry, *found = NULL;
    uint32_t number;
    if (number_parse(name, &number)) {
        *gid = number;
        return 0;
    }
    int error = getgrnam_r(name, &entry, buffer, sizeof buffer, &found);
    if (found == NULL) return error != 0 && error != ENOENT && error != ESRCH ? -error : -ESRCH;
    *gid = found->gr_gid;
    return 0;
}

int cio_user_lookup(const char *text, uid_t *uid, gid_t *gid) {
    char name[256];
    size_t length = strlen(text);
    if (length == 0 || length >= sizeof name) return -EINVAL;
    memcpy(name, text, length + 1);
    char *group = strchr(name, ':');
    if (group != NULL) *group++ = 0;
    if (name[0] == 0 || (group != NULL && group[0] == 0)) return -EINVAL;
    bool has_group;
    int result = user_find(name, uid, gid, &has_group);
    if (result < 0 || group == NULL) return result;
    return group_find(group, gid);
}

/* ---- Dropping --------------------------------------------------------------------------------------------------------- */

static int capabilities_clear(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0, 0, 0}, {0, 0, 0}};
    return syscall(SYS_capset, &header, none) == 0 ? 0 : -errno;
}

static int user_change(uid_t uid, gid_t gid) {
    if (setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0) return -errno;
    /* Whoever can come back was never away. */
    if (uid != 0 && setresuid((uid_t)-1, 0, (uid_t)-1) == 0) return -EPERM;
    return 0;
}

int cio_process_hide(void) { return prctl(PR_SET_DUMPABLE, DUMPABLE, 0, 0, 0) == 0 ? 0 : -errno; }

int cio_privileges_drop(bool change_user, uid_t uid, gid_t gid) {
    /* Without CAP_SETPCAP this fails, and does no harm: there is nothing to gain by an exec under no_new_privs. */
    for (int capability = 0; capability < CAPABILITIES_LIMIT; capability++) {
        if (prctl(PR_CAPBSET_READ, capability, 0, 0, 0) < 0) break;
        (void)prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    }
    int result = change_user ? user_change(uid, gid) : 0;
    if (result < 0) return result;
    /* Kernels before 4.3 have no ambient set. */
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL) return -errno;
    result = capabilities_clear();
    if (result < 0) return result;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -errno;
    result = cio_process_hide();
    if (result < 0) return result;
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 ? 0 : -errno;
}

int cio_privileges_probe(uid_t uid, gid_t gid) {
    pid_t pid = fork();
    if (pid < 0) return -errno;
    if (pid == 0) _exit(-user_change(uid, gid) & 0xff);
    siginfo_t information;
    while (waitid(P_PID, (id_t)pid, &information, WEXITED | WNOWAIT) != 0 && errno == EINTR) {}
    /* A zombie has the user that it died with, so this asks what a kill would ask. */
    int result = kill(pid, 0) == 0 ? 0 : -errno;
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    if (!WIFEXITED(status)) return -ECHILD;
    return WEXITSTATUS(status) != 0 ? -WEXITSTATUS(status) : result;
}

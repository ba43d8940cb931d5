/* The stack of this process in the log, written by a signal handler: for a worker that no longer answers, and for one that
 * crashes.
 *
 * The handler may interrupt anything, so it calls nothing but write, poll, clock_gettime and sigaction. All that takes a
 * lock or memory (which objects are mapped where, where the stack ends) is looked up when it is installed. It walks the
 * chain of frame pointers, which our code and Swift's keep; each must lie in the stack, above the one before, so a broken
 * chain ends the walk and faults nothing.
 *
 * An address is written as OBJECT+OFFSET, as addr2line and llvm-symbolizer take it; a return address less one, so that it
 * lies in the call and not behind it.
 *
 * Invariant: what is written is one line of at most LINE_BYTES, in one write, and a whole JSON object in that form.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define STACK_SANITIZED 1 /* it has handlers of its own for crashes */
#endif
#endif

#define LINE_BYTES 4096u
#define TAIL_BYTES 8u
#define FRAMES_MAX 128
#define OBJECTS_MAX 64
#define NAME_BYTES 48
#define HANDLER_STACK_BYTES 65536u

struct object {
    uintptr_t base, first, end;
    char name[NAME_BYTES];
};

static struct {
    bool json;
    uintptr_t stack_end;
    uint32_t object_count;
    struct object objects[OBJECTS_MAX];
} known;

/* ---- The line --------------------------------------------------------------------------------------------------------- */

struct line {
    char bytes[LINE_BYTES];
    size_t length;
};

static void put(struct line *line, const char *text) {
    for (; *text != 0 && line->length < LINE_BYTES - TAIL_BYTES; text++) line->bytes[line->length++] = *text;
}

static void put_number(struct line *line, uint64_t number, unsigned base, unsigned width) {
    char digits[24];
    size_t count = sizeof digits - 1;
    digits[count] = 0;
    do {
        digits[--count] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number != 0 || sizeof digits - 1 - count < width);
    put(line, digits + count);
}

/* The date of a day since 1970, by the calendar of 400 years. */
static void put_date(struct line *line, int64_t day) {
    day += 719468;
    int64_t era = day / 146097, of_era = day - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * of_year + 2) / 153;
    put_number(line, (uint64_t)(year + era * 400 + (month >= 10)), 10, 4);
    put(line, "-");
    put_number(line, (uint64_t)(month < 10 ? month + 3 : month - 9), 10, 2);
    put(line, "-");
    put_number(line, (uint64_t)(of_year - (153 * month + 2) / 5 + 1), 10, 2);
}

static void put_time(struct line *line) {
    struct timespec time = {0, 0};
    (void)clock_gettime(CLOCK_REALTIME, &time);
    uint64_t second = (uint64_t)(time.tv_sec % 86400);
    put_date(line, time.tv_sec / 86400);
    put(line, "T");
    put_number(line, second / 3600, 10, 2);
    put(line, ":");
    put_number(line, second / 60 % 60, 10, 2);
    put(line, ":");
    put_number(line, second % 60, 10, 2);
    put(line, ".");
    put_number(line, (uint64_t)time.tv_nsec / 1000000, 10, 3);
    put(line, "Z");
}

static void put_frame(struct line *line, uintptr_t address, bool is_first) {
    if (LINE_BYTES - TAIL_BYTES - line->length < NAME_BYTES + 32) return; /* a whole frame or none */
    if (!is_first) put(line, known.json ? "," : " ");
    if (known.json) put(line, "\"");
    const char *name = "?";
    uintptr_t base = 0;
    for (uint32_t index = 0; index < known.object_count; index++) {
        const struct object *object = &known.objects[index];
        if (address < object->first || address >= object->end) continue;
        name = object->name;
        base = object->base;
        break;
    }
    put(line, name);
    put(line, "+0x");
    put_number(line, address - base, 16, 1);
    if (known.json) put(line, "\"");
}

static void put_head(struct line *line, int signal, bool is_fatal) {
    if (known.json) {
        put(line, is_fatal ? "{\"level\":\"error\",\"ts\":\"" : "{\"level\":\"warn\",\"ts\":\"");
        put_time(line);
        put(line, "\",\"subsystem\":\"server\",\"msg\":\"stack of a worker\",\"pid\":");
    } else {
        put_time(line);
        put(line, is_fatal ? " ERROR server: stack of a worker pid=" : " WARN  server: stack of a worker pid=");
    }
    put_number(line, (uint64_t)getpid(), 10, 1);
    put(line, known.json ? ",\"signal\":" : " signal=");
    put_number(line, (uint64_t)signal, 10, 1);
    put(line, known.json ? ",\"frames\":[" : " frames=");
}

/* ---- The walk --------------------------------------------------------------------------------------------------------- */

struct registers {
    uintptr_t instruction, stack, frame;
};

static struct registers registers_of(const ucontext_t *context) {
#if defined(__x86_64__)
    const greg_t *all = context->uc_mcontext.gregs;
    return (struct registers){(uintptr_t)all[REG_RIP], (uintptr_t)all[REG_RSP], (uintptr_t)all[REG_RBP]};
#elif defined(__aarch64__)
    return (struct registers){context->uc_mcontext.pc, context->uc_mcontext.sp, context->uc_mcontext.regs[29]};
#else
    (void)context;
    return (struct registers){0, 0, 0};
#endif
}

/* Swift marks the frames of asynchronous functions in the upper bits. */
static uintptr_t frame_address(uintptr_t frame) { return frame & ~((uintptr_t)0xf << 60); }

/* Arm processors since v8.3 sign return addresses in the upper bits where a library was built so, as those of newer
 * distributions are. Hint 7 (XPACLRI) takes the signature off x30; older processors pass it over. */
static uintptr_t return_address(uintptr_t address) {
#if defined(__aarch64__)
    __asm__("mov x30, %0\n\thint #7\n\tmov %0, x30" : "+r"(address) : : "x30");
#endif
    return address;
}

__attribute__((no_sanitize("address", "thread")))
static void put_frames(struct line *line, const ucontext_t *context) {
    struct registers registers = registers_of(context);
    put_frame(line, registers.instruction, true);
    uintptr_t least = registers.stack;
    uintptr_t frame = frame_address(registers.frame);
    for (int count = 1; count < FRAMES_MAX; count++) {
        bool is_sound = frame >= least && frame % sizeof(uintptr_t) == 0 && known.stack_end > 2 * sizeof(uintptr_t) &&
                        frame <= known.stack_end - 2 * sizeof(uintptr_t);
        if (!is_sound) return;
        const uintptr_t *pair = (const uintptr_t *)frame; /* the caller's frame, and where it goes on */
        uintptr_t target = return_address(pair[1]);
        if (target == 0) return;
        put_frame(line, target - 1, false);
        least = frame + 2 * sizeof(uintptr_t);
        frame = frame_address(pair[0]);
    }
}

static void line_write(struct line *line) {
    struct pollfd target = {.fd = STDERR_FILENO, .events = POLLOUT};
    /* Whoever reads our log may have stopped; this is no time to wait for him. */
    if (poll(&target, 1, 0) != 1 || (target.revents & POLLOUT) == 0) return;
    ssize_t ignored = write(STDERR_FILENO, line->bytes, line->length);
    (void)ignored;
}

static void stack_write(int signal, bool is_fatal, const ucontext_t *context) {
    static struct line line; /* the handler's signals are blocked while it runs */
    line.length = 0;
    put_head(&line, signal, is_fatal);
    put_frames(&line, context);
    const char *tail = known.json ? "]}\n" : "\n";
    while (*tail != 0) line.bytes[line.length++] = *tail++;
    line_write(&line);
}

static void on_request(int signal, siginfo_t *information, void *context) {
    (void)information;
    int saved = errno;
    stack_write(signal, false, context);
    errno = saved;
}

/* The standard action is back already (SA_RESETHAND): a fault happens again, what was sent is sent again. */
static void on_crash(int signal, siginfo_t *information, void *context) {
    stack_write(signal, true, context);
    if (information->si_code <= 0) (void)raise(signal);
}

/* ---- Installing ------------------------------------------------------------------------------------------------------- */

static void name_copy(char *name, const char *path) {
    const char *slash = strrchr(path, '/');
    size_t length = 0;
    for (const char *next = slash == NULL ? path : slash + 1; *next != 0 && length < NAME_BYTES - 1; next++) {
        bool is_plain = (*next >= '0' && *next <= '9') || (*next >= 'A' && *next <= 'Z') ||
                        (*next >= 'a' && *next <= 'z') || strchr("._-+", *next) != NULL;
        name[length++] = is_plain ? *next : '_';
    }
    name[length] = 0;
}

static int object_note(struct dl_phdr_info *information, size_t size, void *context) {
    (void)size;
    if (known.object_count == OBJECTS_MAX) return 1;
    struct object *object = &known.objects[known.object_count];
    *object = (struct object){.base = information->dlpi_addr, .first = UINTPTR_MAX};
    for (int index = 0; index < information->dlpi_phnum; index++) {
        const ElfW(Phdr) *header = &information->dlpi_phdr[index];
        if (header->p_type != PT_LOAD) continue;
        uintptr_t first = information->dlpi_addr + header->p_vaddr, end = first + header->p_memsz;
        if (first < object->first) object->first = first;
        if (end > object->end) object->end = end;
    }
    const char *path = information->dlpi_name;
    name_copy(object->name, path == NULL || path[0] == 0 ? context : path);
    known.object_count++;
    return 0;
}

static int stack_find(void) {
    pthread_attr_t attributes;
    void *start;
    size_t size;
    int error = pthread_getattr_np(pthread_self(), &attributes);
    if (error != 0) return -error;
    error = pthread_attr_getstack(&attributes, &start, &size);
    pthread_attr_destroy(&attributes);
    if (error != 0) return -error;
    known.stack_end = (uintptr_t)start + size;
    return 0;
}

static int handler_set(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | flags};
    sigfillset(&action.sa_mask);
    return sigaction(signal, &action, NULL) == 0 ? 0 : -errno;
}

int cio_stack_install(int signal, bool json, bool crashes) {
    char program[512] = "?";
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length > 0) program[length] = 0;
    known.json = json;
    known.object_count = 0;
    int result = stack_find();
    if (result < 0) return result;
    (void)dl_iterate_phdr(object_note, program);
    /* A stack that has overflown can't carry the handler. */
    void *memory = mmap(NULL, HANDLER_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return -errno;
    stack_t stack = {.ss_sp = memory, .ss_size = HANDLER_STACK_BYTES};
    if (sigaltstack(&stack, NULL) != 0) return -errno;
    result = handler_set(signal, on_request, SA_RESTART);
    if (result < 0) return result;
    sigset_t unblocked;
    sigemptyset(&unblocked);
    sigaddset(&unblocked, signal);
    (void)pthread_sigmask(SIG_UNBLOCK, &unblocked, NULL);
#if !defined(STACK_SANITIZED)
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGABRT};
    for (size_t index = 0; crashes && index < sizeof fatal / sizeof fatal[0]; index++) {
        result = handler_set(fatal[index], on_crash, (int)SA_RESETHAND);
        if (result < 0) return result;
    }
#else
    (void)crashes;
    (void)on_crash;
#endif
    return 0;
}

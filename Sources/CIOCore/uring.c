#include "internal.h"
#include <errno.h>
#include <stdio.h>
static int uring_create(cio_loop *loop, const struct cio_loop_options *options, char *reason, size_t reason_size) {
    (void)loop; (void)options;
    snprintf(reason, reason_size, "io_uring is not built in");
    return -ENOSYS;
}
const struct backend backend_uring = {.number = CIO_BACKEND_IO_URING, .create = uring_create};

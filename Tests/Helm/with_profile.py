"""Runs a program under a seccomp profile as container runtimes read it (JSON), by libseccomp.

    with_profile.py PROFILE PROGRAM [ARGUMENT...]
"""

import ctypes
import json
import os
import sys

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
OPERATORS = {"SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
PR_SET_NO_NEW_PRIVS = 38


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""
    _fields_ = [("index", ctypes.c_uint), ("operator", ctypes.c_int), ("one", ctypes.c_uint64), ("two", ctypes.c_uint64)]


def action(name, errno):
    return ALLOW if name == "SCMP_ACT_ALLOW" else ERRNO | errno


def apply(profile):
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(action(profile["defaultAction"], profile["defaultErrnoRet"])))
    for group in profile["syscalls"]:
        # In a profile MASKED_EQ has the mask first and what must come out of it second, as libseccomp has it.
        comparisons = [Comparison(one["index"], OPERATORS[one["op"]], one["value"], one.get("valueTwo", 0)) for one in group.get("args", [])]
        for name in group["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:      # not on this processor
                continue
            array = (Comparison * len(comparisons))(*comparisons)
            result = library.seccomp_rule_add_array(context, action(group["action"], group.get("errnoRet", 1)), number, len(comparisons), array)
            if result != 0:
                sys.exit(f"with_profile.py: {name}: {os.strerror(-result)}")
    if ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or library.seccomp_load(context) != 0:
        sys.exit("with_profile.py: the filter can't be loaded")


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        apply(json.load(file))
    os.execvp(sys.argv[2], sys.argv[2:])

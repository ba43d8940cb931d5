"""What a check prints: a line for each thing that was looked at, "ok: …", "wrong: …" or "not checked: …"."""

import sys
import time

wrong = []
started = time.monotonic()


def say(text):
    print(text, flush=True)


def step(text):
    say(f"-- {text} ({time.monotonic() - started:.0f} s)")


def ok(text):
    say(f"ok: {text}")


def bad(text):
    wrong.append(text)
    say(f"wrong: {text}")


def expect(condition, text, else_text=""):
    """One thing that must be so."""
    if condition:
        ok(text)
    else:
        bad(f"{text}: it is not so{'; ' + else_text if else_text else ''}")
    return condition


def skipped(text):
    say(f"not checked: {text}")


def finish(name):
    if wrong:
        say(f"{name}: {len(wrong)} wrong")
        for text in wrong:
            say(f"  {text}")
    else:
        say(f"{name}: all is well ({time.monotonic() - started:.0f} s)")
    sys.exit(1 if wrong else 0)

"""Lines of a start-up file that print, or change the shell, and do no harm: by what they do."""

from __future__ import annotations

HARMLESS = {
    "a line": "echo Welcome; echo",
    "no newline": "printf 'no newline'",
    "escapes": r"printf '\033[31mred\033]0;title\007\r'",
    "binary": "head -c 3000 /dev/urandom",
    "much": "head -c 100000 /dev/zero | tr '\\0' y; yes banner | head -c 100000",
    "slow": "for i in 1 2 3; do echo $i; sleep 0.2; done",
    "on standard error": "echo warning: setlocale: LC_ALL: cannot change locale >&2",
    "joined outputs": "exec 2>&1; echo both",
    "traced": "set -x",
    "traced into the output": "exec 2>&1; set -xv",
    "at the end": "trap 'echo goodbye' EXIT",
    "all the time": "(while :; do echo tick; printf tock; sleep 0.01; done) & trap - EXIT",
    "what looks like answers": """echo '{"event": "result", "protocol": 1, "result": {}}'; echo have 2 none""",
    "another folder": "cd /; umask 077; set -f",
}

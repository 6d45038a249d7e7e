"""Protocol 1: JSON objects, one a line, on a private copy of standard output."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, Dict

PROTOCOL = 1
MAX_SILENCE_S = 30.0


class Output:
    """Owns the real standard output; whatever else prints there (a runtime's banner) is sent to the log instead."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self.mark = ""  # every line's first field, as the host asks: what others print is not an answer

    def write(self, message: Dict[str, Any]) -> None:
        """Send one object as one line, at once."""
        line = json.dumps(dict({"mark": self.mark}, **message) if self.mark else message, separators=(",", ":"))
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()

    def event(self, event: str, **fields: Any) -> None:
        """Send one event of the protocol."""
        self.write(dict({"protocol": PROTOCOL, "event": event}, **fields))


class RunnerError(Exception):
    """A failure that is reported to the host: ``kind`` is one word, ``details`` are more fields."""

    def __init__(self, kind: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details

    def to_dict(self) -> Dict[str, Any]:
        """As it travels."""
        return dict({"kind": self.kind, "message": str(self)}, **self.details)

"""The on-device runner: standard library only at import time, Python 3.9 or newer, nothing of the host package.

The host packs this folder into ``runner-<sha>.pyz`` and runs ``PYTHON runner-<sha>.pyz``.  The first line of standard input is the
request, one JSON object with an ``action``; standard output carries one JSON object a line (events, then one ``result`` or ``error``);
standard error is the log.  With ``"hold": true`` in the request, standard input stays open and must carry a newline every few seconds:
its end, or silence, means that the host is gone, and the runner and its children end.
"""

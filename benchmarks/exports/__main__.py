"""``python -m benchmarks.exports``."""

from benchmarks.exports.main import main

main()

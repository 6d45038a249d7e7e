"""Contract suites for plugins and tools for testing against real devices; shipped, so that a plugin can run them."""

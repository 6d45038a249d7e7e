"""Facts about devices, one TOML file each."""

"""Ready-made applications and the `kerasdl` command."""

"""Programs around the project, each run from a checkout as `python -m tools.NAME`."""

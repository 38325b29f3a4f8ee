"""Models on this machine: the catalog, installation, conversion, verification and removal."""

"""The database and the stored files: the only package with SQL of its own."""

"""The data folder: database, generations, images, keys, locks, backups. Only here is SQL spoken."""

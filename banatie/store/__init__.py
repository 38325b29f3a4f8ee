"""The only room that speaks SQL: database, generations, images, keys and their files."""

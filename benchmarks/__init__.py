"""How fast, how large and how exact: one command each, see README.md beside this file."""

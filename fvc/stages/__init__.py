"""One module per command: it reads flags and files, and leaves the thinking to the library."""

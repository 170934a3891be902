// A stand-in for tests: see README.md.

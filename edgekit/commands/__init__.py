"""One file per verb: parse the arguments, call the library, print. No logic."""

//! Nothing: a package must have a library or a binary, and this one has tests
//! only. They are in `it/`, and `README.md` tells how to run them.

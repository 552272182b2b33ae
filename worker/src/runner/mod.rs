//! Child processes that execute one attempt at a time.

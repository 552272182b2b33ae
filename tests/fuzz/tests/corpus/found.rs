//! Inputs that once broke something, each with what must come of it now. Their files are in the corpus too.

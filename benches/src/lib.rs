//! Measurements only: the ladder in `ladder/`. No library code.

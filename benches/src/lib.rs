//! Measurements only: the ladder in `ladder/`, and what clients of a running cluster see in `clients/`. No library code.

//! Measurements only: the ladder in `ladder/` and the state-tree bench in `benches/`. No library code.

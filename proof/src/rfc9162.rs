//! Checks of RFC 9162 inclusion and consistency paths, exactly as sections 2.1.3.2 and 2.1.4.2 say.
//!
//! Index and size always come from the caller or from an authenticated header, never from the
//! proof.

use ledger_types::Digest;
use thiserror::Error;

use crate::hash;

/// Longest legal path: a log of 2^64 - 1 entries has 64 levels, and a consistency path one hash
/// more.
pub const PATH_LEN_MAX: usize = 65;

/// Why a path proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PathError {
    /// The index is not below the size.
    #[error("index {index} is outside a tree of {size}")]
    IndexOutside {
        /// The index.
        index: u64,
        /// The size.
        size: u64,
    },
    /// The old size is above the new one.
    #[error("an old size of {old} is above the new size {new}")]
    SizeShrinks {
        /// The old size.
        old: u64,
        /// The new size.
        new: u64,
    },
    /// The path has a hash too few.
    #[error("the path is too short")]
    TooShort,
    /// The path has a hash too many.
    #[error("the path is too long")]
    TooLong,
    /// The path leads to another root.
    #[error("the path leads to another root")]
    WrongRoot,
    /// The path does not start from the old root.
    #[error("the path does not start from the old root")]
    WrongOldRoot,
}

/// Checks that `leaf` is entry `index` of the tree of `size` entries with this root.
pub fn verify_inclusion(
    leaf: &Digest,
    index: u64,
    size: u64,
    path: &[Digest],
    root: &Digest,
) -> Result<(), PathError> {
    if index >= size {
        return Err(PathError::IndexOutside { index, size });
    }
    let (mut position, mut last) = (index, size - 1);
    let mut computed = *leaf;
    for sibling in path {
        if last == 0 {
            return Err(PathError::TooLong);
        }
        if position & 1 == 1 || position == last {
            computed = hash::node(sibling, &computed);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            computed = hash::node(&computed, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    match (last, computed == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(PathError::WrongRoot),
        _ => Err(PathError::TooShort),
    }
}

/// Checks that the log of `new_size` entries begins with the log of `old_size` entries.
/// From size 0 and between equal sizes the path must be empty.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Digest,
    new_size: u64,
    new_root: &Digest,
    path: &[Digest],
) -> Result<(), PathError> {
    if old_size > new_size {
        return Err(PathError::SizeShrinks { old: old_size, new: new_size });
    }
    if old_size == new_size || old_size == 0 {
        return verify_trivial(old_size, old_root, new_size, new_root, path);
    }
    // A complete old tree is itself the first node of the path and is not sent.
    let (first, rest) = if old_size.is_power_of_two() {
        (old_root, path)
    } else {
        path.split_first().ok_or(PathError::TooShort)?
    };
    let (mut position, mut last) = (old_size - 1, new_size - 1);
    while position & 1 == 1 {
        position >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return Err(PathError::TooLong);
        }
        if position & 1 == 1 || position == last {
            old = hash::node(sibling, &old);
            new = hash::node(sibling, &new);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            new = hash::node(&new, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(PathError::TooShort);
    }
    if old != *old_root {
        return Err(PathError::WrongOldRoot);
    }
    if new == *new_root { Ok(()) } else { Err(PathError::WrongRoot) }
}

fn verify_trivial(
    old_size: u64,
    old_root: &Digest,
    new_size: u64,
    new_root: &Digest,
    path: &[Digest],
) -> Result<(), PathError> {
    if !path.is_empty() {
        return Err(PathError::TooLong);
    }
    if old_size == 0 && *old_root != hash::empty_root() {
        return Err(PathError::WrongOldRoot);
    }
    if old_size == new_size && old_root != new_root {
        return Err(PathError::WrongRoot);
    }
    Ok(())
}

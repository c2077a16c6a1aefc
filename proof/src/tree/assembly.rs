//! Putting a trie together from neighbours in key order.
//!
//! Owns the one rule of the tree's shape: of the bits that separate neighbours the smallest is on
//! top. Used for loading pages and buckets, where subtrees are nodes, and for verifying lists, where
//! they are hashes.

/// Puts a trie together from subtrees in key order and the bits that separate neighbours: the
/// branch with the smallest bit is on top. A loop, because the trie may be as deep as its keys are
/// long.
pub(super) struct Assembly<T> {
    /// Left sides that wait for their right side, with the bits they split on, ascending.
    waiting: Vec<(u16, T)>,
    last: Option<T>,
}

/// Two equal separators have no smaller one between them: neither can be on top of the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EqualSeparators(pub(super) u16);

impl<T> Assembly<T> {
    pub(super) fn new() -> Assembly<T> {
        Assembly { waiting: Vec::new(), last: None }
    }

    /// Adds the next subtree; `bit` separates it from the one before and is ignored for the first.
    /// `join` makes a branch of a bit, its left side and its right side.
    pub(super) fn push(
        &mut self,
        bit: u16,
        subtree: T,
        mut join: impl FnMut(u16, T, T) -> T,
    ) -> Result<(), EqualSeparators> {
        if let Some(mut left) = self.last.take() {
            while let Some(&(top, _)) = self.waiting.last().filter(|(top, _)| *top >= bit) {
                if top == bit {
                    return Err(EqualSeparators(bit));
                }
                let (bit, first) = self.waiting.pop().expect("it was just looked at");
                left = join(bit, first, left);
            }
            self.waiting.push((bit, left));
        }
        self.last = Some(subtree);
        Ok(())
    }

    /// The whole trie; `None` if nothing was added.
    pub(super) fn finish(mut self, mut join: impl FnMut(u16, T, T) -> T) -> Option<T> {
        let mut right = self.last?;
        while let Some((bit, left)) = self.waiting.pop() {
            right = join(bit, left, right);
        }
        Some(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(separators: &[u16]) -> Result<String, EqualSeparators> {
        let join = |bit: u16, left: String, right: String| format!("({left} {bit} {right})");
        let mut assembly = Assembly::new();
        assembly.push(0, "0".to_owned(), join)?;
        for (number, bit) in separators.iter().enumerate() {
            assembly.push(*bit, (number + 1).to_string(), join)?;
        }
        Ok(assembly.finish(join).unwrap())
    }

    #[test]
    fn the_smallest_separator_is_on_top() {
        assert_eq!(assemble(&[]).unwrap(), "0");
        assert_eq!(assemble(&[3, 1, 2]).unwrap(), "((0 3 1) 1 (2 2 3))");
        assert_eq!(assemble(&[1, 2, 3]).unwrap(), "(0 1 (1 2 (2 3 3)))");
        assert_eq!(assemble(&[3, 2, 1]).unwrap(), "(((0 3 1) 2 2) 1 3)");
        assert_eq!(assemble(&[5, 1, 5]).unwrap(), "((0 5 1) 1 (2 5 3))", "they do not meet");
        assert!(Assembly::<String>::new().finish(|_, left, _| left).is_none());
    }

    #[test]
    fn equal_separators_that_meet_are_refused() {
        assert_eq!(assemble(&[4, 4]), Err(EqualSeparators(4)));
        assert_eq!(assemble(&[4, 7, 4]), Err(EqualSeparators(4)));
        assert_eq!(assemble(&[1, 4, 9, 7, 4]), Err(EqualSeparators(4)));
    }
}

//! A view of Rust source in which comments and literals are blanked, so that the checks look at
//! code only. Knows tokens, not grammar; must keep every line break where it was.

/// Replaces comments, strings and character literals by spaces; line breaks stay.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut output = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let previous = output.last().copied().unwrap_or(b' ');
        match blanked_length(&bytes[at..], previous) {
            Some(length) => {
                let token = &bytes[at..at + length];
                output.extend(token.iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }));
                at += length;
            }
            None => {
                output.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(output).expect("tokens are blanked whole, so no character is cut")
}

/// Whether `word` occurs in `code` as a whole identifier.
pub fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].bytes().next_back().unwrap_or(b' ');
        let after = code[at + word.len()..].bytes().next().unwrap_or(b' ');
        !is_identifier(before) && !is_identifier(after)
    })
}

/// Whether `code` starts a path at the crate `name`: `name::` that no other segment precedes.
pub fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].trim_end_matches("::");
        let rooted = before.len() == at || before.ends_with(|c: char| !is_identifier_char(c));
        rooted && !before.ends_with(is_identifier_char)
    })
}

/// Number of lines outside `#[cfg(test)] mod … { … }` blocks, as rustfmt lays them out.
pub fn lines_without_tests(text: &str) -> usize {
    let mut count = 0;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let opens = line == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if opens {
            lines.find(|line| *line == "}");
        } else {
            count += 1;
        }
    }
    count
}

fn is_identifier(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_identifier_char(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Length of the comment or literal at the start of `rest`, if one starts there.
fn blanked_length(rest: &[u8], previous: u8) -> Option<usize> {
    match rest[0] {
        b'/' if rest.starts_with(b"//") => {
            Some(rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()))
        }
        b'/' if rest.starts_with(b"/*") => Some(block_comment_length(rest)),
        b'"' => Some(string_length(rest)),
        b'r' if !is_identifier(previous) || previous == b'b' => raw_string_length(rest),
        b'\'' => character_length(rest),
        _ => None,
    }
}

fn block_comment_length(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string_length(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut closing = vec![b'"'];
    closing.resize(1 + hashes, b'#');
    let body = 2 + hashes;
    let end = rest[body..].windows(closing.len()).position(|window| window == closing);
    Some(end.map_or(rest.len(), |end| body + end + closing.len()))
}

/// A lifetime is not a literal: it has no closing quote after one character.
fn character_length(rest: &[u8]) -> Option<usize> {
    let body = &rest[1..];
    let width = match *body.first()? {
        b'\\' => 1 + body[1..].iter().skip(1).position(|&b| b == b'\'')? + 1,
        first if first < 0x80 => 1,
        first => first.leading_ones() as usize,
    };
    (body.get(width) == Some(&b'\'')).then_some(width + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let text =
            "a(\"x // y\"); // raft::\n/* b /* c */ */ r#\"d\"e\"# 'f' '\\'' '\\u{41}' &'g h";
        let code = code_only(text);
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a(", ");", "&'g", "h"]);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.matches('\n').count(), 1);
    }

    #[test]
    fn byte_and_multi_byte_literals_are_blanked() {
        assert_eq!(code_only("b\"q\" br\"z\" 'é' x").replace(' ', ""), "bbx");
    }

    #[test]
    fn words_and_crates_are_matched_whole() {
        assert!(has_word("let x: f64 = y", "f64"));
        assert!(!has_word("let f64_bits = y", "f64"));
        assert!(names_crate("use raft::RawNode;", "raft"));
        assert!(names_crate("use ::raft::RawNode;", "raft"));
        assert!(!names_crate("use crate::raft::Replica;", "raft"));
        assert!(!names_crate("use liferaft::Boat;", "raft"));
    }

    #[test]
    fn test_modules_do_not_count_as_source() {
        let text = "a\n#[cfg(test)]\nmod tests {\n    b\n}\nc\n";
        assert_eq!(lines_without_tests(text), 2);
        assert_eq!(lines_without_tests("#[cfg(test)]\nmod tests;\n"), 2);
    }
}

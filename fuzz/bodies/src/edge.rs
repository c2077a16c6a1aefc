//! The node's own page tokens, compiled in from where the node has them: the file needs nothing of the node but the
//! name of its errors, which this module supplies.

use ledger_types::ClusterId;

pub(super) mod status {
    //! The two errors that it can give.

    /// Why a token is refused.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) enum Failure {
        /// It is none of this cluster's, or of another query.
        PageToken,
        /// It is too long.
        Limit {},
    }

    impl Failure {
        /// A limit that was passed.
        pub(crate) fn limit(_: &str, _: &str, len: usize, max: usize) -> Failure {
            assert!(len > max, "a limit is told of only if it was passed");
            Failure::Limit {}
        }
    }
}

#[path = "../../../src/edge/page_token.rs"]
mod page_token;

use page_token::{PageCursor, PageTokens, Query};

pub(crate) fn open(tokens_of: ClusterId, token: &[u8]) -> Option<Vec<u8>> {
    let tokens = PageTokens::new(tokens_of);
    let text = std::str::from_utf8(token).ok();
    let by_text = text.map(|text| tokens.open(&query(), text));
    let by_bytes = tokens.open_bytes(&query(), token);
    if let Some(Ok(cursor)) = by_text {
        let sealed = tokens.seal(&query(), &cursor);
        assert_eq!(sealed.as_bytes(), token, "two tokens of one place are accepted");
    }
    let cursor = by_bytes.ok()?;
    Some(tokens.seal_bytes(&query(), &cursor))
}

pub(crate) fn seal(tokens_of: ClusterId, after: &[u8]) -> (Vec<u8>, String) {
    let cursor = PageCursor { height: 7, time_seconds: 9, after: after.to_vec() };
    let tokens = PageTokens::new(tokens_of);
    (tokens.seal_bytes(&query(), &cursor), tokens.seal(&query(), &cursor))
}

fn query() -> Query {
    Query::new("ListEntities").number(1).text("prefix").option(None)
}

//! Page tokens: where a list goes on, bound to its query, its height and its time.
//!
//! Owns their bytes. A token is opaque to clients and authenticated with a key that every node of the
//! cluster derives alike, so any node can go on where another stopped. Must never be trusted before its
//! authenticator and query hash are checked.
//!
//! Token: `0x01 ‖ query hash 16 ‖ height u64 ‖ time u64 ‖ cursor ‖ authenticator 16`, as text in base64url.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ledger_proof::hash;
use ledger_types::ClusterId;
use ledger_types::limits::PAGE_TOKEN_BYTES_MAX;

use super::status::Failure;

const VERSION: u8 = 1;
const QUERY_LEN: usize = 16;
const AUTHENTICATOR_LEN: usize = 16;
/// Bytes before the cursor.
const HEADER_LEN: usize = 1 + QUERY_LEN + 8 + 8;
/// Block length of SHA-256, to which HMAC pads its key.
const HMAC_BLOCK_LEN: usize = 64;

/// Where a list goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PageCursor {
    /// The height that all pages of the list are read at; for lists of the directory, its revision.
    pub height: u64,
    /// Unix seconds at which expiry is judged on all pages.
    pub time_seconds: u64,
    /// The key after which the next page begins.
    pub after: Vec<u8>,
}

/// What a list asks for, apart from where and how much: the part that a token is bound to.
#[derive(Debug)]
pub(super) struct Query(Vec<u8>);

impl Query {
    /// Begins the description of a query of this method.
    pub(super) fn new(method: &str) -> Query {
        let mut query = Query(Vec::with_capacity(128));
        query.push(method.as_bytes());
        query
    }

    /// Adds a number.
    #[must_use]
    pub(super) fn number(mut self, number: u64) -> Query {
        self.push(&number.to_be_bytes());
        self
    }

    /// Adds a text.
    #[must_use]
    pub(super) fn text(self, text: &str) -> Query {
        self.bytes(text.as_bytes())
    }

    /// Adds bytes.
    #[must_use]
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Query {
        self.push(bytes);
        self
    }

    /// Adds a text that may be missing, which is not the same as empty.
    #[must_use]
    pub(super) fn option(mut self, text: Option<&str>) -> Query {
        self.0.push(u8::from(text.is_some()));
        self.push(text.unwrap_or_default().as_bytes());
        self
    }

    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn hash(&self) -> [u8; QUERY_LEN] {
        hash::plain(&self.0).0[..QUERY_LEN].try_into().expect("a digest is longer")
    }
}

/// Makes and checks page tokens of one cluster.
#[derive(Clone)]
pub(super) struct PageTokens {
    key: [u8; 32],
}

impl std::fmt::Debug for PageTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageTokens")
    }
}

impl PageTokens {
    /// The tokens of this cluster.
    pub(super) fn new(cluster: ClusterId) -> PageTokens {
        let key = hmac_sha256(&cluster.0, b"ledger page token key 1");
        PageTokens { key }
    }

    /// The token with which `query` goes on at `cursor`.
    pub(super) fn seal(&self, query: &Query, cursor: &PageCursor) -> String {
        URL_SAFE_NO_PAD.encode(self.seal_bytes(query, cursor))
    }

    /// Checks a token of [`PageTokens::seal`].
    pub(super) fn open(&self, query: &Query, token: &str) -> Result<PageCursor, Failure> {
        if token.len() > PAGE_TOKEN_BYTES_MAX {
            return Err(too_long(token.len()));
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Failure::PageToken)?;
        self.open_bytes(query, &bytes)
    }

    /// The token as bytes, for the methods whose token field has that type.
    pub(super) fn seal_bytes(&self, query: &Query, cursor: &PageCursor) -> Vec<u8> {
        let mut token = Vec::with_capacity(HEADER_LEN + cursor.after.len() + AUTHENTICATOR_LEN);
        token.push(VERSION);
        token.extend_from_slice(&query.hash());
        token.extend_from_slice(&cursor.height.to_be_bytes());
        token.extend_from_slice(&cursor.time_seconds.to_be_bytes());
        token.extend_from_slice(&cursor.after);
        let authenticator = self.authenticate(&token);
        token.extend_from_slice(&authenticator);
        token
    }

    /// Checks a token of [`PageTokens::seal_bytes`].
    pub(super) fn open_bytes(&self, query: &Query, token: &[u8]) -> Result<PageCursor, Failure> {
        if token.len() > PAGE_TOKEN_BYTES_MAX {
            return Err(too_long(token.len()));
        }
        if token.len() < HEADER_LEN + AUTHENTICATOR_LEN {
            return Err(Failure::PageToken);
        }
        let (body, authenticator) = token.split_at(token.len() - AUTHENTICATOR_LEN);
        let genuine = equal_in_constant_time(&self.authenticate(body), authenticator);
        if !genuine || body[0] != VERSION || body[1..1 + QUERY_LEN] != query.hash() {
            return Err(Failure::PageToken);
        }
        let number = |at: usize| {
            u64::from_be_bytes(body[at..at + 8].try_into().expect("the length was checked"))
        };
        Ok(PageCursor {
            height: number(1 + QUERY_LEN),
            time_seconds: number(1 + QUERY_LEN + 8),
            after: body[HEADER_LEN..].to_vec(),
        })
    }

    fn authenticate(&self, body: &[u8]) -> [u8; AUTHENTICATOR_LEN] {
        hmac_sha256(&self.key, body)[..AUTHENTICATOR_LEN].try_into().expect("a digest is longer")
    }
}

fn too_long(len: usize) -> Failure {
    Failure::limit("page_token", "page_token_bytes_max", len, PAGE_TOKEN_BYTES_MAX)
}

/// HMAC (RFC 2104) over SHA-256 with a key of at most one block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    assert!(key.len() <= HMAC_BLOCK_LEN, "longer keys would be hashed first");
    let padded = |pad: u8| {
        let mut block = vec![pad; HMAC_BLOCK_LEN];
        for (byte, key_byte) in block.iter_mut().zip(key) {
            *byte ^= key_byte;
        }
        block
    };
    let mut inner = padded(0x36);
    inner.extend_from_slice(message);
    let mut outer = padded(0x5c);
    outer.extend_from_slice(&hash::plain(&inner).0);
    hash::plain(&outer).0
}

fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b));
    left.len() == right.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(prefix: &str) -> Query {
        Query::new("ListEntities").number(1).number(2).text(prefix).option(None)
    }

    fn cursor() -> PageCursor {
        PageCursor { height: 7, time_seconds: 1_700_000_000, after: b"\x01some key".to_vec() }
    }

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let digest = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(digest), expected);
    }

    #[test]
    fn a_token_opens_for_its_own_query_only() {
        let tokens = PageTokens::new(ClusterId([1; 16]));
        let token = tokens.seal(&query("a"), &cursor());
        assert_eq!(tokens.open(&query("a"), &token).expect("its query"), cursor());
        assert!(matches!(tokens.open(&query("b"), &token), Err(Failure::PageToken)));
        let same_bytes = Query::new("ListEntities").number(1).number(2).text("a").option(Some(""));
        assert!(matches!(tokens.open(&same_bytes, &token), Err(Failure::PageToken)));
        let elsewhere = PageTokens::new(ClusterId([2; 16]));
        assert!(matches!(elsewhere.open(&query("a"), &token), Err(Failure::PageToken)));
    }

    #[test]
    fn damage_and_length_are_refused() {
        let tokens = PageTokens::new(ClusterId([1; 16]));
        let token = tokens.seal_bytes(&query("a"), &cursor());
        for at in 0..token.len() {
            let mut damaged = token.clone();
            damaged[at] ^= 1;
            let opened = tokens.open_bytes(&query("a"), &damaged);
            assert!(matches!(opened, Err(Failure::PageToken)), "byte {at}");
        }
        for len in 0..token.len() {
            assert!(tokens.open_bytes(&query("a"), &token[..len]).is_err(), "length {len}");
        }
        let long = vec![0; PAGE_TOKEN_BYTES_MAX + 1];
        assert!(matches!(tokens.open_bytes(&query("a"), &long), Err(Failure::Limit { .. })));
        assert!(matches!(tokens.open(&query("a"), "not base64!"), Err(Failure::PageToken)));
    }

    #[test]
    fn the_longest_state_key_fits_a_token() {
        let after = vec![7; ledger_types::limits::STATE_KEY_BYTES_MAX];
        let tokens = PageTokens::new(ClusterId([1; 16]));
        let token = tokens.seal(&query("a"), &PageCursor { after, ..cursor() });
        assert!(token.len() <= PAGE_TOKEN_BYTES_MAX, "{}", token.len());
        assert!(tokens.open(&query("a"), &token).is_ok());
    }
}

//! Every bound a client or a peer can meet. Checked before anything is proposed; told by `GetServerInfo`.

/// Largest request message in bytes.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest entity key, and largest resource, relation or subject, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest entity value in bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Most operations in one request.
pub const OPERATIONS_MAX: usize = 10_000;
/// Largest state key in bytes, its tag included.
pub const STATE_KEY_BYTES_MAX: usize = 2048;
/// Largest client id or actor in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 256;
/// Largest namespace or node name in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Most keys in one batch read or verified read.
pub const KEYS_PER_READ_MAX: usize = 1000;
/// Items in a page when the request names no size.
pub const PAGE_ITEMS_DEFAULT: usize = 100;
/// Most items in a page.
pub const PAGE_ITEMS_MAX: usize = 10_000;
/// Bytes after which a page is cut short.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest page token in bytes.
pub const PAGE_TOKEN_BYTES_MAX: usize = 4096;
/// Most headers in the chain proof of one answer.
pub const CHAIN_HEADERS_MAX: usize = 1000;
/// A failed condition shows the current value only up to this many bytes.
pub const CONDITION_VALUE_BYTES_MAX: usize = 1024;
/// Longest deadline honoured, in milliseconds; later ones are cut to it.
pub const DEADLINE_MS_MAX: u64 = 60_000;
/// Deadline of a request that names none, in milliseconds.
pub const DEADLINE_MS_DEFAULT: u64 = 10_000;

/// Requests under way on one connection; more wait on the client's side.
pub const STREAMS_PER_CONNECTION_MAX: usize = 4096;
/// Watching streams of one node, those included that it passes on to another. Below the streams of a
/// connection, so that watches alone never fill one between two nodes.
pub const WATCHES_PER_NODE_MAX: usize = 2048;
/// Writes of one write stream under way; the server reads no more of the stream until one is answered.
pub const STREAM_WRITES_MAX: usize = 1024;
/// Bytes of the writes of one write stream under way; a larger write goes alone.
pub const STREAM_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Streams that carry data in or out of one node, those included that it passes on to another.
pub const DATA_STREAMS_PER_NODE_MAX: usize = 512;
/// Bytes after which a chunk of an export ends.
pub const EXPORT_CHUNK_BYTES: usize = 2 * 1024 * 1024;

const _: () = assert!(
    WATCHES_PER_NODE_MAX + DATA_STREAMS_PER_NODE_MAX < STREAMS_PER_CONNECTION_MAX,
    "room for other requests"
);
const _: () = assert!(
    1 + 3 * KEY_BYTES_MAX + 2 > STATE_KEY_BYTES_MAX,
    "relationship length needs its own check"
);
const _: () = assert!(KEY_BYTES_MAX < STATE_KEY_BYTES_MAX, "any legal entity key fits a state key");
const _: () = assert!(VALUE_BYTES_MAX < REQUEST_BYTES_MAX, "one largest value fits a request");
/// Most filters of one watch of changes.
pub const CHANGE_FILTERS_MAX: usize = 64;
/// Most keys that may have changed between an earlier height and the stored tree nearest to it, for a proof or a
/// proved list at that height. A flush comes after some 28,000 changed keys and the rest of a round, and a height is
/// never further from a stored tree than half of that.
pub const PAST_KEYS_MAX: usize = 32_768;

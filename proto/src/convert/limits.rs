//! The limits as `GetServerInfo` tells them.

use ledger_types::limits;

use crate::v1;

/// Every limit that a request can meet.
pub fn wire_limits() -> v1::Limits {
    v1::Limits {
        request_bytes_max: number(limits::REQUEST_BYTES_MAX),
        key_bytes_max: number(limits::KEY_BYTES_MAX),
        value_bytes_max: number(limits::VALUE_BYTES_MAX),
        operations_max: number(limits::OPERATIONS_MAX),
        state_key_bytes_max: number(limits::STATE_KEY_BYTES_MAX),
        client_id_bytes_max: number(limits::CLIENT_ID_BYTES_MAX),
        name_bytes_max: number(limits::NAME_BYTES_MAX),
        keys_per_read_max: number(limits::KEYS_PER_READ_MAX),
        page_items_default: number(limits::PAGE_ITEMS_DEFAULT),
        page_items_max: number(limits::PAGE_ITEMS_MAX),
        page_bytes_max: number(limits::PAGE_BYTES_MAX),
        page_token_bytes_max: number(limits::PAGE_TOKEN_BYTES_MAX),
        condition_value_bytes_max: number(limits::CONDITION_VALUE_BYTES_MAX),
        deadline_ms_max: limits::DEADLINE_MS_MAX,
        deadline_ms_default: limits::DEADLINE_MS_DEFAULT,
        streams_per_connection_max: number(limits::STREAMS_PER_CONNECTION_MAX),
        watches_per_node_max: number(limits::WATCHES_PER_NODE_MAX),
        chain_headers_max: number(limits::CHAIN_HEADERS_MAX),
        change_filters_max: number(limits::CHANGE_FILTERS_MAX),
        stream_writes_max: number(limits::STREAM_WRITES_MAX),
        stream_bytes_max: number(limits::STREAM_BYTES_MAX),
        data_streams_per_node_max: number(limits::DATA_STREAMS_PER_NODE_MAX),
        export_chunk_bytes: number(limits::EXPORT_CHUNK_BYTES),
        past_keys_max: number(limits::PAST_KEYS_MAX),
    }
}

fn number(limit: usize) -> u64 {
    u64::try_from(limit).expect("usize is at most 64 bits")
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_limit_is_told() {
        let told = wire_limits();
        assert_eq!(told.value_bytes_max, 1_048_576);
        let source = include_str!("../../../types/src/limits.rs");
        let known = source.lines().filter(|line| line.starts_with("pub const ")).count();
        let fields = prost_types::FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET)
            .unwrap()
            .file
            .into_iter()
            .flat_map(|file| file.message_type)
            .find(|message| message.name() == "Limits")
            .unwrap()
            .field;
        assert_eq!(fields.len(), known, "types/src/limits.rs and message Limits differ");
        for field in fields {
            let constant = format!("pub const {}:", field.name().to_uppercase());
            assert!(source.contains(&constant), "no {constant} in types/src/limits.rs");
        }
    }
}

//! Identifiers. Each is a newtype so that a group is never taken for a vault.

use std::fmt;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id!(
    /// A namespace, the unit an organisation owns. 0 is the directory's own namespace and never assigned.
    NamespaceId
);
number_id!(
    /// A vault inside its namespace. 0 holds the namespace's own entities.
    VaultId
);
number_id!(
    /// A Raft group ("shard"). 0 is `_system`, the replicated directory.
    GroupId
);
number_id!(
    /// The Raft id of one replica's life, allocated by `_system` and never used again.
    Incarnation
);
number_id!(
    /// The number `_system` gave a node when it registered; from 1.
    NodeId
);
number_id!(
    /// Counts the changes of a vault's owning group. A request or entry with another epoch is refused.
    OwnerEpoch
);

impl GroupId {
    /// The group of the replicated directory.
    pub const SYSTEM: GroupId = GroupId(0);
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Reads the id from exactly 16 bytes; `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<$name> {
                bytes.try_into().ok().map($name)
            }

            /// Reads the id from 32 lower-case hex digits; `None` for anything else.
            pub fn from_hex(text: &str) -> Option<$name> {
                let mut bytes = [0; 16];
                let digits = text.as_bytes();
                if digits.len() != 32 {
                    return None;
                }
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
                }
                Some($name(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

bytes_id!(
    /// The cluster, chosen once at bootstrap.
    ClusterId
);
bytes_id!(
    /// One data directory, drawn at random when the directory is made.
    StoreId
);
bytes_id!(
    /// A transaction, chosen where the request enters the cluster.
    TxId
);

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A vault's full name: its namespace and its number there. Ordered as rows are on disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VaultRef {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The vault inside it.
    pub vault: VaultId,
}

impl VaultRef {
    /// The directory's own chain: namespace 0, vault 0.
    pub const SYSTEM: VaultRef = VaultRef { namespace: NamespaceId(0), vault: VaultId(0) };

    /// Length of the encoded form in bytes.
    pub const LEN: usize = 16;

    /// Names vault `vault` of namespace `namespace`.
    pub fn new(namespace: u64, vault: u64) -> VaultRef {
        VaultRef { namespace: NamespaceId(namespace), vault: VaultId(vault) }
    }

    /// namespace u64 ‖ vault u64, big-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.namespace.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.vault.0.to_be_bytes());
        bytes
    }

    /// Reads what [`VaultRef::to_bytes`] wrote from the first 16 bytes; `None` if there are fewer.
    pub fn from_prefix(bytes: &[u8]) -> Option<VaultRef> {
        let namespace = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let vault = u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?);
        Some(VaultRef::new(namespace, vault))
    }
}

impl fmt::Display for VaultRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.vault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_other_text() {
        let id = StoreId([0xa7; 16]);
        assert_eq!(StoreId::from_hex(&id.to_string()), Some(id));
        assert_eq!(StoreId::from_hex("A7"), None);
        assert_eq!(StoreId::from_hex(&"G".repeat(32)), None);
    }

    #[test]
    fn vault_order_is_byte_order() {
        let low = VaultRef::new(1, u64::MAX);
        let high = VaultRef::new(2, 0);
        assert!(low < high && low.to_bytes() < high.to_bytes());
        assert_eq!(VaultRef::from_prefix(&high.to_bytes()), Some(high));
        assert_eq!(VaultRef::from_prefix(&[0; 15]), None);
    }
}

//! What a transaction does and how each operation ended.

/// One operation of a transaction. Strings are checked where requests enter (see `check_client_string`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Sets an entity, if its condition holds.
    SetEntity {
        /// The entity's key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// Unix seconds after which it counts as absent; 0 = never.
        expires_at: u64,
        /// What must hold first; a failure fails the whole transaction.
        condition: Option<Condition>,
    },
    /// Deletes an entity; a missing one is a no-op with its own outcome.
    DeleteEntity {
        /// The entity's key.
        key: String,
    },
    /// Removes an entity that is due; proposed by leaders only.
    ExpireEntity {
        /// The entity's key.
        key: String,
        /// The `expires_at` that the proposer saw, in Unix seconds.
        expired_at: u64,
    },
    /// Creates a relationship; an existing one is a no-op with its own outcome.
    CreateRelationship {
        /// What access is given to, for example `document:7`.
        resource: String,
        /// How, for example `viewer`.
        relation: String,
        /// To whom, for example `user:alice`.
        subject: String,
    },
    /// Deletes a relationship; a missing one is a no-op with its own outcome.
    DeleteRelationship {
        /// What access was given to.
        resource: String,
        /// How.
        relation: String,
        /// To whom.
        subject: String,
    },
}

/// What must hold of an entity before it is set. An expired entity counts as absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// The entity is absent.
    NotExists,
    /// The entity is present.
    MustExist,
    /// The block that last changed the entity has this height.
    Version(u64),
    /// The entity's value is this.
    ValueEquals(Vec<u8>),
}

/// How an operation of a committed transaction ended. The numbers are hashed and never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// The key was absent and is present now.
    Created = 1,
    /// The key was present and has a new record.
    Updated = 2,
    /// The key was present and is absent now.
    Deleted = 3,
    /// There was nothing to delete or expire.
    NotFound = 4,
    /// The relationship was there already.
    AlreadyExists = 5,
    /// The entity was due and is removed.
    Expired = 6,
    /// A recovery was recorded.
    Recovered = 7,
}

impl Outcome {
    /// Reads the hashed number; `None` for an unknown one.
    pub fn from_code(code: u8) -> Option<Outcome> {
        Some(match code {
            1 => Outcome::Created,
            2 => Outcome::Updated,
            3 => Outcome::Deleted,
            4 => Outcome::NotFound,
            5 => Outcome::AlreadyExists,
            6 => Outcome::Expired,
            7 => Outcome::Recovered,
            _ => return None,
        })
    }
}

/// How a transaction is kept from happening twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dedup {
    /// Not at all: the ledger's own transactions, which are idempotent by construction.
    None,
    /// The client counts strictly by one.
    Sequence(u64),
    /// The client draws a key for each transaction.
    IdempotencyKey([u8; 16]),
}

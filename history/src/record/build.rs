//! Histories in few words, for tests: `set("k", "a").at(0, 10).written(1)`.

use ledger_types::{NamespaceId, VaultId, VaultRef};

use super::{Answer, Call, Operation, Outcome};

/// The vault of all of them.
pub(crate) const VAULT: VaultRef = VaultRef { namespace: NamespaceId(1), vault: VaultId(2) };

/// A call that has no outcome yet.
pub(crate) struct Begun {
    operation: Operation,
    returned_ns: u64,
}

fn begin(key: &str, call: Call) -> Begun {
    let operation = Operation {
        client: 0,
        vault: VAULT,
        key: key.to_owned(),
        call,
        invoked_ns: 0,
        outcome: Outcome::Unknown,
    };
    Begun { operation, returned_ns: 0 }
}

pub(crate) fn set(key: &str, value: &str) -> Begun {
    begin(key, Call::Set(value.into()))
}

pub(crate) fn create(key: &str, value: &str) -> Begun {
    begin(key, Call::Create(value.into()))
}

pub(crate) fn replace(key: &str, expected: &str, value: &str) -> Begun {
    begin(key, Call::Replace { expected: expected.into(), value: value.into() })
}

pub(crate) fn delete(key: &str) -> Begun {
    begin(key, Call::Delete)
}

pub(crate) fn read(key: &str) -> Begun {
    begin(key, Call::Read)
}

impl Begun {
    /// When it began and ended; the end counts only if it has an answer.
    pub(crate) fn at(mut self, invoked_ns: u64, returned_ns: u64) -> Begun {
        self.operation.invoked_ns = invoked_ns;
        self.returned_ns = returned_ns;
        self
    }

    fn done(mut self, answer: Answer) -> Operation {
        self.operation.outcome = Outcome::Done { returned_ns: self.returned_ns, answer };
        self.operation
    }

    pub(crate) fn written(self, height: u64) -> Operation {
        self.done(Answer::Written { height })
    }

    pub(crate) fn refused(self) -> Operation {
        self.done(Answer::ConditionFailed)
    }

    pub(crate) fn saw(self, value: Option<&str>) -> Operation {
        self.done(Answer::Value(value.map(Into::into)))
    }

    pub(crate) fn failed(mut self) -> Operation {
        self.operation.outcome = Outcome::Failed;
        self.operation
    }

    pub(crate) fn unknown(mut self) -> Operation {
        self.operation.outcome = Outcome::Unknown;
        self.operation
    }
}

//! The command that begins a vault in its first group: genesis, block 0.
//!
//! Owns the command's body and what it answers. It writes a row that nobody owns yet, so it applies only
//! where there is neither a row of the vault nor a sign that this group gave it away.
//!
//! Body: `0x01`. The vault and its owner epoch are in the command's envelope.

use ledger_proof::encoding::{DecodeError, Reader};

/// Version of the body.
const VERSION: u8 = 1;

/// The command's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CreateVaultCommand;

impl CreateVaultCommand {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        vec![VERSION]
    }

    /// Reads a body. Errors on an unknown version or bytes left over.
    pub fn decode(body: &[u8]) -> Result<CreateVaultCommand, DecodeError> {
        let mut reader = Reader::new(body);
        match reader.u8("create vault version")? {
            VERSION => reader.finish().map(|()| CreateVaultCommand),
            value => {
                let field = "create vault version";
                Err(DecodeError::UnknownValue { field, value: value.into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_one_version_byte() {
        let body = CreateVaultCommand.encode();
        assert_eq!(CreateVaultCommand::decode(&body), Ok(CreateVaultCommand));
        for wrong in [&[][..], &[2], &[1, 0]] {
            assert!(CreateVaultCommand::decode(wrong).is_err());
        }
    }
}

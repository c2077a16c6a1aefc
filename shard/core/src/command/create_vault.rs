//! The command that begins a vault in its first group: genesis, block 0.
//!
//! Owns the command's body and what it answers. It writes a row that nobody owns yet, so it applies only
//! where there is neither a row of the vault nor a sign that this group gave it away.
//!
//! Body: `0x01` of a vault that keeps its past, `0x02 ‖ retention blocks u64` of one that does not. The vault and
//! its owner epoch are in the command's envelope.

use ledger_proof::encoding::{DecodeError, Reader};

/// Version of the body of a vault that keeps everything.
const VERSION: u8 = 1;
/// Version of the body with the number of blocks that stay readable.
const VERSION_RETAINED: u8 = 2;

/// The command's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CreateVaultCommand {
    /// How many of the vault's newest blocks stay readable; 0 keeps them all.
    pub retention_blocks: u64,
}

impl CreateVaultCommand {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self.retention_blocks {
            0 => vec![VERSION],
            blocks => [&[VERSION_RETAINED][..], &blocks.to_be_bytes()].concat(),
        }
    }

    /// Reads a body. Errors on an unknown version, on a number of blocks that says nothing, or bytes left over.
    pub fn decode(body: &[u8]) -> Result<CreateVaultCommand, DecodeError> {
        let mut reader = Reader::new(body);
        let field = "create vault version";
        let retention_blocks = match reader.u8(field)? {
            VERSION => 0,
            VERSION_RETAINED => retention_blocks(&mut reader)?,
            value => return Err(DecodeError::UnknownValue { field, value: value.into() }),
        };
        reader.finish().map(|()| CreateVaultCommand { retention_blocks })
    }
}

/// A number of blocks that is written down: at least one, since a vault that keeps all has another form.
pub(crate) fn retention_blocks(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let field = "retention blocks";
    match reader.u64(field)? {
        0 => Err(DecodeError::Invalid { field, rule: "is at least one where it is written" }),
        blocks => Ok(blocks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_one_form() {
        let keeps_all = CreateVaultCommand::default();
        assert_eq!(keeps_all.encode(), [1]);
        let keeps_some = CreateVaultCommand { retention_blocks: 0x0102 };
        assert_eq!(keeps_some.encode(), [2, 0, 0, 0, 0, 0, 0, 1, 2]);
        for command in [keeps_all, keeps_some] {
            assert_eq!(CreateVaultCommand::decode(&command.encode()), Ok(command));
        }
        let none = [2, 0, 0, 0, 0, 0, 0, 0, 0];
        for wrong in [&[][..], &[2], &[3], &[1, 0], &none, &[2, 0, 0, 0, 0, 0, 0, 0, 1, 0]] {
            assert!(CreateVaultCommand::decode(wrong).is_err());
        }
    }
}

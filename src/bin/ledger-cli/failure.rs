//! How a command fails, and with which exit code.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use ledger_client::ClientError;

/// Exit code for a command that failed or could not ask.
const FAILED: u8 = 1;
/// Exit code for something that was checked and is not believed.
const REFUSED: u8 = 2;
/// Exit code for an audit that got no checkpoint or no whole chain.
const UNAVAILABLE: u8 = 3;
/// Exit code for an audit that could not look at everything.
const INCOMPLETE: u8 = 4;
/// Exit code for arguments that make no sense, as `sysexits.h` has it.
pub(crate) const USAGE: u8 = 64;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    exit_code: u8,
}

impl Failure {
    /// It did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit_code: FAILED }
    }

    /// It was checked and is not believed.
    pub(crate) fn refused(message: impl fmt::Display) -> Failure {
        Failure { message: format!("VERIFICATION REFUSED: {message}"), exit_code: REFUSED }
    }

    /// An audit could not be made; that says nothing about the vault.
    pub(crate) fn unavailable(message: impl fmt::Display) -> Failure {
        Failure { message: format!("AUDIT UNAVAILABLE: {message}"), exit_code: UNAVAILABLE }
    }

    /// An audit left something out.
    pub(crate) fn incomplete(message: impl fmt::Display) -> Failure {
        Failure { message: format!("AUDIT INCOMPLETE: {message}"), exit_code: INCOMPLETE }
    }

    /// The system did not let it work.
    pub(crate) fn system(what: &str, error: &std::io::Error) -> Failure {
        Failure::failed(format!("{what}: {error}"))
    }

    /// A file could not be used.
    pub(crate) fn file(path: &Path, error: &std::io::Error) -> Failure {
        Failure::failed(format!("{}: {error}", path.display()))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ledger-cli: {}", self.message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        if error.is_verification_refusal() {
            return Failure::refused(&error);
        }
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Failure::failed(message)
    }
}

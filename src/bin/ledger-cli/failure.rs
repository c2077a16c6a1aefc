//! How a command fails, and with which exit code.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use ledger_client::ClientError;

/// Exit code for a command that failed or could not ask.
const FAILED: u8 = 1;
/// Exit code for something that was checked and is not believed.
const REFUSED: u8 = 2;

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

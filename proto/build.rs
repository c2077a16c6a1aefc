//! Compiles the `.proto` files: Rust code and the descriptor set that reflection serves.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

/// The package that clients see.
const PUBLIC_FILES: [&str; 10] = [
    "ledger/v1/types.proto",
    "ledger/v1/identity.proto",
    "ledger/v1/read_service.proto",
    "ledger/v1/write_service.proto",
    "ledger/v1/admin_service.proto",
    "ledger/v1/health_service.proto",
    "ledger/v1/system_discovery_service.proto",
    "ledger/v1/changes.proto",
    "ledger/v1/streams.proto",
    "ledger/v1/ledger.proto",
];
/// The package between nodes.
const INTERNAL_FILES: [&str; 4] = [
    "ledger/internal/v1/peer.proto",
    "ledger/internal/v1/commands.proto",
    "ledger/internal/v1/snapshots.proto",
    "ledger/internal/v1/cosigners.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=ledger");

    let descriptors = protox::Compiler::new(["."])?
        .include_imports(true)
        .open_files(PUBLIC_FILES)?
        .file_descriptor_set();
    fs::write(out_dir.join("ledger_v1.bin"), descriptors.encode_to_vec())?;

    let with_comments = protox::Compiler::new(["."])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(PUBLIC_FILES)?
        .open_files(INTERNAL_FILES)?
        .file_descriptor_set();
    tonic_prost_build::configure()
        .bytes(".ledger.internal.v1.GroupMessage.payload")
        .bytes(".ledger.internal.v1.DirectoryEntry")
        .bytes(".ledger.internal.v1.Chunk.data")
        .compile_fds(with_comments)?;
    Ok(())
}

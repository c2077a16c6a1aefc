//! Golden vectors: encodings that must never change, kept as hex in `vectors/*.json`.
//!
//! Owns comparing with the files. `UPDATE_VECTORS=1` writes them anew, for an encoding that is new.

#![expect(clippy::disallowed_methods, reason = "writing vectors anew needs their files")]

use std::collections::BTreeMap;
use std::path::Path;

/// Compares every named encoding with the file `vectors/<file>.json`; both must name the same ones.
pub(crate) fn check(file: &str, encodings: &[(&str, Vec<u8>)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("vectors/{file}.json"));
    let actual: BTreeMap<String, String> =
        encodings.iter().map(|(name, bytes)| ((*name).to_owned(), hex::encode(bytes))).collect();
    assert_eq!(actual.len(), encodings.len(), "names are unique");
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&actual).unwrap() + "\n";
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path).expect("the vectors are in the tree");
    let expected: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    assert_eq!(actual, expected, "{}", path.display());
}

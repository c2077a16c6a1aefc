//! Real input for the demonstration: who owns the files under a directory.
//!
//! Owns the walk and how a file becomes relationships. Must never follow a symbolic link, read a file's
//! contents, or fail for a file that it cannot use: those are counted.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ledger_types::{Operation, StateKey};

/// The relationships of one file. All are about the same resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileGrants {
    /// `file:PATH`.
    pub(super) resource: String,
    /// `user:NAME`, the file's owner.
    pub(super) owner: String,
    /// `group:NAME`.
    pub(super) group: String,
    /// `dir:PATH`, the directory that holds the file.
    pub(super) parent: String,
}

/// Relationships that each file gives.
pub(super) const GRANTS_PER_FILE: usize = 3;

impl FileGrants {
    /// The file's relationships as operations.
    pub(super) fn operations(&self) -> [Operation; GRANTS_PER_FILE] {
        self.parts().map(|(relation, subject)| Operation::CreateRelationship {
            resource: self.resource.clone(),
            relation: relation.to_owned(),
            subject: subject.to_owned(),
        })
    }

    /// The vault, of `count`, that the file belongs to: all files of a directory share one.
    pub(super) fn vault_index(&self, count: usize) -> usize {
        let hash = fnv1a(self.parent.as_bytes());
        usize::try_from(hash % count as u64).expect("below a usize")
    }

    fn parts(&self) -> [(&'static str, &str); GRANTS_PER_FILE] {
        [("owner", &self.owner), ("group", &self.group), ("parent", &self.parent)]
    }

    fn fits(&self) -> bool {
        self.parts().iter().all(|(relation, subject)| {
            StateKey::check_relationship(&self.resource, relation, subject).is_ok()
        })
    }
}

/// What a walk found.
#[derive(Clone, Debug, Default)]
pub(super) struct Harvest {
    /// Files with their relationships, in the order of the walk.
    pub(super) files: Vec<FileGrants>,
    /// Files whose path is no UTF-8.
    pub(super) not_text: u64,
    /// Files whose path is too long for a key.
    pub(super) too_long: u64,
    /// Files and directories that could not be looked at.
    pub(super) unreadable: u64,
}

impl Harvest {
    /// Files and directories that gave nothing.
    pub(super) fn skipped(&self) -> u64 {
        self.not_text + self.too_long + self.unreadable
    }
}

/// Looks at up to `files_max` files under `root`, directory by directory, in name order. Errors: `root`
/// itself cannot be read.
pub(super) fn walk(root: &Path, files_max: usize) -> io::Result<Harvest> {
    let names = Names::of_system();
    let root = fs::canonicalize(root)?;
    fs::read_dir(&root)?;
    let mut harvest = Harvest::default();
    let mut waiting = vec![root];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = sorted_entries(&directory) else {
            harvest.unreadable += 1;
            continue;
        };
        let mut inner = Vec::new();
        for entry in entries {
            if harvest.files.len() == files_max {
                return Ok(harvest);
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => inner.push(entry.path()),
                Ok(_) => harvest.take(&directory, &entry, &names),
                Err(_) => harvest.unreadable += 1,
            }
        }
        waiting.extend(inner.into_iter().rev());
    }
    Ok(harvest)
}

impl Harvest {
    fn take(&mut self, directory: &Path, entry: &fs::DirEntry, names: &Names) {
        let path = entry.path();
        let (Some(path), Some(parent)) = (path.to_str(), directory.to_str()) else {
            self.not_text += 1;
            return;
        };
        let Ok(metadata) = entry.metadata() else {
            self.unreadable += 1;
            return;
        };
        let grants = FileGrants {
            resource: format!("file:{path}"),
            owner: format!("user:{}", Names::name(&names.users, metadata.uid())),
            group: format!("group:{}", Names::name(&names.groups, metadata.gid())),
            parent: format!("dir:{parent}"),
        };
        if grants.fits() {
            self.files.push(grants);
        } else {
            self.too_long += 1;
        }
    }
}

fn sorted_entries(directory: &PathBuf) -> io::Result<Vec<fs::DirEntry>> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<fs::DirEntry>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

/// Names of users and groups by number.
#[derive(Debug, Default)]
struct Names {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Names {
    fn of_system() -> Names {
        // A missing file leaves the numbers without names, which is no obstacle.
        let read = |path: &str| parse_names(&fs::read_to_string(path).unwrap_or_default());
        Names { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    /// The name of a number; the number itself if it has none.
    fn name(names: &BTreeMap<u32, String>, number: u32) -> String {
        names.get(&number).cloned().unwrap_or_else(|| number.to_string())
    }
}

/// Reads `name:password:number:…` lines; the first name of a number counts.
fn parse_names(text: &str) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (name, number) = (fields.next(), fields.nth(1));
        let number = number.and_then(|number| number.parse().ok());
        if let (Some(name), Some(number)) = (name.filter(|name| !name.is_empty()), number) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// FNV-1a: spreads directories over vaults the same way on every machine.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn files_become_relationships_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(root.join("b")).unwrap();
        fs::write(root.join("a"), "").unwrap();
        fs::write(root.join("b/c"), "").unwrap();
        fs::write(root.join(OsStr::from_bytes(b"b/\xff")), "").unwrap();
        std::os::unix::fs::symlink(&root, root.join("b/loop")).unwrap();
        let harvest = walk(&root, 100).unwrap();
        let root = root.to_str().unwrap();
        let resources: Vec<&str> = harvest.files.iter().map(|file| &*file.resource).collect();
        let expected = ["a", "b/c", "b/loop"].map(|name| format!("file:{root}/{name}"));
        assert_eq!(resources, expected);
        assert_eq!(harvest.files[1].parent, format!("dir:{root}/b"));
        assert_eq!((harvest.not_text, harvest.skipped()), (1, 1));
        let operations = harvest.files[0].operations();
        let Operation::CreateRelationship { relation, subject, .. } = &operations[0] else {
            panic!("{operations:?}")
        };
        assert_eq!(relation, "owner");
        assert!(subject.starts_with("user:") && subject.len() > 5, "{subject}");
        assert_eq!(walk(Path::new(root), 2).unwrap().files.len(), 2);
        assert!(walk(Path::new("/no/such/place"), 2).is_err());
    }

    #[test]
    fn paths_beyond_a_key_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut deep = fs::canonicalize(folder.path()).unwrap();
        for _ in 0..5 {
            deep.push("d".repeat(250));
            fs::create_dir(&deep).unwrap();
        }
        fs::write(deep.join("file"), "").unwrap();
        let harvest = walk(folder.path(), 100).unwrap();
        assert_eq!((harvest.files.len(), harvest.too_long), (0, 1));
    }

    #[test]
    fn a_directory_stays_in_one_vault_and_many_are_spread() {
        let grants = |parent: &str, name: &str| FileGrants {
            resource: format!("file:{parent}/{name}"),
            owner: "user:root".to_owned(),
            group: "group:root".to_owned(),
            parent: format!("dir:{parent}"),
        };
        assert_eq!(grants("/usr", "a").vault_index(16), grants("/usr", "b").vault_index(16));
        let mut used = [false; 16];
        for number in 0..400 {
            used[grants(&format!("/usr/share/{number}"), "a").vault_index(16)] = true;
        }
        assert_eq!(used, [true; 16]);
    }

    #[test]
    fn names_come_from_the_first_line_of_a_number() {
        let text = "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n:x:5\nbroken\nalice:x:1000:";
        let names = parse_names(text);
        assert_eq!(Names::name(&names, 0), "root");
        assert_eq!(Names::name(&names, 1000), "alice");
        assert_eq!(Names::name(&names, 5), "5");
    }
}

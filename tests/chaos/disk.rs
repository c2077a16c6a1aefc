//! A disk of one node that can be filled and lose power: a file system in a file.
//!
//! Owns the file, the mount and its end. Needs the rights to mount; where they or the programs are missing, the faults
//! of disks are left out, with the reason printed.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FallocateFlags;

/// Bytes of a disk.
const DISK_BYTES: u64 = 384 << 20;
/// The largest piece by which it is filled.
const FILL_BYTES: u64 = 64 << 20;
/// The smallest.
const FILL_BYTES_MIN: u64 = 4096;
/// Makes an ext4 file system stop at once without writing its journal: what is not synced is lost.
const SHUTDOWN: &str = "open(my $f, '<', $ARGV[0]) or die $!; my $how = pack('L', 2); \
     ioctl($f, 0x8004587D, $how) or die $!";

/// A mounted disk. Dropping it takes the mount away.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    directory: PathBuf,
}

impl Disk {
    /// Why this machine has no such disks, if it has none. Tries one out.
    pub(crate) fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("only root may mount".to_owned());
        }
        let folder = tempfile::tempdir().ok()?;
        let tried = Disk::make(folder.path(), "trial").and_then(|disk| {
            disk.cut_off()?;
            disk.unmount()
        });
        tried.err().map(|error| error.to_string())
    }

    /// Makes an empty disk below `folder` and mounts it.
    pub(crate) fn make(folder: &Path, name: &str) -> io::Result<Disk> {
        let disk = Disk {
            image: folder.join(format!("disk-{name}.ext4")),
            directory: folder.join(format!("disk-{name}")),
        };
        File::create(&disk.image)?.set_len(DISK_BYTES)?;
        std::fs::create_dir(&disk.directory)?;
        let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run(Command::new("mkfs.ext4").args(options).arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Mounts it, after a power cut too.
    pub(crate) fn mount(&self) -> io::Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.directory))
    }

    /// Takes the mount away. Nobody may use it any more.
    pub(crate) fn unmount(&self) -> io::Result<()> {
        run(Command::new("umount").arg(&self.directory))
    }

    /// Loses power: nothing more is written, and what was not synced is not there after the next mount.
    pub(crate) fn cut_off(&self) -> io::Result<()> {
        run(Command::new("perl").args(["-e", SHUTDOWN]).arg(&self.directory))
    }

    /// Leaves no free byte.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let filler = OpenOptions::new().create(true).append(true).open(self.filler())?;
        let mut bytes = FILL_BYTES;
        let mut end = filler.metadata()?.len();
        while bytes >= FILL_BYTES_MIN {
            match rustix::fs::fallocate(&filler, FallocateFlags::empty(), end, bytes) {
                Ok(()) => end += bytes,
                Err(rustix::io::Errno::NOSPC) => bytes /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes away what [`Disk::fill`] has put there, so that a loss of power does not bring it back: the disk would be
    /// full again, and nobody would know.
    pub(crate) fn free(&self) -> io::Result<()> {
        std::fs::remove_file(self.filler())?;
        File::open(&self.directory)?.sync_all()
    }

    fn filler(&self) -> PathBuf {
        self.directory.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Not mounted after a power cut; lazily, because a process may have just been killed.
        let _ = Command::new("umount").args(["--quiet", "--lazy"]).arg(&self.directory).output();
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let program = command.get_program().to_string_lossy().into_owned();
    Err(io::Error::other(format!("{program}: {} {}", output.status, told.trim())))
}

#[cfg(test)]
mod tests {
    use super::super::report::tell;
    use super::*;

    fn free_bytes(disk: &Disk) -> u64 {
        let told = rustix::fs::statvfs(&disk.directory).unwrap();
        told.f_bavail * told.f_frsize
    }

    #[test]
    fn a_disk_that_was_freed_has_room_after_a_power_cut_too() {
        if let Some(why) = Disk::missing() {
            tell(format_args!("a disk that was freed is not tried: {why}"));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::make(folder.path(), "freed").unwrap();
        let room = free_bytes(&disk);
        disk.fill().unwrap();
        assert!(free_bytes(&disk) < FILL_BYTES_MIN, "it is full");
        // What fills it is durable, as it soon is when a server syncs its own files beside it.
        File::open(disk.directory()).unwrap().sync_all().unwrap();
        disk.free().unwrap();
        disk.cut_off().unwrap();
        disk.unmount().unwrap();
        disk.mount().unwrap();
        assert!(free_bytes(&disk) > room / 2, "{} bytes of {room} are free", free_bytes(&disk));
    }
}

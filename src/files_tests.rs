//! What is no regular file, or larger than its kind may be, made here and read.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use super::*;

/// A folder that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let id = std::process::id();
        let folder = std::env::temp_dir().join(format!("triton_vllm_files_{name}_{id}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What `read` answers, within a time that a hang would exceed.
fn read_soon(path: PathBuf, kind: Kind) -> Result<Vec<u8>> {
    let (send, answer) = mpsc::channel();
    std::thread::spawn(move || send.send(read(&path, kind)));
    answer.recv_timeout(Duration::from_secs(30)).expect("a read that hangs")
}

#[test]
fn only_regular_files_are_read() {
    let folder = Folder::new("kinds");
    let at = |name: &str| folder.0.join(name);
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    let _socket = UnixListener::bind(at("socket")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("link")).unwrap();
    let cases = [
        (at("fifo"), "a FIFO"),
        (at("socket"), "a socket"),
        (at("link"), "a character device"),
        (PathBuf::from("/dev/zero"), "a character device"),
        (folder.0.clone(), "a directory"),
    ];
    for (path, what) in cases {
        for kind in [Kind::Config, Kind::Weights] {
            let error = read_soon(path.clone(), kind).unwrap_err();
            let expected = format!("{} is {what}, not a regular file.", path.display());
            assert_eq!(error, Error::InvalidArgument(expected));
        }
    }
}

#[test]
fn a_file_has_at_most_the_bytes_of_its_kind() {
    let folder = Folder::new("sizes");
    let path = folder.0.join("line");
    let limit = Kind::Line.max_bytes() as usize;
    std::fs::write(&path, vec![b'x'; limit]).unwrap();
    assert_eq!(read(&path, Kind::Line).unwrap().len(), limit);
    std::fs::write(&path, vec![b'x'; limit + 1]).unwrap();
    let error = read(&path, Kind::Line).unwrap_err();
    for part in [path.display().to_string(), (limit + 1).to_string(), limit.to_string()] {
        assert!(error.message().contains(&part), "{error}");
    }
    assert_eq!(read(&path, Kind::Config).unwrap().len(), limit + 1);
}

/// A file of `/proc` says that it has no bytes and has some.
#[test]
fn a_size_that_lies_is_not_believed() {
    assert!(!read(Path::new("/proc/self/status"), Kind::Line).unwrap().is_empty());
    // The kernel's symbols, some megabytes of them where they are shown.
    let symbols = PathBuf::from("/proc/kallsyms");
    if std::fs::read(&symbols).is_ok_and(|all| all.len() as u64 > Kind::Line.max_bytes()) {
        let error = read_soon(symbols, Kind::Line).unwrap_err();
        assert!(error.message().contains("at most 65536 are read"), "{error}");
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let path = Path::new("/nonexistent/config.json");
    let error = read(path, Kind::Config).unwrap_err();
    assert_eq!(error, Error::NotFound("/nonexistent/config.json not found.".into()));
    assert_eq!(optional::<Vec<u8>>(Err(error)), Ok(None));
    assert_eq!(optional(Ok(1)), Ok(Some(1)));
    let other = Err::<(), _>(invalid!("x"));
    assert!(optional(other).is_err());
}

#[test]
fn a_message_is_one_line() {
    let folder = Folder::new("lines");
    let path = folder.0.join("a\nb");
    std::fs::create_dir_all(&path).unwrap();
    let error = read(&path, Kind::Config).unwrap_err();
    assert!(!error.message().contains('\n') && error.message().contains("a b"), "{error}");
}

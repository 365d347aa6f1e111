//! Files that are not what their name says, by how they begin: pointers of Git LFS, web pages,
//! archives, files of other programs, and those that a broken download left empty. Each is said
//! with what to do. Called by `files` for every file that it opens.

use std::path::Path;

use super::kind::Kind;
use crate::error::{Error, Result};
use crate::invalid;

/// So many bytes at the beginning tell.
pub(super) const HEAD_BYTES: usize = 512;

const POINTER: &str = "version https://git-lfs.github.com/spec/";

/// Judge a file by its first [`HEAD_BYTES`] bytes, or all there are.
///
/// # Errors
/// InvalidArgument or Unsupported: it cannot be a file of this kind. One line that starts with the
/// path.
pub(super) fn judge(path: &Path, kind: Kind, head: &[u8]) -> Result<()> {
    if matches!(kind, Kind::Line | Kind::Certificates) {
        return Ok(());
    }
    let shown = path.display();
    // A vocabulary without merges is one too; the reader of arguments says more.
    let may_be_empty = kind == Kind::Arguments || path.extension().is_some_and(|end| end == "txt");
    if head.is_empty() && !may_be_empty {
        return Err(invalid!(
            "{shown} is empty: a copy or download was cut short; fetch it again."
        ));
    }
    if head.starts_with(POINTER.as_bytes()) {
        return Err(pointer(path, head));
    }
    if is_page(head) {
        return Err(invalid!(
            "{shown} is a web page, not the file: an error or login page was saved under its name; \
             fetch it again, with `hf download` or git-lfs."
        ));
    }
    let other = match head {
        [b'G', b'G', b'U', b'F', ..] if kind != Kind::Gguf => "a GGUF file",
        [0x1f, 0x8b, ..] => "packed with gzip: unpack it",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "packed with zstd: unpack it",
        [0x89, b'H', b'D', b'F', ..] => "an HDF5 file, as Keras writes it",
        _ => return Ok(()),
    };
    let wanted = match kind {
        Kind::Weights => "safetensors and pytorch_model.bin are read",
        Kind::Gguf => "it should be a GGUF file",
        _ => "such a file is not read here",
    };
    Err(Error::Unsupported(format!("{shown} is {other}; {wanted}.")))
}

/// The text that stands in a repository in place of a large file.
fn pointer(path: &Path, head: &[u8]) -> Error {
    let head = String::from_utf8_lossy(head);
    let line = head.lines().find_map(|line| line.strip_prefix("size "));
    let size = match line.and_then(|digits| digits.trim().parse::<u64>().ok()) {
        Some(bytes) => format!(" of {bytes} bytes"),
        None => String::new(),
    };
    let folder = path.parent().unwrap_or(path).display();
    invalid!(
        "{} is a Git LFS pointer, not the file{size}: the repository was cloned without Git LFS. \
         Run `git lfs install && git lfs pull` in {folder}, or fetch the model with `hf download`.",
        path.display()
    )
}

fn is_page(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    let begins = |word: &str| {
        text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
    };
    begins("<!doctype html") || begins("<html") || begins("<?xml") || begins("<error>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: Kind, text: &[u8]) -> Result<()> {
        judge(Path::new("/m/model.safetensors"), kind, text)
    }

    #[test]
    fn case_11_a_pointer_says_what_to_run() {
        let text = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 500\n";
        for kind in [Kind::Weights, Kind::Config, Kind::Tokenizer, Kind::Index, Kind::Arguments] {
            let error = said(kind, text.as_bytes()).unwrap_err().to_string();
            for word in ["/m/model.safetensors is a Git LFS pointer", "500 bytes", "git lfs pull"] {
                assert!(error.contains(word), "{error}");
            }
        }
    }

    #[test]
    fn what_else_lies_under_a_files_name() {
        for (text, word) in [
            (&b""[..], "empty"),
            (b"\n <!DOCTYPE html><html>", "web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", "web page"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\x1f\x8b\x08\0", "gzip"),
        ] {
            let error = said(Kind::Weights, text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        for good in [&b"PK\x03\x04"[..], b"\x08\0\0\0\0\0\0\0{}", b"{\"html\": \"<html>\"}", b"<"] {
            assert_eq!(said(Kind::Weights, good), Ok(()));
        }
        assert_eq!(said(Kind::Arguments, b""), Ok(()), "the reader of JSON says more");
    }
}

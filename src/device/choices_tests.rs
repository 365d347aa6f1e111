//! Choices across starts: what was kept is read, what is not ours or not whole is not.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{hex, Choices, ChoicesFile, ENTRIES_MAX, SEAL};
use ring::digest::{digest, SHA256};

/// A folder of its own, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("choices-{}-{number}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }

    fn file(&self, title: &str) -> ChoicesFile {
        ChoicesFile::new(&self.0.join("of").join("ours"), title)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn some(keys: impl IntoIterator<Item = u64>) -> Choices {
    keys.into_iter().map(|n| (format!("{n} rows of 7"), [n, 0, u64::MAX, 1, 2, 3, 4, 5])).collect()
}

#[test]
fn what_was_kept_is_read_by_the_next_start() {
    let folder = Folder::new();
    let file = folder.file("card A\nlibrary 1");
    assert_eq!(file.read(), Choices::new());
    file.add(&some([1, 2])).unwrap();
    let newer = Choices::from([("2 rows of 7".to_string(), [9; 8])]);
    file.add(&newer).unwrap();

    let again = folder.file("card A\nlibrary 1").read();
    assert_eq!(again.len(), 2);
    assert_eq!((again["1 rows of 7"][0], again["2 rows of 7"]), (1, [9; 8]));
    assert_eq!(folder.file("card A\nlibrary 2").read(), Choices::new(), "of another version");
    let left = std::fs::read_dir(file.path.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "nothing but the file itself");
}

#[test]
fn a_damaged_file_holds_nothing_and_is_replaced() {
    let folder = Folder::new();
    let file = folder.file("card");
    file.add(&some([1, 2, 3])).unwrap();
    let whole = std::fs::read(&file.path).unwrap();
    for at in 0..whole.len() {
        std::fs::write(&file.path, &whole[..at]).unwrap();
        assert_eq!(file.read(), Choices::new(), "cut at {at}");
        let mut other = whole.clone();
        other[at] ^= 1;
        std::fs::write(&file.path, &other).unwrap();
        assert_eq!(file.read(), Choices::new(), "byte {at} is another");
    }
    std::fs::write(&file.path, [0xff; 100]).unwrap();
    assert_eq!(file.read(), Choices::new(), "no text");

    file.add(&some([4])).unwrap();
    assert_eq!(file.read(), some([4]));
}

#[test]
fn a_whole_file_of_another_or_with_other_lines_holds_nothing() {
    let folder = Folder::new();
    let file = folder.file("card");
    file.add(&some([1])).unwrap();
    let sealed =
        |body: &str| format!("{body}{SEAL}{}\n", hex(digest(&SHA256, body.as_bytes()).as_ref()));
    let ours = "triton_vllm choices 1\ncard\n";
    let words = "0 1 2 3 4 5 6 7";
    for (body, entries) in [
        (format!("{ours}a: {words}\n"), 1),
        (ours.to_string(), 0),
        (format!("triton_vllm choices 2\ncard\na: {words}\n"), 0),
        (format!("triton_vllm choices 1\nanother card\na: {words}\n"), 0),
        (format!("{ours}a: {words} 8\n"), 0),
        (format!("{ours}a: {words}\nb\n"), 0),
        (format!("{ours}a: 0 1 2 3 4 5 6 x\n"), 0),
        (String::new(), 0),
    ] {
        std::fs::write(&file.path, sealed(&body)).unwrap();
        assert_eq!(file.read().len(), entries, "{body}");
    }
}

#[test]
fn ranks_and_models_add_to_one_file_at_the_same_time() {
    let folder = Folder::new();
    std::thread::scope(|scope| {
        for rank in 0..8 {
            let folder = &folder;
            scope.spawn(move || {
                for model in 0..4 {
                    folder.file("card").add(&some([rank, 100 * rank + model])).unwrap();
                }
            });
        }
    });
    let all = (0..8).flat_map(|rank| (0..4).map(move |model| 100 * rank + model).chain([rank]));
    assert_eq!(folder.file("card").read(), some(all));
}

#[test]
fn the_file_stays_small() {
    let folder = Folder::new();
    let file = folder.file("card");
    file.add(&some(0..ENTRIES_MAX as u64)).unwrap();
    assert_eq!(file.read().len(), ENTRIES_MAX);
    assert!(std::fs::metadata(&file.path).unwrap().len() < crate::files::Kind::Choices.max_bytes());
    file.add(&some([7, 1 << 20])).unwrap();
    assert_eq!(file.read(), some([7, 1 << 20]));
}

#[test]
fn a_folder_that_cannot_be_written_is_one_line() {
    let folder = Folder::new();
    std::fs::write(&folder.0, "a file where a folder is to be").unwrap();
    let error = folder.file("card").add(&some([1])).unwrap_err().to_string();
    assert!(error.contains("cannot be written") && !error.contains('\n'), "{error}");
    assert_eq!(folder.file("card").read(), Choices::new());
    std::fs::remove_file(&folder.0).unwrap();
}

//! Which GGUF file is meant, by its name: of a folder or of a repository that may hold the same
//! model in several types. Called by `folder` and `hub`. It reads no file.

use super::files::split_name;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::cut;

/// Names that a message lists.
const LISTED: usize = 8;

/// What a user says of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GgufName {
    /// Nothing: there is one.
    Only,
    /// The type that its name ends in: `Q4_K_M`.
    Type(String),
    /// Its name.
    File(String),
}

/// `folder:Q4_K_M`: the folder, and the type.
pub fn with_type(name: &str) -> Option<(&str, GgufName)> {
    let (place, kind) = name.rsplit_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_type = !kind.is_empty() && kind.len() <= 64 && kind.chars().all(plain);
    (is_type && !place.is_empty()).then(|| (place, GgufName::Type(kind.into())))
}

/// Is this a GGUF file's name?
pub fn is_gguf(name: &str) -> bool {
    let end = name.len().checked_sub(5).and_then(|at| name.get(at..));
    end.is_some_and(|end| end.eq_ignore_ascii_case(".gguf"))
}

/// The files of one model among these names: one, or all that its first one is a part of. None:
/// there is none in GGUF. Projectors of images and statistics of activations are none.
///
/// # Errors
/// NotFound: none is what is wanted. InvalidArgument: several are.
pub fn choose<'a>(names: &[&'a str], wanted: &GgufName) -> Result<Option<Vec<&'a str>>> {
    let own = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let is_model = |name: &&&str| {
        let own = own(name);
        is_gguf(&own) && !own.starts_with("mmproj") && !own.contains("imatrix")
    };
    // Of the files of a split model the first stands for all.
    let is_first = |name: &&&str| split_name(name).is_none_or(|(_, number, _)| number == 1);
    let models: Vec<&str> = names.iter().filter(is_model).filter(is_first).copied().collect();
    if models.is_empty() {
        return Ok(None);
    }

    let is_wanted = |name: &&str| match wanted {
        GgufName::Only => true,
        GgufName::Type(kind) => ends_in(&own(name), &kind.to_ascii_lowercase()),
        GgufName::File(file) => name == file,
    };
    let found: Vec<&str> = models.iter().copied().filter(is_wanted).collect();
    match found[..] {
        [one] => Ok(Some(parts_of(one, names))),
        [] => Err(Error::NotFound(format!(
            "no GGUF file is {}; there are {}.",
            shown(wanted),
            list(&models)
        ))),
        [..] => Err(invalid!(
            "several GGUF files are {}: {}; name one of them, or its type behind a colon \
             (NAME:Q4_K_M).",
            shown(wanted),
            list(&found)
        )),
    }
}

/// All files that belong to the first one.
fn parts_of<'a>(first: &'a str, names: &[&'a str]) -> Vec<&'a str> {
    let Some((stem, _, count)) = split_name(first) else { return vec![first] };
    let belongs =
        |name: &&&str| split_name(name).is_some_and(|(other, _, of)| other == stem && of == count);
    let mut parts: Vec<&str> = names.iter().filter(belongs).copied().collect();
    parts.sort_unstable();
    parts
}

/// Whether a file's name ends in a type, as a word of its own.
fn ends_in(name: &str, kind: &str) -> bool {
    let stem = match split_name(name) {
        Some((stem, ..)) => stem,
        None => name.strip_suffix(".gguf").unwrap_or(name),
    };
    let Some(before) = stem.strip_suffix(kind) else { return false };
    before.is_empty() || before.ends_with(['-', '.', '_'])
}

fn shown(wanted: &GgufName) -> String {
    match wanted {
        GgufName::Only => "here".into(),
        GgufName::Type(kind) => format!("of type '{}'", cut(kind)),
        GgufName::File(file) => format!("called '{}'", cut(file)),
    }
}

fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| cut(name)).collect();
    match names.len() {
        n if n > LISTED => format!("{} and {} more", shown.join(", "), n - LISTED),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 7] = [
        "README.md",
        "mmproj-model-f16.gguf",
        "model-Q4_K_M.gguf",
        "model-UD-Q4_K_M.gguf",
        "model.IQ4_NL.gguf",
        "big/model-Q8_0-00001-of-00002.gguf",
        "big/model-Q8_0-00002-of-00002.gguf",
    ];

    fn chosen(wanted: GgufName) -> Result<Option<Vec<&'static str>>> {
        choose(&NAMES, &wanted)
    }

    #[test]
    fn a_type_is_the_end_of_a_name() {
        let kind = |kind: &str| chosen(GgufName::Type(kind.into()));
        assert_eq!(kind("iq4_nl"), Ok(Some(vec!["model.IQ4_NL.gguf"])));
        assert_eq!(kind("Q8_0"), Ok(Some(NAMES[5..].to_vec())), "with all its parts");
        assert_eq!(kind("UD-Q4_K_M"), Ok(Some(vec!["model-UD-Q4_K_M.gguf"])));
        let said = kind("Q4_K_M").unwrap_err().to_string();
        assert!(said.contains("several GGUF files are of type 'Q4_K_M'"), "{said}");
        let said = kind("Q4_K").unwrap_err();
        assert!(matches!(&said, Error::NotFound(text) if text.contains("model.IQ4_NL.gguf")));
        assert!(kind("4_K_M").is_err(), "a word of its own");
    }

    #[test]
    fn one_file_needs_no_name() {
        let only = |names: &[&'static str]| choose(names, &GgufName::Only);
        assert_eq!(only(&["a.txt", "mmproj.gguf", "x.imatrix.gguf"]), Ok(None));
        assert_eq!(only(&["a.txt", "m.GGUF"]), Ok(Some(vec!["m.GGUF"])));
        assert_eq!(only(&NAMES[5..]), Ok(Some(NAMES[5..].to_vec())));
        assert!(only(&NAMES).unwrap_err().message().contains("several GGUF files are here"));
        let named = chosen(GgufName::File("model.IQ4_NL.gguf".into()));
        assert_eq!(named, Ok(Some(vec!["model.IQ4_NL.gguf"])));
    }

    #[test]
    fn types_behind_a_colon() {
        let kind = |text: &str| GgufName::Type(text.into());
        assert_eq!(with_type("org/name:Q4_K_M"), Some(("org/name", kind("Q4_K_M"))));
        assert_eq!(with_type("/a/b:Q8_0"), Some(("/a/b", kind("Q8_0"))));
        for none in ["org/name", "https://huggingface.co/org/name", "a:", ":Q4", "a:b c"] {
            assert_eq!(with_type(none), None, "{none}");
        }
    }
}

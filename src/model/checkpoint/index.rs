//! The index of a checkpoint of several files: which file holds which tensor. It is read entry by
//! entry and the rest of it skipped, for a value of each would take forty times the file.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::Result;
use crate::files::{self, Kind};
use crate::invalid;
use crate::json;

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Option<Names>,
}

/// The distinct files, or what stands in the place of one.
struct Names(std::result::Result<BTreeSet<String>, String>);

/// A value that should be a name: what it is otherwise.
struct Name(std::result::Result<String, &'static str>);

/// The distinct files of an index, which must be plain names in the same folder.
pub(in crate::model) fn indexed_files(dir: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let shown = index.display().to_string();
    let bytes = files::read(index, Kind::Index)?;
    let read: Index = serde_json::from_slice(json::unmarked(&bytes))
        .map_err(|e| invalid!("{shown}: is not an index of files: {e}.").on_one_line())?;
    let Some(Names(names)) = read.weight_map else {
        return Err(invalid!("{shown}: 'weight_map' is missing; it must be an object."));
    };
    let names = names.map_err(|why| invalid!("{shown}: {why}.").on_one_line())?;
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Names, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object as 'weight_map'")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Names, A::Error> {
                let mut names = Ok(BTreeSet::new());
                while let Some((tensor, Name(name))) = map.next_entry::<String, Name>()? {
                    let plain = |f: &String| !f.is_empty() && !f.contains('/') && f != "..";
                    let got = match name {
                        Ok(name) if plain(&name) => {
                            names.as_mut().map(|names| names.insert(name)).ok();
                            continue;
                        }
                        Ok(name) => format!("\"{}\"", json::cut(&name)),
                        Err(what) => what.to_string(),
                    };
                    let tensor = json::cut(&tensor);
                    names = names
                        .and(Err(format!("the file of tensor '{tensor}' is not a name: {got}")));
                }
                Ok(Names(names))
            }
        }
        from.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Name, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a file")
            }

            fn visit_str<E>(self, name: &str) -> std::result::Result<Name, E> {
                Ok(Name(Ok(name.to_string())))
            }

            fn visit_bool<E>(self, _: bool) -> std::result::Result<Name, E> {
                Ok(Name(Err("a truth value")))
            }

            fn visit_i64<E>(self, _: i64) -> std::result::Result<Name, E> {
                Ok(Name(Err("a number")))
            }

            fn visit_u64<E>(self, _: u64) -> std::result::Result<Name, E> {
                Ok(Name(Err("a number")))
            }

            fn visit_f64<E>(self, _: f64) -> std::result::Result<Name, E> {
                Ok(Name(Err("a number")))
            }

            fn visit_unit<E>(self) -> std::result::Result<Name, E> {
                Ok(Name(Err("null")))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> std::result::Result<Name, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Name(Err("a list")))
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Name, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Name(Err("an object")))
            }
        }
        from.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<PathBuf>> {
        let name = format!("index-{}-{:p}.json", std::process::id(), text.as_ptr());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("a file");
        let outcome = indexed_files(Path::new("d"), &path);
        std::fs::remove_file(&path).expect("it is there");
        outcome
    }

    #[test]
    fn files_are_told_once_and_in_order() {
        let text = "\u{feff}{\"metadata\": {\"total_size\": 3}, \"x\": [1, [2]], \
                    \"weight_map\": {\"a\": \"2\", \"b\": \"1\", \"c\": \"2\"}}";
        assert_eq!(read(text).expect("an index"), [Path::new("d/1"), Path::new("d/2")]);
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for (text, words) in [
            ("{}", "'weight_map' is missing"),
            (r#"{"weight_map": null}"#, "'weight_map' is missing"),
            (r#"{"weight_map": 3}"#, "expected an object as 'weight_map'"),
            (r#"{"weight_map": {"a": "../b", "c": 1}}"#, r#"tensor 'a' is not a name: "../b"."#),
            (r#"{"weight_map": {"a": ""}}"#, "tensor 'a' is not a name: \"\"."),
            (r#"{"weight_map": {"a": "x", "c": 1}}"#, "tensor 'c' is not a name: a number."),
            (r#"{"weight_map": {"a": [[0], 0]}}"#, "tensor 'a' is not a name: a list."),
            (r#"{"weight_map": {"a": {"b": 0}}}"#, "tensor 'a' is not a name: an object."),
            ("{", "is not an index of files: "),
        ] {
            let said = read(text).expect_err(text).to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
    }
}

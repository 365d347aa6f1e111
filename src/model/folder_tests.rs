//! What a model's name may be: folders, cache folders of a hub, names on it, files by mistake.

use super::*;

/// A folder that is gone after the test.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str, files: &[&str]) -> TempDir {
        let place = std::env::temp_dir().join(format!("folder-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place).unwrap();
        for file in files {
            let path = place.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        TempDir(place)
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn names_of_folders_files_and_models() {
    let place = TempDir::new("names", &["mine/config.json", "mine/weights.bin"]);
    let found = |name: &str| find(name, &place.0, None);
    let folder = |path: PathBuf| Ok(Location::Folder(path, GgufName::Only));
    assert_eq!(found("mine"), folder(place.0.join("mine")), "beside the arguments");
    assert_eq!(found(&place.name()), folder(place.0.clone()));
    let here = std::env::current_dir().unwrap();
    assert_eq!(found("src"), folder(here.join("src")));
    assert_eq!(found("org/name"), Ok(Location::Repo("org/name".into(), GgufName::Only)));

    for (name, word) in [
        ("mine/weights.bin", "weights.bin is a file: a model is named by the folder"),
        ("/no/such", "is no folder (tried: /no/such) and no name"),
        ("./no", "/./no) and no name of a model"),
        ("~/no/such/model", "is no folder (tried: "),
        ("https://huggingface.co/org/name", "is a URL"),
        ("s3://bucket/model", "is a URL"),
        ("", "is empty"),
    ] {
        let said = match found(name) {
            Err(e) => e.to_string(),
            Ok(found) => panic!("{name}: {found:?}"),
        };
        assert!(said.contains(word), "{name}: {said}");
    }
    let said = found("./no").unwrap_err().to_string();
    assert!(said.contains(&place.name()) && said.contains(&here.display().to_string()), "{said}");
}

#[test]
fn case_13_gguf_by_file_by_type_and_on_a_hub() {
    let place = TempDir::new("gguf", &["m.Q4_K_M.gguf", "two/a-Q8_0.gguf", "two/b.txt"]);
    let found = |name: &str| find(name, &place.0, None);
    let kind = |kind: &str| GgufName::Type(kind.into());
    let file = |file: &str| GgufName::File(file.into());
    let repo = |which| Ok(Location::Repo("org/x-GGUF".into(), which));
    assert_eq!(found("m.Q4_K_M.gguf"), Ok(Location::Gguf(place.0.join("m.Q4_K_M.gguf"))));
    let two = place.0.join("two");
    assert_eq!(found("two:Q8_0"), Ok(Location::Folder(two, kind("Q8_0"))));
    assert_eq!(found("org/x-GGUF:Q4_K_M"), repo(kind("Q4_K_M")));
    assert_eq!(found("org/x-GGUF/y.gguf"), repo(file("y.gguf")));
    assert_eq!(found("org/x-GGUF/Q8/y.gguf"), repo(file("Q8/y.gguf")));
    let said = found("/weights/Llama.gguf").unwrap_err().to_string();
    assert!(said.contains("is no GGUF file (tried: /weights/Llama.gguf)"), "{said}");
    assert!(found("two/b.txt").unwrap_err().message().contains("is a file: a model is named"));
}

#[test]
fn case_13_which_gguf_file_of_a_folder() {
    let only = &GgufName::Only;
    let kind = |kind: &str| GgufName::Type(kind.into());
    let one = TempDir::new("one-gguf", &["config.json", "m.Q4_0.gguf", "mmproj-f16.gguf"]);
    let file = one.0.join("m.Q4_0.gguf");
    assert_eq!(judge(&one.0, only), Ok(Holds::Gguf(file.clone())), "no other weights");
    assert_eq!(judge(&one.0, &kind("q4_0")), Ok(Holds::Gguf(file)));
    let said = judge(&one.0, &kind("Q8_0")).unwrap_err().to_string();
    assert!(said.starts_with(&one.name()) && said.contains("of type 'Q8_0'"), "{said}");

    let mistral = ["params.json", "tekken.json", "consolidated.safetensors"];
    let mistral = TempDir::new("whole", &mistral);
    assert_eq!(judge(&mistral.0, &GgufName::Only), Ok(Holds::Model));
    let both = TempDir::new("both-gguf", &["config.json", "model.safetensors", "m.Q4_0.gguf"]);
    assert_eq!(judge(&both.0, only), Ok(Holds::Model));
    assert_eq!(judge(&both.0, &kind("Q4_0")), Ok(Holds::Gguf(both.0.join("m.Q4_0.gguf"))));

    let parts = ["big/m-00001-of-00002.gguf", "big/m-00002-of-00002.gguf"];
    let split = TempDir::new("split-gguf", &parts);
    assert_eq!(judge(&split.0, only), Ok(Holds::Gguf(split.0.join(parts[0]))));
    let many = TempDir::new("many-gguf", &["a-Q4_0.gguf", "a-Q8_0.gguf"]);
    let said = judge(&many.0, only).unwrap_err().to_string();
    assert!(said.contains("several GGUF files are here: a-Q4_0.gguf, a-Q8_0.gguf"), "{said}");
    let none = TempDir::new("no-gguf", &["config.json"]);
    assert!(judge(&none.0, &kind("Q4_0")).unwrap_err().message().contains("holds no GGUF file"));
}

#[test]
fn case_12_folders_of_a_cache_mean_their_snapshot() {
    let (main, other) = ("0123456789abcdef", "fedcba9876543210");
    let files = [main, other].map(|commit| format!("snapshots/{commit}/config.json"));
    let place = TempDir::new("cache", &files.each_ref().map(String::as_str));
    std::fs::create_dir_all(place.0.join("refs/pr")).unwrap();
    std::fs::write(place.0.join("refs/main"), format!("{main}\n")).unwrap();
    std::fs::write(place.0.join("refs/pr/1"), other).unwrap();
    let found = |revision| find(&place.name(), Path::new("/"), revision);
    let folder =
        |commit| Ok(Location::Folder(place.0.join("snapshots").join(commit), GgufName::Only));
    assert_eq!(found(None), folder(main));
    assert_eq!(found(Some("pr/1")), folder(other));
    assert_eq!(found(Some(other)), folder(other));
    for revision in ["v2", "../main", "..", "/etc/passwd", ""] {
        let said = found(Some(revision)).unwrap_err().to_string();
        assert!(said.contains("without a snapshot of") && said.contains(main), "{said}");
    }
    std::fs::write(place.0.join("refs/main"), "../../x").unwrap();
    assert!(found(None).is_err());
}

#[test]
fn case_12_what_a_folder_lacks_is_said() {
    let parts = ["tekken.json", "consolidated.safetensors"];
    for (name, files, word) in [
        ("empty", &[][..], "is an empty folder"),
        ("mistral", &parts[..], "a part of a model in Mistral's own format"),
        ("tokens", &["tokenizer.json", "a.txt"], "the folder holds a.txt, tokenizer.json"),
        ("weights", &["model.safetensors"], "config.json is missing"),
        ("lora", &["adapter_config.json", "adapter_model.safetensors"], "is a LoRA adapter"),
        ("meta", &["params.json", "consolidated.00.pth", "tokenizer.model"], "Meta's own format"),
        ("onnx", &["model.onnx"], "ONNX"),
    ] {
        let place = TempDir::new(name, files);
        let said = judge(&place.0, &GgufName::Only).unwrap_err().to_string();
        assert!(said.starts_with(&place.name()) && said.contains(word), "{name}: {said}");
    }

    let many: Vec<String> = (0..50).map(|n| format!("{n:02}.txt")).collect();
    let place = TempDir::new("many", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let said = judge(&place.0, &GgufName::Only).unwrap_err().to_string();
    assert!(said.ends_with("07.txt and 42 more."), "{said}");
    let both = TempDir::new("both", &["config.json", "tekken.json", "consolidated.safetensors"]);
    assert_eq!(
        judge(&both.0, &GgufName::Only),
        Ok(Holds::Model),
        "a second copy in another format does no harm"
    );
}

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
    assert_eq!(found("mine"), Ok(Location::Folder(place.0.join("mine"))), "beside the arguments");
    assert_eq!(found(&place.name()), Ok(Location::Folder(place.0.clone())));
    let here = std::env::current_dir().unwrap();
    assert_eq!(found("src"), Ok(Location::Folder(here.join("src"))));
    assert_eq!(found("org/name"), Ok(Location::Repo));

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
fn case_13_gguf_is_said_to_be_gguf() {
    let place = TempDir::new("gguf", &["m.Q4_K_M.gguf"]);
    for name in ["m.Q4_K_M.gguf", "/weights/Llama.gguf", "org/x-GGUF:Q4_K_M", "org/x/y.gguf"] {
        let said = find(name, &place.0, None).unwrap_err();
        assert!(matches!(said, Error::Unsupported(_)), "{said}");
        assert!(said.message().contains("GGUF is not read yet"), "{said}");
    }
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
    let folder = |commit| Ok(Location::Folder(place.0.join("snapshots").join(commit)));
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
    let mistral = ["params.json", "tekken.json", "consolidated.safetensors"];
    for (name, files, word) in [
        ("empty", &[][..], "is an empty folder"),
        ("mistral", &mistral[..], "Mistral's own format"),
        ("tokens", &["tokenizer.json", "a.txt"], "the folder holds a.txt, tokenizer.json"),
        ("weights", &["model.safetensors"], "config.json is missing"),
        ("lora", &["adapter_config.json", "adapter_model.safetensors"], "is a LoRA adapter"),
        ("meta", &["params.json", "consolidated.00.pth", "tokenizer.model"], "Meta's own format"),
        ("gguf", &["a.gguf"], "GGUF, which is not read yet"),
        ("onnx", &["model.onnx"], "ONNX"),
    ] {
        let place = TempDir::new(name, files);
        let said = judge(&place.0).unwrap_err().to_string();
        assert!(said.starts_with(&place.name()) && said.contains(word), "{name}: {said}");
    }
    let many: Vec<String> = (0..50).map(|n| format!("{n:02}.txt")).collect();
    let place = TempDir::new("many", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let said = judge(&place.0).unwrap_err().to_string();
    assert!(said.ends_with("07.txt and 42 more."), "{said}");
    let both = TempDir::new("both", &["config.json", "tekken.json", "consolidated.safetensors"]);
    assert_eq!(judge(&both.0), Ok(()), "a second copy in another format does no harm");
}

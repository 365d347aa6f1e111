//! Against a stand-in on loopback: what is fetched and where it lies, what goes on after a break,
//! what is refused and with which words.

use super::stand_in::{etag, tls_file, Folder, StandIn, COMMIT};
use super::*;
use crate::invalid;

const WEIGHTS: &[u8] = &[7; 300_000];

fn model() -> StandIn {
    StandIn::new(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"a\": 1}"),
        ("model.safetensors", WEIGHTS),
        ("pytorch_model.bin", b"not needed"),
        ("consolidated.safetensors", b"not needed"),
        ("README.md", b"not needed"),
    ])
}

fn hub_with(endpoint: &str, cache: &Folder, more: &[(&str, &str)]) -> Hub {
    let var = |name: &str| match name {
        "HF_ENDPOINT" => Some(format!("{endpoint}/")),
        "HF_HOME" => Some(cache.0.display().to_string()),
        _ => more.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()),
    };
    Hub { retry_ms: 0, ..Hub::new(None, &Token::Environment, var) }
}

fn hub(stand_in: &StandIn, cache: &Folder) -> Hub {
    hub_with(&stand_in.endpoint, cache, &[])
}

fn any<'a>(revision: Option<&'a str>) -> SnapshotRequest<'a> {
    let gguf = &GgufName::Only;
    SnapshotRequest { repo: "org/name", revision, ignore: &[], weights: Some(Files::Any), gguf }
}

#[track_caller]
fn refused(hub: &Hub, wanted: &[&str]) -> String {
    let error = hub.snapshot(&any(None)).expect_err("must be refused").message().to_string();
    assert!(!error.contains('\n'), "more than a line: {error}");
    for part in wanted {
        assert!(error.contains(part), "lacks {part:?}: {error}");
    }
    error
}

#[test]
fn what_is_needed_in_the_layout_of_the_python_tools() {
    let (stand_in, cache) = (model(), Folder::new());
    let hub = hub_with(&stand_in.endpoint, &cache, &[("HUGGING_FACE_HUB_TOKEN", "hf_x")]);
    let folder = hub.snapshot(&any(None)).unwrap();
    let root = cache.path("hub/models--org--name");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    let mut names: Vec<_> =
        folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), WEIGHTS);
    let blob = etag("model.safetensors", WEIGHTS);
    let link = std::fs::read_link(folder.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(&blob));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert!(cache.path(&format!("hub/.locks/models--org--name/{blob}.lock")).exists());
    let log = stand_in.log();
    assert_eq!(log[0], "GET /api/models/org/name/revision/main Bearer hf_x");
    assert_eq!(log[1], format!("HEAD /org/name/resolve/{COMMIT}/config.json Bearer hf_x"));
    assert_eq!(log.len(), 7);

    // Again: the listing is all that is asked for. A second name of the commit needs no file.
    hub.snapshot(&any(Some("refs/pr/1"))).unwrap();
    assert_eq!(stand_in.log(), ["GET /api/models/org/name/revision/refs%2Fpr%2F1 Bearer hf_x"]);
    assert_eq!(std::fs::read_to_string(root.join("refs/refs/pr/1")).unwrap(), COMMIT);

    // Offline, by name and by commit; and when the hub is gone.
    let none = "http://127.0.0.1:1";
    let offline = hub_with(none, &cache, &[("HF_HUB_OFFLINE", "1")]);
    for revision in [None, Some("refs/pr/1"), Some(COMMIT)] {
        assert_eq!(offline.snapshot(&any(revision)).unwrap(), folder);
    }
    assert!(offline.snapshot(&any(Some("v2"))).is_err());
    assert_eq!(hub_with(none, &cache, &[]).snapshot(&any(None)).unwrap(), folder);
    stand_in.state().status = Some(503);
    assert_eq!(hub.snapshot(&any(None)).unwrap(), folder);
}

#[test]
fn which_files() {
    let fetched = |files: &[(&str, &[u8])], ignore: &[&str], weights: Option<Files>| {
        let (stand_in, cache) = (StandIn::new(files), Folder::new());
        let ignore: Vec<String> = ignore.iter().map(|p| p.to_string()).collect();
        let gguf = &GgufName::Only;
        let wanted =
            SnapshotRequest { repo: "name", revision: None, ignore: &ignore, weights, gguf };
        hub(&stand_in, &cache).snapshot(&wanted).map(drop)?;
        let log = stand_in.log();
        let names = log.iter().filter(|l| l.starts_with("GET /name/resolve/"));
        Ok::<_, Error>(names.map(|l| l.rsplit('/').next().unwrap().to_string()).collect::<Vec<_>>())
    };
    let index = br#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#;
    let sharded: &[(&str, &[u8])] = &[
        ("config.json", b"{}"),
        ("m-1.safetensors", b"1"),
        ("m-2.safetensors", b"2"),
        ("m-3.safetensors", b"3"),
        ("model.safetensors.index.json", index),
        ("pytorch_model.bin", b"4"),
    ];
    let any = Some(Files::Any);
    let four =
        ["config.json", "model.safetensors.index.json", "m-1.safetensors", "m-2.safetensors"];
    assert_eq!(fetched(sharded, &[], any).unwrap(), four);
    assert_eq!(fetched(sharded, &[], None).unwrap(), ["config.json"]);
    let bin = ["config.json", "pytorch_model.bin"];
    assert_eq!(fetched(sharded, &[], Some(Files::Torch)).unwrap(), bin);
    assert_eq!(fetched(sharded, &["*.safetensors*"], any).unwrap(), bin);
    let bin_only: &[(&str, &[u8])] = &[("config.json", b"{}"), ("pytorch_model.bin", b"4")];
    assert_eq!(fetched(bin_only, &[], any).unwrap(), bin);
    let error = fetched(bin_only, &[], Some(Files::Safetensors)).unwrap_err();
    assert!(error.message().contains("has no weights that are read"), "{error}");
    assert!(fetched(&[("README.md", b"")], &[], any).unwrap_err().message().contains("no file"));
    let adapter: &[(&str, &[u8])] = &[
        ("adapter_config.json", b"{}"),
        ("adapter_model.bin", b"1"),
        ("adapter_model.safetensors", b"2"),
        ("model.safetensors", b"3"),
        ("tokenizer.json", b"{}"),
    ];
    let parts = ["adapter_config.json", "adapter_model.safetensors"];
    assert_eq!(fetched(adapter, &[], Some(Files::Adapter)).unwrap(), parts);
    assert!(fetched(bin_only, &[], Some(Files::Adapter))
        .unwrap_err()
        .message()
        .contains("adapter"));
    let mistral: &[(&str, &[u8])] = &[
        ("config.json", b"{}"),
        ("params.json", b"{ }"),
        ("tekken.json", b"{  }"),
        ("consolidated.safetensors", b"1"),
        ("model.safetensors", b"2"),
    ];
    let small = ["config.json", "params.json", "tekken.json"];
    let own = [&small[..], &["consolidated.safetensors"]].concat();
    assert_eq!(fetched(mistral, &[], any).unwrap(), own);
    assert_eq!(fetched(mistral, &[], Some(Files::Mistral)).unwrap(), own);
    let other = [&small[..], &["model.safetensors"]].concat();
    assert_eq!(fetched(mistral, &[], Some(Files::HuggingFace)).unwrap(), other);
    let mixture: &[(&str, &[u8])] = &[
        ("config.json", b"{}"),
        ("params.json", br#"{"moe": {"num_shared_experts": 1}}"#),
        ("consolidated.safetensors", b"1"),
        ("model.safetensors", b"2"),
    ];
    let other = ["config.json", "params.json", "model.safetensors"];
    assert_eq!(fetched(mixture, &[], any).unwrap(), other);
    // An index that leads out of the folder.
    let evil: &[(&str, &[u8])] =
        &[("model.safetensors.index.json", br#"{"weight_map": {"a": "../../x"}}"#)];
    assert!(fetched(evil, &[], any).unwrap_err().message().contains("is not a name"));
}

/// 269 MB were fetched before a line of config.json was refused.
#[test]
fn what_cannot_be_served_is_refused_before_its_weights() {
    let shards = br#"{"weight_map": {"a": "m-1.safetensors", "b": "m-9.safetensors"}}"#;
    let split: &[(&str, &[u8])] = &[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", shards),
        ("m-1.safetensors", WEIGHTS),
    ];
    let part: &[(&str, &[u8])] = &[("consolidated.safetensors", WEIGHTS)];
    let onnx: &[(&str, &[u8])] = &[("config.json", b"{}"), ("model.onnx", WEIGHTS)];
    let good: &[(&str, &[u8])] = &[("config.json", b"{}"), ("model.safetensors", WEIGHTS)];

    for (files, words, looked_at) in [
        (split, "names m-9.safetensors, which does not exist", false),
        (part, "a part of a model in Mistral's own format", false),
        (
            onnx,
            "weights that are read (*.safetensors, pytorch_model.bin, *.gguf): it holds ONNX",
            true,
        ),
        (good, "no such model", true),
    ] {
        let (stand_in, cache) = (StandIn::new(files), Folder::new());
        let seen = std::cell::Cell::new(false);
        let judge = |folder: &Path| {
            seen.set(true);
            assert!(folder.join("config.json").exists());
            match files.len() == good.len() && files[1].0 == good[1].0 {
                true => Err(Error::Unsupported("no such model".into())),
                false => Ok(()),
            }
        };
        let refused = hub(&stand_in, &cache).judged_snapshot(&any(None), &judge).unwrap_err();
        assert!(refused.message().contains(words), "{refused}");
        assert_eq!(seen.get(), looked_at, "{words}");
        let large = |line: &String| line.ends_with(".safetensors") || line.ends_with(".onnx");
        assert!(!stand_in.log().iter().any(large), "{words}: weights were asked for");
    }
}

#[test]
fn case_13_one_gguf_file_of_several_is_fetched() {
    let files: &[(&str, &[u8])] = &[
        ("README.md", b""),
        ("config.json", b"{}"),
        ("m-Q4_0.gguf", WEIGHTS),
        ("m-Q8_0.gguf", b"other"),
        ("big/m-F16-00001-of-00002.gguf", b"first"),
        ("big/m-F16-00002-of-00002.gguf", b"second"),
    ];
    let (stand_in, cache) = (StandIn::new(files), Folder::new());
    let fetched = |which: &GgufName, weights| {
        let request = SnapshotRequest { gguf: which, weights: Some(weights), ..any(None) };
        // Its configuration is in itself: there is nothing to judge.
        hub(&stand_in, &cache).judged_snapshot(&request, &|_| Err(invalid!("judged")))
    };
    let kind = |kind: &str| GgufName::Type(kind.into());
    let folder = fetched(&kind("Q4_0"), Files::Any).unwrap();
    assert_eq!(std::fs::read(folder.join("m-Q4_0.gguf")).unwrap(), WEIGHTS);
    assert!(!folder.join("m-Q8_0.gguf").exists() && folder.join("config.json").exists());
    fetched(&kind("F16"), Files::Gguf).unwrap();
    assert_eq!(std::fs::read(folder.join("big/m-F16-00002-of-00002.gguf")).unwrap(), b"second");
    fetched(&GgufName::File("m-Q8_0.gguf".into()), Files::Any).unwrap();
    assert!(folder.join("m-Q8_0.gguf").exists());

    let said = fetched(&GgufName::Only, Files::Any).unwrap_err().to_string();
    assert!(said.contains("model 'org/name': several GGUF files are here"), "{said}");
    let said = fetched(&kind("Q2_K"), Files::Any).unwrap_err().to_string();
    assert!(said.contains("no GGUF file is of type 'Q2_K'; there are"), "{said}");
    let said = fetched(&GgufName::Only, Files::Torch).unwrap_err().to_string();
    assert!(said.contains("judged"), "only where GGUF may be read: {said}");
}

/// How vectors are made stands in a folder of its own.
#[test]
fn the_pooling_config_is_fetched() {
    let files: &[(&str, &[u8])] = &[
        ("config.json", b"{}"),
        ("modules.json", b"[]"),
        ("1_Pooling/config.json", b"{}"),
        ("3_Pooling/config.json", b"{}"),
        ("model.safetensors", WEIGHTS),
    ];
    let (stand_in, cache) = (StandIn::new(files), Folder::new());
    let folder = hub(&stand_in, &cache).snapshot(&any(None)).unwrap();
    assert!(folder.join("1_Pooling/config.json").exists());
    assert!(!folder.join("3_Pooling").exists());
}

#[test]
fn broken_connections_go_on() {
    let (stand_in, cache) = (model(), Folder::new());
    stand_in.state().cuts = vec![2, 8, 100_000, 0, 50_000];
    let folder = hub(&stand_in, &cache).snapshot(&any(None)).unwrap();
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), WEIGHTS);
    let log = stand_in.log();
    let ranges: Vec<_> = log.iter().filter_map(|l| l.split_once(".safetensors ")).collect();
    let ranges: Vec<_> = ranges.iter().map(|(_, range)| *range).collect();
    assert_eq!(ranges, ["bytes=100000-", "bytes=100000-", "bytes=150000-"]);

    // What another process left, right or wrong.
    for (left, first) in [(7, "bytes=1000-"), (8, "bytes=1000-")] {
        let (stand_in, cache) = (model(), Folder::new());
        let blobs = cache.path("hub/models--org--name/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let part = format!("{}.incomplete", etag("model.safetensors", WEIGHTS));
        std::fs::write(blobs.join(part), vec![left; 1000]).unwrap();
        let folder = hub(&stand_in, &cache).snapshot(&any(None)).unwrap();
        assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), WEIGHTS);
        let gets: Vec<_> =
            stand_in.log().into_iter().filter(|l| l.starts_with("GET /org")).collect();
        assert!(gets[2].ends_with(first), "{gets:?}");
        assert_eq!(gets.len(), if left == 7 { 3 } else { 4 }, "{gets:?}");
    }

    let (stand_in, cache) = (model(), Folder::new());
    stand_in.state().cuts = vec![0; 20];
    refused(&hub(&stand_in, &cache), &["config.json"]);
}

#[test]
fn damage_is_seen() {
    let (stand_in, cache) = (model(), Folder::new());
    stand_in.state().damage = Some(b'!');
    refused(&hub(&stand_in, &cache), &["'config.json' arrived damaged", "expected"]);
    let root = cache.path("hub/models--org--name");
    assert_eq!(root.join("blobs").read_dir().unwrap().count(), 0, "nothing of it stays");
    assert!(!root.join("refs/main").exists());
    stand_in.state().damage = None;
    hub(&stand_in, &cache).snapshot(&any(None)).unwrap();
    stand_in.state().etag = Some("../../evil".into());
    let other = Folder::new();
    refused(&hub(&stand_in, &other), &["ETag", "evil", "should not send"]);
}

#[test]
fn refusals_say_what_to_do() {
    let (stand_in, cache) = (model(), Folder::new());
    let with_token = hub_with(&stand_in.endpoint, &cache, &[("HF_TOKEN", "hf_secret")]);
    let without = hub(&stand_in, &cache);
    for file in [false, true] {
        let set = |status: u16| {
            let mut state = stand_in.state();
            let place = if file { &mut state.file_status } else { &mut state.status };
            *place = Some(status);
        };
        set(401);
        refused(&without, &["org/name", "(401)", "set HF_TOKEN or 'hf_token'"]);
        let text = refused(&with_token, &["org/name", "(401)", "renew it in HF_TOKEN"]);
        assert!(!text.contains("hf_secret"));
        set(403);
        refused(&with_token, &["org/name", "(403)", "accept the licence at", "/org/name"]);
        set(404);
        refused(&without, &["org/name", "(404)", "'revision'"]);
        set(429);
        refused(&without, &["(429)"]);
        set(500);
        refused(&without, &["status 500"]);
        stand_in.state().status = None;
    }

    let gone = hub_with("http://127.0.0.1:1", &cache, &[]);
    refused(&gone, &["127.0.0.1:1 cannot be reached", "HF_ENDPOINT", "local folder"]);
    let offline = hub_with("http://127.0.0.1:1", &cache, &[("HF_HUB_OFFLINE", "true")]);
    refused(&offline, &["org/name", "HF_HUB_OFFLINE"]);
    for revision in ["../../x", "/etc", "a//b", "", ".."] {
        let error = without.snapshot(&any(Some(revision))).unwrap_err();
        assert!(error.message().contains("no branch, tag or commit"), "{error}");
    }
}

/// A hub that is busy for a moment is asked again; one that stays so is not asked for ever.
#[test]
fn busy_hubs_are_asked_again() {
    let (stand_in, cache) = (model(), Folder::new());
    // Listing, listing, then the facts of the first file.
    stand_in.state().statuses = vec![503, 429];
    hub(&stand_in, &cache).snapshot(&any(None)).unwrap();
    let listings = |log: Vec<String>| log.iter().filter(|l| l.contains("/api/")).count();
    assert_eq!(listings(stand_in.log()), 3);
    stand_in.state().statuses = vec![502; 3];
    hub(&stand_in, &cache).snapshot(&any(None)).unwrap();
    assert_eq!(listings(stand_in.log()), 3, "then what the cache has");
    stand_in.state().statuses = vec![404];
    refused(&hub(&stand_in, &cache), &["(404)"]);
    assert_eq!(listings(stand_in.log()), 1, "a refusal is an answer");
}

#[test]
fn certificates_of_ones_own() {
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", WEIGHTS)];
    let stand_in = StandIn::with_tls(&files);
    let path = |name: &str| tls_file(name).display().to_string();
    let with = |cache: &Folder, more: &[(&str, &str)]| hub_with(&stand_in.endpoint, cache, more);
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let cache = Folder::new();
        let folder = with(&cache, &[(name, &path("ca.pem"))]).snapshot(&any(None)).unwrap();
        assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), WEIGHTS);
    }
    let cache = Folder::new();
    refused(&with(&cache, &[]), &["cannot be reached", "SSL_CERT_FILE"]);
    let missing = [("SSL_CERT_FILE", "/no/such.pem")];
    refused(&with(&cache, &missing), &["SSL_CERT_FILE: /no/such.pem not found", "unset"]);
    let no_certificate = [("REQUESTS_CA_BUNDLE", &path("key.pem")[..]), missing[0]];
    refused(&with(&cache, &no_certificate), &["REQUESTS_CA_BUNDLE", "no PEM certificate"]);
}

/// /dev/full stands for a disk without space.
#[test]
fn full_disks_and_closed_folders() {
    let (stand_in, cache) = (model(), Folder::new());
    let blobs = cache.path("hub/models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let part = format!("{}.incomplete", etag("config.json", b"{}"));
    std::os::unix::fs::symlink("/dev/full", blobs.join(part)).unwrap();
    refused(&hub(&stand_in, &cache), &["config.json: no space left", "'download_dir'"]);

    let file = Folder::new();
    std::fs::write(file.path("hub"), "a file where the cache should be").unwrap();
    refused(&hub(&stand_in, &file), &["cannot be written"]);
}

/// Another process holds the lock and brings nothing: a load that is called off waits no longer.
#[test]
fn a_wait_for_another_process_ends_with_the_load() {
    let (stand_in, cache) = (model(), Folder::new());
    let locks = cache.path("hub/.locks/models--org--name");
    std::fs::create_dir_all(&locks).unwrap();
    let name = format!("{}.lock", etag("model.safetensors", WEIGHTS));
    let lock = std::fs::File::create(locks.join(name)).unwrap();
    lock.lock().unwrap();
    let progress = Arc::new(Progress::default());
    let hub = hub(&stand_in, &cache).called_off_by(&progress);
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| hub.snapshot(&any(None)));
        let asked = |l: &String| l.starts_with("HEAD") && l.ends_with("model.safetensors");
        while !stand_in.state().log.iter().any(asked) {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!loading.is_finished());
        progress.stop();
        assert!(matches!(loading.join().unwrap(), Err(Error::Cancelled(_))));
    });
}

/// Another process holds the lock, brings the file and lets go: we wait and use it.
#[test]
fn a_second_process_waits() {
    let (stand_in, cache) = (model(), Folder::new());
    let name = etag("model.safetensors", WEIGHTS);
    let locks = cache.path("hub/.locks/models--org--name");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| hub(&stand_in, &cache).snapshot(&any(None)).unwrap());
        // The facts of the last file are asked for before its lock.
        let asked = |l: &String| l.starts_with("HEAD") && l.ends_with("model.safetensors");
        while !stand_in.state().log.iter().any(asked) {
            std::thread::yield_now();
        }
        let blobs = cache.path("hub/models--org--name/blobs");
        std::fs::write(blobs.join("theirs"), WEIGHTS).unwrap();
        std::fs::rename(blobs.join("theirs"), blobs.join(&name)).unwrap();
        drop(lock);
        let folder = loading.join().unwrap();
        assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), WEIGHTS);
    });
    let gets = |l: &String| l.starts_with("GET") && l.ends_with("model.safetensors");
    assert_eq!(stand_in.log().iter().filter(|l| gets(l)).count(), 0);
}

#[test]
fn settings() {
    let make = |dir: Option<&str>, token: Token, vars: &[(&str, &str)]| {
        let var = |name: &str| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        };
        let hub = Hub::new(dir.map(Path::new), &token, var);
        (hub.cache.display().to_string(), hub.token, hub.endpoint, hub.offline)
    };
    let home = ("HOME", "/h");
    let (cache, token, endpoint, offline) = make(None, Token::Environment, &[home]);
    assert_eq!((cache.as_str(), token, offline), ("/h/.cache/huggingface/hub", None, false));
    assert_eq!(endpoint, "https://huggingface.co");
    let cache = |dir, vars: &[(&str, &str)]| make(dir, Token::None, &[&[home], vars].concat()).0;

    assert_eq!(cache(None, &[("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
    assert_eq!(cache(None, &[("HF_HOME", "~/m")]), "/h/m/hub");
    assert_eq!(cache(None, &[("HF_HOME", "/m"), ("HF_HUB_CACHE", "/c")]), "/c");
    assert_eq!(cache(Some("/d"), &[("HF_HUB_CACHE", "/c")]), "/d");
    let both = [("HF_TOKEN", "a\n"), ("HUGGING_FACE_HUB_TOKEN", "b")];
    assert_eq!(make(None, Token::Environment, &both).1.as_deref(), Some("a"));
    assert_eq!(make(None, Token::Given("c".into()), &both).1.as_deref(), Some("c"));
    assert_eq!(make(None, Token::None, &both).1, None);
    for (value, offline) in [("1", true), ("yes", true), ("0", false), ("", false)] {
        assert_eq!(make(None, Token::None, &[("HF_HUB_OFFLINE", value)]).3, offline, "{value}");
    }
    assert_eq!(format!("{:?}", Token::Given("hf_secret".into())), "Given(***)");
}

#[test]
fn names_and_patterns() {
    for name in ["facebook/opt-125m", "gpt2", "Qwen/Qwen2.5-0.5B"] {
        assert!(is_repo(name), "{name}");
    }
    for name in ["", "/a", "a/", "a/b/c", "./a", "../a", "a/../b", "a b", "a/b?c", "a\\b", "ä/b"] {
        assert!(!is_repo(name), "{name}");
    }
    assert!(matches("*.bin", "pytorch_model.bin") && matches("original/**/*", "original/a/b"));
    assert!(matches("m?del*x*", "model.xyz") && matches("*", "") && matches("a", "a"));
    assert!(!matches("*.bin", "a.bin.x") && !matches("?", "") && !matches("ab*c", "abd"));
    let long = "a".repeat(5000);
    assert!(!matches(&"*a".repeat(200).replace("aa", "a"), &format!("{long}b")));
}

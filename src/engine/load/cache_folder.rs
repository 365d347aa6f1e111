//! The folder for what a start may leave to the next one. Called by `assemble`; nothing that is in
//! it is needed, so it may be read-only, empty or gone.

use std::path::PathBuf;

/// Names the folder itself; empty: nothing is left or taken.
const OWN: &str = "TRITON_VLLM_CACHE";

/// By the environment (`var`, e.g. `std::env::var`). None: there is none, or none is wanted.
pub(super) fn cache_folder(var: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(own) = var(OWN) {
        return Some(PathBuf::from(own.trim())).filter(|own| !own.as_os_str().is_empty());
    }
    // As the XDG specification has it: paths that are not absolute do not count.
    let absolute = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME");
    let caches = caches.or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    caches.map(|caches| caches.join("triton_vllm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(variables: &[(&str, &str)]) -> Option<String> {
        let var = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        };
        cache_folder(var).map(|folder| folder.display().to_string())
    }

    #[test]
    fn the_environment_says_where() {
        assert_eq!(folder(&[]), None);
        assert_eq!(folder(&[("HOME", "/h")]).as_deref(), Some("/h/.cache/triton_vllm"));
        let both = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(folder(&both).as_deref(), Some("/x/triton_vllm"));
        let relative = [("HOME", "/h"), ("XDG_CACHE_HOME", "x")];
        assert_eq!(folder(&relative).as_deref(), Some("/h/.cache/triton_vllm"));
        let own = [("XDG_CACHE_HOME", "/x"), ("TRITON_VLLM_CACHE", "/mine")];
        assert_eq!(folder(&own).as_deref(), Some("/mine"));
        assert_eq!(folder(&[("HOME", "/h"), ("TRITON_VLLM_CACHE", "")]), None);
    }
}

//! Texts and regular expressions as literals of Lark, the grammar engine's dialect. Called by
//! whatever writes Lark.

use llguidance::regex_to_lark;

/// A regular expression as it stands between slashes in Lark, with `\d`, `\w` and `\s` of ASCII,
/// as vLLM's default engine has them.
pub(super) fn ascii_classes(pattern: &str) -> String {
    regex_to_lark(pattern, "dws")
}

/// A text as a literal of Lark.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

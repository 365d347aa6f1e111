//! Structural tags to the Lark dialect of the grammar engine: free text in which a trigger starts a
//! tag whose content is constrained. Both forms that clients of the Python backend send:
//! `structures` with `triggers`, and `{"type": "structural_tag", "format": ...}`. Called by
//! [`super::Grammars`]; a pure function.

use std::fmt::Write;

use serde_json::Value;

use super::ebnf;
use super::interrupt::Interrupt;
use super::lark::{ascii_classes, quoted};
use super::schema::{self, JsonRules};
use crate::error::{Error, Result};
use crate::invalid;

/// Formats inside each other.
const MAX_DEPTH: usize = 50;
/// Each trigger makes expressions that hold all others, and a branch for each of its tags.
const MAX_TRIGGERS: usize = 50;
const MAX_TAGS: usize = 500;

/// # Errors
/// InvalidArgument: a member is missing or of another type; Unsupported: a format that is not
/// built. And why `interrupt` ends it.
pub(super) fn to_lark(tag: &Value, json: &JsonRules, interrupt: &dyn Interrupt) -> Result<String> {
    let mut writer = Writer { json, interrupt, out: String::new(), rules: 0 };
    let body = match (tag.get("structures"), tag.get("format")) {
        (Some(structures), _) => writer.structures(list(structures, "structures")?, tag)?,
        (None, Some(format)) => writer.format(format, 0)?,
        (None, None) => return Err(missing("structures or format")),
    };
    Ok(format!("start: {body}\n{}", writer.out))
}

fn missing(what: &str) -> Error {
    invalid!("Invalid structural tag specification. {what} is missing or of another type")
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a [Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| missing(name))
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value.get(name).and_then(Value::as_str).ok_or_else(|| missing(name))
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// A regular expression for exactly this text.
fn escaped(text: &str) -> String {
    text.chars().map(|c| format!("\\u{{{:x}}}", u32::from(c))).collect()
}

struct Writer<'a> {
    json: &'a JsonRules,
    interrupt: &'a dyn Interrupt,
    out: String,
    rules: usize,
}

/// What starts a tag, what it holds, what ends it. All as in Lark but `begin`.
struct Tag {
    begin: String,
    content: String,
}

impl Writer<'_> {
    fn rule(&mut self, body: &str) -> String {
        self.rules += 1;
        let _ = writeln!(self.out, "x{}: {body}", self.rules);
        format!("x{}", self.rules)
    }

    fn terminal(&mut self, body: &str) -> String {
        self.rules += 1;
        let _ = writeln!(self.out, "X{}: {body}", self.rules);
        format!("X{}", self.rules)
    }

    fn structures(&mut self, structures: &[Value], whole: &Value) -> Result<String> {
        let mut tags = Vec::new();
        for structure in structures {
            let schema = structure.get("schema").ok_or_else(|| missing("schema"))?;
            let content = format!("{} {}", self.schema(schema)?, quoted(text(structure, "end")?));
            tags.push(Tag { begin: text(structure, "begin")?.to_string(), content });
        }
        let triggers = whole.get("triggers").unwrap_or(&Value::Null);
        self.triggered(&tags, list(triggers, "triggers")?, false, false)
    }

    fn schema(&mut self, schema: &Value) -> Result<String> {
        Ok(self.rule(&format!("%json {}", schema::prepared(schema, self.json, self.interrupt)?)))
    }

    /// A format, as an expression of Lark.
    fn format(&mut self, format: &Value, depth: usize) -> Result<String> {
        if depth > MAX_DEPTH {
            return Err(invalid!(
                "structural_tag: more than {MAX_DEPTH} formats inside each other"
            ));
        }

        match text(format, "type")? {
            "const_string" => Ok(quoted(text(format, "value")?)),
            "json_schema" => {
                let schema = format.get("json_schema").ok_or_else(|| missing("json_schema"))?;
                self.schema(schema)
            }
            "regex" => {
                let pattern = ascii_classes(text(format, "pattern")?);
                Ok(self.terminal(&format!("/{pattern}/")))
            }
            "grammar" => self.grammar(text(format, "grammar")?),
            "any_text" => Ok(self.terminal("/(?s:.*)/")),
            "sequence" => self.several(format, depth, " "),
            "or" => self.several(format, depth, " | "),
            "tag" => {
                let Tag { begin, content } = self.tag(format, depth)?;
                Ok(format!("{} {content}", quoted(&begin)))
            }

            "triggered_tags" => {
                let tags = self.tags(format, depth)?;
                let triggers = format.get("triggers").unwrap_or(&Value::Null);
                let (at_least_one, only_one) =
                    (flag(format, "at_least_one"), flag(format, "stop_after_first"));
                self.triggered(&tags, list(triggers, "triggers")?, at_least_one, only_one)
            }

            "tags_with_separator" => {
                let tags = self.tags(format, depth)?;
                let tags: Vec<String> =
                    tags.iter().map(|t| format!("{} {}", quoted(&t.begin), t.content)).collect();
                let one = self.rule(&tags.join(" | "));
                let separator = quoted(text(format, "separator")?);
                let more = if flag(format, "stop_after_first") {
                    one
                } else {
                    format!("{one} ({separator} {one})*")
                };
                Ok(if flag(format, "at_least_one") { more } else { format!("({more})?") })
            }
            other => Err(Error::Unsupported(format!(
                "structural_tag: the format '{other}' is not supported by this backend"
            ))),
        }
    }

    fn several(&mut self, format: &Value, depth: usize, by: &str) -> Result<String> {
        let elements = list(format.get("elements").unwrap_or(&Value::Null), "elements")?;
        let parts: Result<Vec<String>> =
            elements.iter().map(|element| self.format(element, depth + 1)).collect();
        match parts?.join(by) {
            none if none.is_empty() => Err(missing("elements")),
            parts => Ok(format!("({parts})")),
        }
    }

    fn tags(&mut self, format: &Value, depth: usize) -> Result<Vec<Tag>> {
        let tags = list(format.get("tags").unwrap_or(&Value::Null), "tags")?;
        if tags.is_empty() {
            return Err(missing("tags"));
        }
        tags.iter().map(|tag| self.tag(tag, depth + 1)).collect()
    }

    fn tag(&mut self, tag: &Value, depth: usize) -> Result<Tag> {
        let (begin, end) = (text(tag, "begin")?.to_string(), text(tag, "end")?);
        let content = tag.get("content").ok_or_else(|| missing("content"))?;
        let content = if content["type"] == "any_text" && !end.is_empty() {
            // Up to the first `end`, in one lexeme.
            let all = "(?s:.*)";
            let end = escaped(end);
            self.terminal(&format!("/{all}{end}/ & ~/{all}{end}(?s:.+)/"))
        } else {
            format!("{} {}", self.format(content, depth + 1)?, quoted(end))
        };
        Ok(Tag { begin, content })
    }

    /// Text without triggers, then a tag that begins with the trigger, and so on; the text after
    /// the last tag is the end.
    fn triggered(
        &mut self,
        tags: &[Tag],
        triggers: &[Value],
        at_least_one: bool,
        only_one: bool,
    ) -> Result<String> {
        let triggers: Option<Vec<&str>> = triggers.iter().map(Value::as_str).collect();
        let triggers = triggers.ok_or_else(|| missing("triggers"))?;
        if triggers.is_empty() || triggers.contains(&"") {
            return Err(missing("triggers"));
        }

        for (name, count, limit) in
            [("triggers", triggers.len(), MAX_TRIGGERS), ("tags", tags.len(), MAX_TAGS)]
        {
            if count > limit {
                return Err(invalid!(
                    "structural_tag has {count} {name}, more than the limit of {limit}."
                ));
            }
        }

        let any: Vec<String> = triggers.iter().map(|trigger| escaped(trigger)).collect();
        let any = any.join("|");
        let free = self.terminal(&format!("/(?s:.*)/ & ~/(?s:.*)({any})(?s:.*)/"));
        let mut branches = Vec::new();
        for trigger in &triggers {
            let until =
                self.terminal(&format!("/(?s:.*){}/ & ~/(?s:.*)({any})(?s:.+)/", escaped(trigger)));
            for tag in tags {
                if let Some(rest) = tag.begin.strip_prefix(trigger) {
                    branches.push(format!("{until} {} {}", quoted(rest), tag.content));
                }
            }
        }

        let started = |tag: &Tag| triggers.iter().any(|trigger| tag.begin.starts_with(trigger));
        if let Some(tag) = tags.iter().find(|tag| !started(tag)) {
            return Err(invalid!(
                "Invalid structural tag specification. No trigger begins the tag {:?}",
                tag.begin
            ));
        }

        let one = self.rule(&branches.join(" | "));
        Ok(match (at_least_one, only_one) {
            (true, true) => one,
            (false, true) => format!("({one} | {free})"),
            (true, false) => format!("{one}+ {free}"),
            (false, false) => format!("{one}* {free}"),
        })
    }

    /// A grammar inside a tag: its rules under names of their own.
    fn grammar(&mut self, grammar: &str) -> Result<String> {
        let lark = if ebnf::is_ebnf(grammar) { ebnf::to_lark(grammar)? } else { grammar.into() };
        Ok(self.rule(&format!("%lark {{\n{lark}\n}}")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::interrupt::NeverInterrupted;
    use super::*;
    use serde_json::json;

    fn lark(tag: Value) -> Result<String> {
        to_lark(&tag, &JsonRules::default(), &NeverInterrupted)
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = |tag| lark(tag).unwrap_err().to_string();
        let lead = "Invalid structural tag specification. ";
        let is_missing = "is missing or of another type";
        assert_eq!(text(json!({})), format!("{lead}structures or format {is_missing}"));
        assert_eq!(text(json!({"structures": [{}]})), format!("{lead}schema {is_missing}"));
        assert_eq!(
            text(json!({"structures": [{"begin": "<a", "schema": {}, "end": ""}]})),
            format!("{lead}triggers {is_missing}")
        );
        assert_eq!(
            text(json!({
                "structures": [{"begin": "<a", "schema": {}, "end": ""}], "triggers": ["<b"]
            })),
            format!("{lead}No trigger begins the tag \"<a\"")
        );

        assert_eq!(
            text(json!({"format": {"type": "qwen_xml_parameter"}})),
            "structural_tag: the format 'qwen_xml_parameter' is not supported by this backend"
        );
        let tag = json!({"begin": "<a", "schema": {}, "end": ""});
        let many: Vec<String> = (0..51).map(|i| format!("<{i}")).collect();
        assert_eq!(
            text(json!({"structures": [tag], "triggers": many})),
            "structural_tag has 51 triggers, more than the limit of 50."
        );
        assert_eq!(
            text(json!({"structures": vec![tag; 501], "triggers": ["<"]})),
            "structural_tag has 501 tags, more than the limit of 500."
        );
        let mut deep = json!({"type": "any_text"});
        for _ in 0..60 {
            deep = json!({"type": "sequence", "elements": [deep]});
        }
        assert!(text(json!({"format": deep})).contains("more than 50 formats"));
    }
}

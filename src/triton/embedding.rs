//! The input `embedding_request`: JSON of a text or token ids to embed and how long the vector may
//! be, `{"input": "…" | [ids], "pooling_params": {"dimensions": [d]}}`. Called by `request`; it
//! never sends anything. Keys that mean nothing here are passed over, as the Python backend does.

use serde_json::{Map, Value};

use crate::engine::EmbedInput;
use crate::error::Result;
use crate::ids::TokenId;
use crate::invalid;

/// One text to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Embedding {
    pub input: EmbedInput,
    pub dimensions: Option<i64>,
}

impl Embedding {
    /// # Errors
    /// InvalidArgument: not JSON, no object, an input or a size of another type.
    pub(super) fn parse(text: &str) -> Result<Embedding> {
        let value: Value = serde_json::from_str(text)
            .map_err(|e| invalid!("embedding_request is not valid JSON: {e}"))?;
        let Value::Object(object) = value else {
            return Err(invalid!("embedding_request must be a JSON object, got {}", kind(&value)));
        };
        Ok(Embedding { input: input(&object)?, dimensions: dimensions(&object)? })
    }
}

fn input(object: &Map<String, Value>) -> Result<EmbedInput> {
    match object.get("input") {
        // A missing key in the Python backend's words.
        None => Err(invalid!("'input'")),
        Some(Value::String(text)) => Ok(EmbedInput::Text(text.clone())),
        Some(Value::Array(list)) => {
            let ids = list.iter().enumerate().map(|(i, value)| token_id(i, value));
            Ok(EmbedInput::Tokens(ids.collect::<Result<_>>()?))
        }
        Some(other) => Err(invalid!(
            "embedding_request: 'input' must be a string or a list of token ids, got {}",
            kind(other)
        )),
    }
}

fn token_id(index: usize, value: &Value) -> Result<TokenId> {
    match (value.as_u64().map(u32::try_from), value.as_i64()) {
        (Some(Ok(id)), _) => Ok(TokenId(id)),
        (Some(Err(_)), _) | (None, Some(_)) => {
            Err(invalid!("Token id {value} is out of vocabulary"))
        }
        (None, None) => Err(invalid!(
            "embedding_request: 'input' must be a string or a list of token ids, got a list with \
             {} at index {index}; several texts take several requests",
            kind(value)
        )),
    }
}

/// A list of one number, as the OpenAI front end sends it, or the number.
fn dimensions(object: &Map<String, Value>) -> Result<Option<i64>> {
    let dimensions = match object.get("pooling_params") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(params)) => params.get("dimensions"),
        Some(other) => {
            return Err(invalid!(
                "embedding_request: 'pooling_params' must be an object, got {}",
                kind(other)
            ))
        }
    };
    let wrong = |v: &Value| {
        invalid!("embedding_request: 'dimensions' must be an integer or a list of one, got {v}")
    };
    match dimensions {
        None | Some(Value::Null) => Ok(None),
        Some(list @ Value::Array(values)) => match values.as_slice() {
            [one] => one.as_i64().map(Some).ok_or_else(|| wrong(list)),
            _ => Err(wrong(list)),
        },
        Some(one) => one.as_i64().map(Some).ok_or_else(|| wrong(one)),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (EmbedInput, Option<i64>) {
        let Embedding { input, dimensions } = Embedding::parse(text).expect(text);
        (input, dimensions)
    }

    #[test]
    fn texts_and_ids_with_and_without_a_size() {
        let text = || EmbedInput::Text("a\u{e9}".into());
        let ids = |ids: &[u32]| EmbedInput::Tokens(ids.iter().map(|&id| TokenId(id)).collect());
        assert_eq!(parsed(r#"{"input": "a\u00e9"}"#), (text(), None));
        assert_eq!(
            parsed(r#"{"input": "aé", "pooling_params": {}, "model": "m"}"#),
            (text(), None)
        );
        assert_eq!(
            parsed(r#"{"input": [5, 6], "pooling_params": {"dimensions": [8]}}"#),
            (ids(&[5, 6]), Some(8))
        );
        assert_eq!(
            parsed(r#"{"input": [], "pooling_params": {"dimensions": -1}}"#),
            (ids(&[]), Some(-1))
        );
        let nulls = r#"{"input": "", "pooling_params": {"dimensions": null}}"#;
        assert_eq!(parsed(nulls), (EmbedInput::Text(String::new()), None));
    }

    #[test]
    fn what_cannot_be_embedded_is_told() {
        let sized =
            |d: &str| format!(r#"{{"input": "a", "pooling_params": {{"dimensions": {d}}}}}"#);
        for (text, expected) in [
            ("x", "embedding_request is not valid JSON: expected value at line 1 column 1"),
            ("[1]", "must be a JSON object, got a list"),
            ("{}", "'input'"),
            (r#"{"input": null}"#, "a list of token ids, got null"),
            (r#"{"input": ["a", "b"]}"#, "got a list with a string at index 0; several texts"),
            (r#"{"input": [1, 2.5]}"#, "got a list with a number at index 1"),
            (r#"{"input": [1, -1]}"#, "Token id -1 is out of vocabulary"),
            (r#"{"input": [4294967296]}"#, "Token id 4294967296 is out of vocabulary"),
            (r#"{"input": "a", "pooling_params": 3}"#, "must be an object, got a number"),
            (&sized("[1, 2]"), "or a list of one, got [1,2]"),
            (&sized("\"8\""), "or a list of one, got \"8\""),
            (&sized("[]"), "or a list of one, got []"),
        ] {
            let error = Embedding::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

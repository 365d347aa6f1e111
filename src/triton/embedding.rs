//! The input `embedding_request`: JSON of a text or token ids to embed or classify and how long the
//! vector may be, `{"input": "…" | [ids], "pooling_params": {"dimensions": [d]}}`, or of two texts
//! to score together, `{"text_1": "…", "text_2": "…"}`. Called by `request`; it never sends
//! anything. Keys that mean nothing here are passed over, as the Python backend does.

use serde_json::{Map, Value};

use crate::engine::{EmbedInput, PoolingParams};
use crate::error::Result;
use crate::ids::TokenId;
use crate::invalid;
use crate::sampling::ListLimits;

/// One text to embed or classify, or one pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Embedding {
    pub input: EmbedInput,
    pub params: PoolingParams,
}

impl Embedding {
    /// # Errors
    /// InvalidArgument: not JSON, no object, more values than the limit, an input or a size of
    /// another type.
    pub(super) fn parse(text: &str, limits: &ListLimits) -> Result<Embedding> {
        let passed_over = |key: &str| !READ.contains(&key);
        let value = limits.json(&passed_over).read(text.as_bytes());
        let value = value.map_err(|why| limits.refused("embedding_request", why))?;
        let Value::Object(object) = value else {
            return Err(invalid!("embedding_request must be a JSON object, got {}", kind(&value)));
        };
        Ok(Embedding { input: input(&object)?, params: params(&object)? })
    }
}

/// The keys that mean something here.
const READ: [&str; 4] = ["input", "text_1", "text_2", "pooling_params"];
/// The keys of a pair, as in vLLM's score API.
const PAIR: [&str; 2] = ["text_1", "text_2"];

fn input(object: &Map<String, Value>) -> Result<EmbedInput> {
    let [first, second] = PAIR.map(|key| object.get(key));
    if first.is_some() || second.is_some() {
        if object.contains_key("input") {
            return Err(invalid!(
                "embedding_request: 'input' and a pair of 'text_1' and 'text_2' exclude each other"
            ));
        }
        return Ok(EmbedInput::Pair(text(PAIR[0], first)?, text(PAIR[1], second)?));
    }

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

/// One text of a pair.
fn text(key: &str, value: Option<&Value>) -> Result<String> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        None => Err(invalid!("embedding_request: '{key}' is missing: a pair has two texts")),
        Some(other) => Err(invalid!(
            "embedding_request: '{key}' must be a string, got {}; several pairs take several \
             requests",
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

fn params(object: &Map<String, Value>) -> Result<PoolingParams> {
    let params = match object.get("pooling_params") {
        None | Some(Value::Null) => return Ok(PoolingParams::default()),
        Some(Value::Object(params)) => params,
        Some(other) => {
            return Err(invalid!(
                "embedding_request: 'pooling_params' must be an object, got {}",
                kind(other)
            ))
        }
    };

    let use_activation = match params.get("use_activation") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(on)) => Some(*on),
        Some(other) => {
            return Err(invalid!(
                "embedding_request: 'use_activation' must be true or false, got {other}"
            ))
        }
    };
    Ok(PoolingParams { dimensions: dimensions(params.get("dimensions"))?, use_activation })
}

/// A list of one number, as the OpenAI front end sends it, or the number.
fn dimensions(dimensions: Option<&Value>) -> Result<Option<i64>> {
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

    fn parse(text: &str) -> Result<Embedding> {
        Embedding::parse(text, &ListLimits::DEFAULT)
    }

    fn parsed(text: &str) -> (EmbedInput, Option<i64>) {
        let Embedding { input, params } = parse(text).expect(text);
        assert_eq!(params.use_activation, None);
        (input, params.dimensions)
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
    fn pairs_and_logits() {
        let pair =
            parse(r#"{"text_1": "q", "text_2": "d", "pooling_params": {"use_activation": false}}"#);
        let params = PoolingParams { dimensions: None, use_activation: Some(false) };
        let input = EmbedInput::Pair("q".into(), "d".into());
        assert_eq!(pair, Ok(Embedding { input, params }));
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
            (r#"{"text_1": "a"}"#, "'text_2' is missing: a pair has two texts"),
            (r#"{"text_2": "a"}"#, "'text_1' is missing: a pair has two texts"),
            (r#"{"text_1": "a", "text_2": ["b"]}"#, "'text_2' must be a string, got a list; sev"),
            (r#"{"text_1": "a", "text_2": "b", "input": "c"}"#, "exclude each other"),
            (
                r#"{"input": "a", "pooling_params": {"use_activation": 1}}"#,
                "'use_activation' must be true or false, got 1",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
    /// More values than any prompt has tokens are refused before they are all held; what is passed
    /// over does not count.
    #[test]
    fn values_are_bounded() {
        let list = |count: usize| "7,".repeat(count - 1) + "7";
        let error = parse(&format!("{{\"input\": [{}]}}", list(2_000_000)));
        assert_eq!(
            error.unwrap_err().to_string(),
            "embedding_request has more than 2000000 JSON values and names, the limit of \
             --backend-config=vllm,max-json-values: send fewer, or raise it"
        );
        let long = format!("{{\"y\": [{0}], \"input\": [{0}]}}", list(1_900_000));
        let EmbedInput::Tokens(ids) = parse(&long).unwrap().input else { panic!() };
        assert_eq!(ids, vec![TokenId(7); 1_900_000]);
        let deep = format!("{{\"input\": [], \"pooling_params\": {{\"y\": {}", "[".repeat(200));
        assert!(parse(&deep).unwrap_err().to_string().contains("recursion limit"));
    }
}

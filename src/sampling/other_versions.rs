//! Parameters that other versions of vLLM know: those that it dropped, which many clients still
//! send, and those that are newer than what is served here. A value that asks for nothing is
//! ignored, any other is refused by name, because it would change the answer. Called by
//! `raw` and `verify`.

use serde_json::Value;

use super::python;
use crate::error::Result;
use crate::invalid;

/// Which values ask for nothing. Null always does.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    Null,
    False,
    Zero,
    One,
    /// 1, or as many as `n`.
    OneOrN,
    /// False or an empty list, text or object.
    Nothing,
}

const PARAMETERS: [(&str, Neutral); 10] = [
    // vLLM dropped these.
    ("use_beam_search", Neutral::False),
    ("best_of", Neutral::OneOrN),
    ("length_penalty", Neutral::One),
    ("early_stopping", Neutral::False),
    ("logits_processors", Neutral::Nothing),
    ("truncate_prompt_tokens", Neutral::Null),
    // These are newer.
    ("prompt_logprob_token_ids", Neutral::Nothing),
    ("prompt_logprob_start", Neutral::Zero),
    ("watermarking", Neutral::Nothing),
    ("trace_decode_token_ids", Neutral::Nothing),
];

/// The parameter of another version with this name.
pub(super) fn known(key: &str) -> Option<&'static str> {
    PARAMETERS.iter().map(|(name, _)| *name).find(|name| *name == key)
}

/// Judge a value of one of these parameters; `n` is the request's number of sequences.
///
/// # Errors
/// InvalidArgument in the Python backend's words: the value asks for something.
pub(super) fn check(name: &str, value: &Value, n: u32) -> Result<()> {
    let Some((_, neutral)) = PARAMETERS.iter().find(|(known, _)| *known == name) else {
        return Ok(());
    };
    // A value of another type is none of the neutral ones.
    let number = || python::float(value).ok().flatten();
    let asks_nothing = value.is_null()
        || match neutral {
            Neutral::Null => false,
            Neutral::False => python::truth(value) == Some(false),
            Neutral::Zero => number() == Some(0.0),
            Neutral::One => number() == Some(1.0),
            Neutral::OneOrN => number().is_some_and(|x| x == 1.0 || x == f64::from(n)),
            Neutral::Nothing => python::truth(value) == Some(false) && !value.is_number(),
        };
    if !asks_nothing {
        return Err(invalid!("Unexpected keyword argument '{name}'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn neutral_values_are_ignored() {
        for (name, values) in [
            ("use_beam_search", vec![json!(false), json!("false"), json!(0), json!(null)]),
            ("best_of", vec![json!(1), json!(3), json!("1"), json!(null)]),
            ("length_penalty", vec![json!(1), json!(1.0), json!("1.0"), json!(null)]),
            ("early_stopping", vec![json!(false), json!("False"), json!(null)]),
            ("logits_processors", vec![json!([]), json!(null)]),
            ("truncate_prompt_tokens", vec![json!(null)]),
            ("prompt_logprob_token_ids", vec![json!([]), json!(null)]),
            ("prompt_logprob_start", vec![json!(0), json!(null)]),
            ("watermarking", vec![json!(false), json!({}), json!(null)]),
            ("trace_decode_token_ids", vec![json!([]), json!(false), json!(null)]),
        ] {
            assert_eq!(known(name), Some(name));
            for value in values {
                assert_eq!(check(name, &value, 3), Ok(()), "{name} = {value}");
            }
        }
    }

    #[test]
    fn what_would_change_an_answer_is_refused_by_name() {
        for (name, value) in [
            ("use_beam_search", json!(true)),
            ("best_of", json!(5)),
            ("best_of", json!("many")),
            ("length_penalty", json!(0.5)),
            ("early_stopping", json!("never")),
            ("logits_processors", json!(["a"])),
            ("truncate_prompt_tokens", json!(-1)),
            ("prompt_logprob_start", json!(2)),
            ("watermarking", json!({"key": 1})),
            ("trace_decode_token_ids", json!([1])),
        ] {
            let error = check(name, &value, 3).unwrap_err().to_string();
            assert_eq!(error, format!("Unexpected keyword argument '{name}'"));
        }
        assert_eq!(known("beam_width"), None);
    }
}

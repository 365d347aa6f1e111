//! Grammars against real tokenizers: random walks under the masks end in texts that the grammar
//! describes, token by token, and what cannot be enforced is refused.

use serde_json::{json, Value};

use super::*;
use crate::text::testing::{golden, ids, llama_like, Random};

/// A tokenizer, its grammars and a source of chance.
pub struct Rig {
    pub tokenizer: Arc<Tokenizer>,
    grammars: Grammars,
    random: Random,
}

impl Rig {
    pub fn new(tokenizer: Arc<Tokenizer>, eos: u32) -> Rig {
        let (size, ends) = (tokenizer.vocab_size(), ids(&[eos]));
        let options = StructuredOptions::default();
        let timeout = Duration::from_secs(5);
        let grammars = Grammars::new(tokenizer.clone(), size, &ends, options, timeout);
        Rig { tokenizer, grammars, random: Random(11) }
    }

    pub fn opt() -> Rig {
        Rig::new(golden("opt-tiny"), 2)
    }

    /// Blanks are `▁`, and most characters have to be spelled in bytes.
    pub fn llama() -> Rig {
        let tokens = ["a", "▁", "▁b", "{\"", "\":", "▁\"", "日", "tru", "e}", "12"];
        Rig::new(Arc::new(llama_like(&tokens)), 2)
    }

    pub fn grammars(&self) -> &Grammars {
        &self.grammars
    }

    pub fn compile(&self, outputs: &Value) -> Result<GrammarMatcher> {
        self.grammars.compile(&StructuredOutputs::parse(outputs)?, &NeverInterrupted)
    }

    /// Sample at random until the end, after some tokens towards it: the text.
    pub fn walk(&mut self, outputs: &Value) -> String {
        self.walk_by(outputs, &[])
    }

    /// As `walk`, but later tokens are rather those of `way`.
    fn walk_by(&mut self, outputs: &Value, way: &[&str]) -> String {
        let mut matcher = self.compile(outputs).unwrap_or_else(|e| panic!("{outputs}: {e}"));
        let closers = ["</s>", "\"", "}", "]", ",", ":", "e", ")", "'"];
        let mut tokens = Vec::new();

        for step in 0..3000 {
            let Next::Mask(mask) = matcher.next(&[]).unwrap() else { panic!("there is an eos") };
            let mut allowed = set(&mask);
            if step > 60 {
                let blank = |id: &TokenId| {
                    let spelling = self.tokenizer.spelling(*id).unwrap_or_default();
                    spelling.chars().all(|c| "ĠĊčĉ▁".contains(c)) || spelling.contains("<0x")
                };
                if !allowed.iter().all(blank) {
                    allowed.retain(|id| !blank(id));
                }
                let better = |way: &[&str], id: &TokenId| {
                    let spelling = self.tokenizer.spelling(*id).unwrap_or_default();
                    way.contains(&spelling.as_str())
                };
                let on_way: Vec<TokenId> =
                    allowed.iter().copied().filter(|id| better(way, id)).collect();
                let closer = closers
                    .iter()
                    .find_map(|closer| allowed.iter().copied().find(|id| better(&[closer], id)));
                if self.random.below(2) == 0 {
                    match (on_way.is_empty(), closer) {
                        (false, _) => allowed = on_way,
                        (true, Some(closer)) => allowed = vec![closer],
                        (true, None) => {}
                    }
                }
            }
            let token = allowed[self.random.below(allowed.len())];
            matcher.accept(token).unwrap();
            if token == TokenId(2) {
                return self.text(&tokens);
            }
            tokens.push(token);
        }
        panic!("no end: {outputs}: {}", self.text(&tokens));
    }

    /// As a client sees it behind a prompt.
    fn text(&self, tokens: &[TokenId]) -> String {
        let mut text = String::new();
        let prompt = self.tokenizer.encode("a").unwrap();
        let mut detokenizer = crate::text::Detokenizer::new(&self.tokenizer, &prompt, true, true);
        tokens.iter().for_each(|id| detokenizer.push(*id, &mut text));
        text
    }

    fn refusal(&self, outputs: Value) -> String {
        match self.compile(&outputs) {
            Ok(_) => panic!("{outputs} is accepted"),
            Err(error) => error.to_string(),
        }
    }
}

pub fn set(mask: &[u32]) -> Vec<TokenId> {
    let bit = |id: &u32| mask[*id as usize / 32] >> (id % 32) & 1 == 1;
    (0..32 * mask.len() as u32).filter(bit).map(TokenId).collect()
}

/// A schema whose texts are finite, of depth `depth` at most.
fn schema(random: &mut Random, depth: usize) -> Value {
    let few = |random: &mut Random| 1 + random.below(3);

    match random.below(if depth == 0 { 8 } else { 12 }) {
        0 => json!({"type": "boolean"}),
        1 => {
            let low = random.below(2000) as i64 - 1000;
            json!({"type": "integer", "minimum": low, "maximum": low + random.below(500) as i64})
        }
        2 => json!({"type": "string", "minLength": random.below(3), "maxLength": 3 + few(random)}),
        3 => json!({"enum": ["é\"\\", 1, null, {"a": [true]}, "日本", -2.5]}),
        4 => json!({"const": [["x", {"y z": "\n"}], random.below(100)]}),
        5 => json!({"type": "string", "pattern": "^[A-F][0-9]{2,4}(-é|/x)$"}),
        6 => {
            let formats = ["date", "time", "uuid", "ipv4"];
            json!({"type": "string", "format": formats[random.below(formats.len())]})
        }
        7 => json!({"type": "number", "multipleOf": 0.25, "minimum": -3, "maximum": 10}),
        8 => {
            let (low, more) = (random.below(3), random.below(3));
            json!({
                "type": "array", "items": schema(random, depth - 1), "minItems": low,
                "maxItems": low + more
            })
        }
        9 => {
            let items: Vec<Value> = (0..few(random)).map(|_| schema(random, depth - 1)).collect();
            let least = items.len();
            json!({"type": "array", "prefixItems": items, "items": false, "minItems": least})
        }
        10 => json!({"anyOf": [schema(random, depth - 1), schema(random, depth - 1)]}),
        _ => {
            let names = ["a", "b c", "é", "\"", "long_name"];
            let count = few(random);
            let properties: serde_json::Map<String, Value> = names[..count]
                .iter()
                .map(|name| (name.to_string(), schema(random, depth - 1)))
                .collect();
            let required: Vec<&str> =
                names[..count].iter().copied().filter(|_| random.below(2) == 0).collect();
            json!({
                "type": "object", "properties": properties, "required": required,
                "additionalProperties": false
            })
        }
    }
}

/// Every output parses, validates, and has the whitespace that was asked for.
#[test]
fn random_schemas() {
    let mut random = Random(3);
    let mut rigs = [Rig::opt(), Rig::llama()];
    for round in 0..200 {
        let schema = schema(&mut random, 3);
        let compact = random.below(2) == 0;
        let text =
            rigs[round % 2].walk(&json!({"json": schema, "disable_any_whitespace": compact}));
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{schema}: {e} in {text:?}"));
        let validator = jsonschema::options().should_validate_formats(true);
        let validator = validator.build(&schema).unwrap();
        assert!(validator.is_valid(&value), "{schema}: {text}");
        assert!(!compact || !text.contains(['\n', '\t', '\r']), "{text:?}");
    }
}

#[test]
fn choices_regexes_and_grammars() {
    for mut rig in [Rig::opt(), Rig::llama()] {
        let choices = ["yes", "no", "noo", "é\n\"\\", "日本 a", "$^(", ""];
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100 {
            let text = rig.walk(&json!({"choice": choices}));
            assert!(choices.contains(&text.as_str()), "{text:?}");
            seen.insert(text);
        }
        assert!(seen.len() >= 5, "{seen:?}");

        for pattern in
            ["[ab]{4}-[0-9]{3}", "(foo|bar)+?é?", "^a|[^a-z]{2}$", r"\d{3}\.\w{1,3}/", r"(?i)kk"]
        {
            let whole = regex_syntax_free(pattern);
            for _ in 0..10 {
                let text = rig.walk(&json!({"regex": pattern}));
                assert!(whole.is_match(&text).unwrap(), "{pattern}: {text:?}");
            }
        }
        for _ in 0..20 {
            let text = rig.walk(&json!({"grammar": EXPRESSION}));
            balanced(&text);
            let text = rig.walk(&json!({"grammar": JSON_IN_EBNF}));
            serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        }
    }
}

/// The whole text, by another engine.
fn regex_syntax_free(pattern: &str) -> fancy_regex::Regex {
    fancy_regex::Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap()
}

const EXPRESSION: &str = r#"
start: expr
expr: term (("+" | "-") term)*
term: NUMBER | "(" expr ")"
NUMBER: /[1-9][0-9]{0,2}/
"#;

const JSON_IN_EBNF: &str = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value){0,2})? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x00-\x1f\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-f]{4})){0,9} "\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,5}) ("." [0-9]{1,4})? ([eE] [-+]? [0-9]{1,2})? ws
ws     ::= [ \t\n]?  # one at most
"#;

fn balanced(text: &str) {
    let mut depth = 0;
    for c in text.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        assert!(depth >= 0 && "0123456789+-()".contains(c), "{text:?}");
    }
    assert!(depth == 0 && !text.is_empty(), "{text:?}");
}

#[test]
fn structural_tags() {
    let schema = json!({
        "type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"],
        "additionalProperties": false
    });
    let old = json!({
        "structures": [
            {"begin": "<f=a>", "schema": schema, "end": "</f>"},
            {"begin": "<f=b>", "schema": {"type": "boolean"}, "end": "</f>"},
        ],
        "triggers": ["<f="],
    });
    let content = json!({"type": "json_schema", "json_schema": schema});
    let tag = json!({"type": "tag", "begin": "<f=a>", "content": content, "end": "</f>"});
    let format = |format: Value| json!({"type": "structural_tag", "format": format});
    let walk = |rig: &mut Rig, tag: &Value| {
        rig.walk(&json!({"structural_tag": tag, "disable_any_whitespace": true}))
    };
    let mut rig = Rig::opt();

    for _ in 0..10 {
        let text = walk(&mut rig, &old);
        let after = text.split("<f=").skip(1);
        after.for_each(|part| assert!(part.contains("</f>"), "{text:?}"));
        let text = walk(&mut rig, &format(tag.clone()));
        assert!(matches!(&*text, "<f=a>{\"n\": 1}</f>" | "<f=a>{\"n\": 2}</f>"), "{text:?}");
        let once = format(json!({
            "type": "triggered_tags", "triggers": ["<f"], "tags": [tag], "at_least_one": true,
            "stop_after_first": true
        }));
        let once = json!({"structural_tag": once, "disable_any_whitespace": true});
        let text = rig.walk_by(&once, &["f", "<"]);
        assert!(text.ends_with("}</f>") && text.matches("<f=a>{\"n\": ").count() == 1, "{text:?}");
        let mixed = format(json!({"type": "sequence", "elements": [
            {"type": "const_string", "value": "é "},
            {"type": "or", "elements": [
                {"type": "regex", "pattern": "[0-9]{2}/"},
                {"type": "grammar", "grammar": "root ::= \"{\" [xy] \"}\" | z\nz ::= \"z\""},
            ]},
            {"type": "tag", "begin": "[", "content": {"type": "any_text"}, "end": "]"},
        ]}));
        let text = rig.walk_by(&json!({"structural_tag": mixed}), &["]"]);
        let rest = text.strip_prefix("é ").unwrap_or_else(|| panic!("{text:?}"));
        assert!(rest.find('[').is_some_and(|at| at == 1 || at == 3), "{text:?}");
        assert!(rest.ends_with(']') && rest.matches(']').count() == 1, "{text:?}");
        let separated = json!({"type": "tags_with_separator", "tags": [tag], "separator": ";"});
        let text = walk(&mut rig, &format(separated));
        let tags = text.split(';').filter(|part| !part.is_empty());
        tags.for_each(|part| assert!(part.starts_with("<f=a>{\"n\": "), "{text:?}"));
    }
}

/// Texts that vLLM's engine gave; those of `llguidance` are its own.
#[test]
fn refusals() {
    let rig = Rig::opt();
    assert_eq!(
        rig.refusal(json!({"regex": "(["})),
        "Grammar error: at 1(8): invalid regex \"([\" (in regex): regex parse error:\n    ([\n     \
         ^\nerror: unclosed character class\n   1 | start: /([/\n              ^\n"
    );
    assert_eq!(
        rig.refusal(json!({"grammar": "root ::= ("})),
        "Failed to convert the grammar from GBNF to Lark: Expected ')' at line 1, 'root ::= (' ^ \
         ''"
    );

    for (outputs, wanted) in [
        (
            json!({"json": {"type": "array", "uniqueItems": true}}),
            "Unimplemented keys: [\"uniqueItems\"]",
        ),
        (json!({"json": {"not": {}}}), "Unimplemented keys: [\"not\"]"),
        (json!({"json": "[1]"}), "a schema must be an object or true"),
        (json!({"json": {"type": "foo"}}), "Invalid type: foo"),
        (json!({"json": {"$ref": "http://localhost/x"}}), "does not fetch resources"),
        (json!({"json": {"$ref": "file:///etc/passwd"}}), "not present in a registry"),
        (json!({"regex": "a(?=b)"}), "look-around"),
        (json!({"regex": "(a)\\1"}), "backreferences are not supported"),
        (json!({"grammar": "foo: \"a\""}), "no start rule found"),
        (json!({"grammar": "start: start"}), "no token of this model can go on"),
        (json!({"json": {"$ref": "#"}}), "no token of this model can go on"),
        (json!({"grammar": "A: \"a\"\n".repeat(2001)}), "2001 definitions, more than 2000"),
        (json!({"regex": "(".repeat(600)}), "600 nested brackets, more than 500"),
        (
            json!({"structural_tag": {"format": {"type": "json_schema", "json_schema": 1}}}),
            "a schema must",
        ),
    ] {
        let text = rig.refusal(outputs.clone());
        assert!(text.contains(wanted), "{outputs}: {text}");
        assert!(!text.contains("non-verbose"), "{text}");
    }
}

/// The ends of a text come when it may end, alone when it must, and never else.
#[test]
fn ends() {
    let rig = Rig::opt();
    let has = |matcher: &mut GrammarMatcher, avoid: &[TokenId], id: u32| match matcher
        .next(avoid)
        .unwrap()
    {
        Next::Mask(mask) => set(&mask).contains(&TokenId(id)),
        Next::End => panic!("there is an eos"),
    };
    let spelled = |text: &str| {
        let id =
            (0..4096).map(TokenId).find(|id| rig.tokenizer.spelling(*id).as_deref() == Some(text));
        id.unwrap()
    };
    let mut matcher = rig.compile(&json!({"regex": "ab?"})).unwrap();
    let (a, b, eos) = (spelled("a"), spelled("b"), TokenId(2));
    assert!(!has(&mut matcher, &[], eos.0) && has(&mut matcher, &[], a.0));
    assert!(matcher.fork().accept(b).unwrap_err().to_string().contains("the grammar forbids here"));
    matcher.accept(a).unwrap();
    assert!(has(&mut matcher, &[], eos.0) && has(&mut matcher, &[], b.0));
    assert!(!has(&mut matcher, &[eos], eos.0), "avoided, there is another way");
    let mut fork = matcher.fork();
    matcher.accept(b).unwrap();
    assert!(has(&mut matcher, &[eos], eos.0), "nothing else may come");
    assert!(!has(&mut matcher, &[], b.0));
    for _ in 0..3 {
        matcher.accept(eos).unwrap();
        assert!(has(&mut matcher, &[eos], eos.0), "for ever");
    }
    assert!(matcher.accept(a).is_err());
    assert!(has(&mut fork, &[], b.0), "a fork goes its own way");

    let tokenizer = rig.tokenizer.clone();
    let options = StructuredOptions::default();
    let grammars = Grammars::new(tokenizer, 4096, &[], options, Duration::from_secs(5));
    let one = StructuredOutputs::parse(&json!({"choice": ["ab"]})).unwrap();
    let mut endless = grammars.compile(&one, &NeverInterrupted).unwrap();
    endless.accept(a).unwrap();
    assert!(matches!(endless.next(&[]), Ok(Next::Mask(_))));
    endless.accept(b).unwrap();
    assert_eq!(endless.next(&[]), Ok(Next::End), "without an eos");
}

//! Image files as Pillow reads them, resized as Pillow and torchvision do, and processed as the
//! processors of transformers do: by digests of what these made of tests/fixtures/images
//! (`make_images.py` there).

use std::path::PathBuf;

use ring::digest::{digest, SHA256};
use serde_json::Value;
use triton_vllm::image::{self, Filter, Kind, Processed, Processor, Rounding, Settings};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images"))
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).expect(name)
}

fn expected(part: &str) -> Value {
    of_file("expected.json", part)
}

fn of_file(name: &str, part: &str) -> Value {
    let all: Value = serde_json::from_slice(&bytes(name)).expect("JSON");
    all[part].clone()
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a number") as usize
}

#[test]
fn files_are_read_as_pillow_reads_them() {
    let mut wrong = Vec::new();
    for (name, want) in expected("decoded").as_object().expect("an object") {
        let rgb = match image::decode(&bytes(name)) {
            Ok(rgb) => rgb,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        if [rgb.height(), rgb.width()] != [number(&want["size"][0]), number(&want["size"][1])] {
            wrong.push(format!("{name}: {} x {}", rgb.width(), rgb.height()));
        } else if sha256(rgb.bytes()) != want["sha256"] {
            wrong.push(format!("{name}: other pixels"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pictures_are_resized_to_the_bit() {
    let mut wrong = Vec::new();
    let cases = [expected("resized"), of_file("tiled.json", "resized")];
    for case in cases.iter().flat_map(|cases| cases.as_array().expect("a list")) {
        let picture = image::decode(&bytes(case["file"].as_str().expect("a file"))).expect("rgb");
        let (height, width) = (number(&case["size"][0]), number(&case["size"][1]));
        let filter = match case["filter"].as_str() {
            Some("lanczos") => Filter::Lanczos,
            Some("bilinear") => Filter::Bilinear,
            _ => Filter::Bicubic,
        };
        for (who, rounding) in [("pillow", Rounding::Pillow), ("torch", Rounding::Torch)] {
            let Some(want) = case[who].as_str() else { continue };
            let out = image::resize(&picture, width, height, filter, rounding).expect("resized");
            if sha256(out.bytes()) != want {
                wrong.push(format!("{who}: {case}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a tower gets, in the order of transformers: Qwen's patches, else `[3][height][width]`, with
/// several squares one above the other.
fn values(processor: &Processor, parts: &[Processed]) -> Vec<f32> {
    let settings = &processor.settings;
    if settings.kind == Kind::Qwen {
        let patches = parts[0].patches(settings).expect("patches");
        let width = patches.width;
        let mut all = vec![0.0; patches.count() * width];
        for (n, out) in all.chunks_exact_mut(width).enumerate() {
            patches.write(n, out);
        }
        return all;
    }
    let colour = |c: usize| {
        let bytes = parts.iter().flat_map(move |p| p.image.bytes().iter().skip(c).step_by(3));
        bytes.map(move |&byte| settings.normalise.of(c, byte))
    };
    (0..3).flat_map(colour).collect()
}

#[test]
fn pictures_are_processed_to_the_bit() {
    let mut wrong = Vec::new();
    for case in expected("processed").as_array().expect("a list") {
        let (kind, patch, merge) = match case["kind"].as_str() {
            Some("Qwen") => (Kind::Qwen, 14, 2),
            Some("Square") => (Kind::Square, 14, 1),
            Some("CentreCrop") => (Kind::CentreCrop, 14, 1),
            Some("AnyResolution") => (Kind::AnyResolution, 14, 1),
            Some("Crops") => (Kind::Square, 14, 1),
            Some("Gemma4") => (Kind::Gemma4, 16, 3),
            _ => (Kind::Pixtral, 16, 1),
        };
        let keys = case["settings"].as_object().expect("settings");
        let settings = Settings::read("case", keys, kind, patch, merge).expect("settings");
        let processor = Processor { settings };
        let picture = image::decode(&bytes(case["file"].as_str().expect("a file"))).expect("rgb");

        let parts = processor.parts(&picture).expect("processed");
        let first = &parts[0];
        let grid = serde_json::json!([first.rows, first.columns]);
        let height: usize = parts.iter().map(|part| part.image.height()).sum();
        let shape = serde_json::json!([height, first.image.width()]);
        let same = if kind == Kind::Qwen { grid == case["grid"] } else { shape == case["shape"] };
        let values = values(&processor, &parts);
        let digest = sha256(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        if !same || digest != case["sha256"] {
            wrong.push(format!("{grid} {shape} of {case}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// All squares of a picture, one behind the other, and how many there are side by side.
#[test]
fn pictures_are_cut_into_squares_to_the_bit() {
    let mut wrong = Vec::new();
    for row in of_file("tiled.json", "tiled").as_array().expect("a list") {
        let kind = match row["kind"].as_str() {
            Some("OwnTiles") => Kind::OwnTiles,
            Some("Squares") => Kind::Squares,
            _ => Kind::Tiles,
        };
        let keys = row["settings"].as_object().expect("settings");
        let settings = Settings::read("case", keys, kind, 14, 1).expect("settings");
        let processor = Processor { settings };

        for case in row["cases"].as_array().expect("a list") {
            let file = bytes(case["file"].as_str().expect("a file"));
            let picture = image::decode(&file).expect("rgb");
            let (rows, columns) = processor.squares(picture.height(), picture.width());
            let parts = processor.parts(&picture).expect("parts");
            let of_part = |part| values(&processor, std::slice::from_ref(part));
            let all: Vec<f32> = parts.iter().flat_map(of_part).collect();
            let digest = sha256(&all.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
            let grid = &case["grid"];
            let same = grid.is_null() || *grid == serde_json::json!([columns, rows]);
            if !same || parts.len() != number(&case["parts"]) || digest != case["sha256"] {
                let name = &row["name"];
                wrong.push(format!("{name}: {rows} x {columns}, {} parts of {case}", parts.len()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_no_image_is_one_line_of_error() {
    let png = bytes("png_2_8.png");
    let mut bomb = png.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    // Header and length of IHDR, whose sum must be right to be read at all.
    let jpeg = bytes("jpeg_2_95_s_37.jpg");
    let mut wide = jpeg.clone();
    let frame = wide.windows(2).position(|w| w == [0xff, 0xc0]).expect("a frame");
    wide[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    let cases: [(&[u8], &str); 7] = [
        (b"", "cannot identify image file"),
        (b"hello", "cannot identify image file"),
        (&png[..60], "image file is truncated or damaged"),
        (&bomb, "image file is truncated or damaged"),
        (&jpeg[..jpeg.len() / 2], "image file is truncated or damaged"),
        (&jpeg[..20], "image file is truncated or damaged"),
        (&wide, "Image size (3600000000 pixels) exceeds limit of 89478485 pixels"),
    ];
    for (file, message) in cases {
        let error = image::decode(file).expect_err(message);
        assert!(error.message().starts_with(message), "{error}");
        assert!(!error.message().contains('\n'), "{error}");
    }
}

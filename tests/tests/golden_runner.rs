//! The golden runner itself: whatever is wrong with a case or an answer must go red.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, path::Path};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use strata_tests::golden::{Answer, Case, Golden, Verdict, failures, mismatches, summary};

const SOUND: &str = "conditioning/ldm_class_embedder_a";

/// A copy of a sound case, changed by `edit`, in a root of its own; answers the verdict of a strict run.
fn verdict_after(edit: impl Fn(&mut Value, &mut BTreeMap<String, Tensor>)) -> Verdict {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(SOUND);
    std::fs::create_dir_all(&dir).unwrap();
    let source = Golden::own().root().join(SOUND);
    let mut json: Value = serde_json::from_slice(&std::fs::read(source.join("case.json")).unwrap()).unwrap();
    let mut tensors: BTreeMap<String, Tensor> =
        strata_nn::weights::load(&source.join("tensors.safetensors"), &Device::Cpu).unwrap().tensors.into_iter().collect();
    edit(&mut json, &mut tensors);
    std::fs::write(dir.join("case.json"), json.to_string()).unwrap();
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    strata_nn::weights::save(&dir.join("tensors.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    Golden::at(root.path()).run(&dir).verdict
}

fn problems(edit: impl Fn(&mut Value, &mut BTreeMap<String, Tensor>)) -> String {
    match verdict_after(edit) {
        Verdict::Failed(problems) => problems.join("\n"),
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[test]
fn golden_runner_passes_a_sound_case() {
    assert_eq!(verdict_after(|_, _| ()), Verdict::Passed);
}

#[test]
fn golden_runner_sees_one_wrong_element() {
    let text = problems(|_, tensors| {
        let want = tensors["out.c"].clone();
        let mut values = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[17] += 1e-6;
        values[20] += 1.0;
        tensors.insert("out.c".to_string(), Tensor::from_vec(values, want.shape(), &Device::Cpu).unwrap());
    });
    assert!(
        text.contains("`out.c`: 2 of ") && text.contains("first [1, 0, 1]: got ") && text.contains("largest [1, 0, 4]"),
        "{text}"
    );
}

#[test]
fn golden_runner_sees_missing_unknown_and_untolerated_outputs() {
    let rename = |from: &'static str, to: &'static str| {
        problems(move |json, tensors| {
            let tensor = tensors.remove(from).unwrap();
            tensors.insert(to.to_string(), tensor);
            let tolerance = json["tolerance"].as_object_mut().unwrap();
            let value = tolerance.remove(from).unwrap();
            tolerance.insert(to.to_string(), value);
        })
    };
    let text = rename("out.c", "out.other");
    assert!(text.contains("`out.other`: not answered") && text.contains("`out.c`: answered but unknown"), "{text}");
    let text = problems(|json, _| json["tolerance"] = json!({}));
    assert!(text.contains("`out.c`: the case gives no tolerance"), "{text}");
    let text = problems(|json, _| json["tolerance"]["out.c"] = json!({"rtol": 0.0}));
    assert!(text.contains("neither \"exact\" nor"), "{text}");
    let text = problems(|_, tensors| drop(tensors.remove("out.c")));
    assert!(text.contains("expects nothing") && text.contains("no such tensor"), "{text}");
    let text = problems(|_, tensors| drop(tensors.insert("side".to_string(), tensors["in.class"].clone())));
    assert!(text.contains("unknown role"), "{text}");
}

#[test]
fn golden_runner_sees_wrong_shapes_and_dtypes() {
    let text = problems(|_, tensors| {
        let squeezed = tensors["out.c"].squeeze(1).unwrap();
        tensors.insert("out.c".to_string(), squeezed);
    });
    assert!(text.contains("expected shape"), "{text}");
    let text = problems(|_, tensors| {
        let integer = tensors["out.c"].to_dtype(DType::I64).unwrap();
        tensors.insert("out.c".to_string(), integer);
    });
    assert!(text.contains("expected i64, got f32"), "{text}");
    let text = problems(|json, tensors| {
        json["dtype"] = json!("float64");
        let double = tensors["out.c"].to_dtype(DType::F64).unwrap();
        tensors.insert("out.c".to_string(), double);
    });
    assert!(text.contains("expected f64, got f32"), "{text}");
}

#[test]
fn golden_runner_sees_unknown_kinds_keys_and_fills() {
    let text = problems(|json, _| json["kind"] = json!("clas_embedder"));
    assert!(text.contains("unknown kind `clas_embedder`"), "{text}");
    let text = problems(|json, _| json["config"]["dropout"] = json!(0.5));
    assert!(text.contains("dropout"), "{text}");
    assert_eq!(verdict_after(|json, _| json["config"]["_remark"] = json!("no key of the source")), Verdict::Passed);
    let text = problems(|json, _| json["weights"]["fill"] = json!("splitmix64-v2"));
    assert!(text.contains("splitmix64-v2"), "{text}");
    let text = problems(|json, _| json["extra"] = json!(1));
    assert!(text.contains("unknown key `extra`"), "{text}");
}

#[test]
fn golden_runner_refuses_to_skip() {
    let root = tempfile::tempdir().unwrap();
    assert!(Golden::at(root.path()).check().is_err(), "an empty directory");
    assert!(Golden::at(root.path().join("absent")).check().is_err(), "an absent directory");
    let dir = root.path().join("optim/broken");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("case.json"), "{").unwrap();
    let nameless = root.path().join("optim/nameless");
    std::fs::create_dir_all(&nameless).unwrap();
    std::fs::write(nameless.join("tensors.safetensors"), "").unwrap();
    let reports = Golden::at(root.path()).run_area("optim").unwrap();
    assert_eq!(reports.len(), 2);
    let text = failures(&reports);
    assert!(text.contains("optim/broken") && text.contains("optim/nameless"), "{text}");
    assert!(summary("optim", &reports).ends_with("2 FAILED"));
    std::fs::create_dir_all(root.path().join("poetry/sonnet")).unwrap();
    std::fs::write(root.path().join("poetry/sonnet/case.json"), "{}").unwrap();
    assert!(Golden::at(root.path()).check().unwrap_err().to_string().contains("unknown area"));
}

/// A kind that nothing implements fails where the directory is given, and is pending in the project's own cases.
#[test]
fn golden_runner_treats_pending_kinds_by_the_directory() {
    let Some(kind) = strata_tests::kinds::PENDING.first() else { return };
    let text = problems(|json, _| json["kind"] = json!(kind));
    assert!(text.contains("no code implements"), "{text}");
}

fn case_of(want: &Tensor, tolerance: &Value) -> (tempfile::TempDir, Case) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("optim/case");
    std::fs::create_dir_all(&dir).unwrap();
    let json = json!({"kind": "k", "config": {}, "tolerance": {"out.x": tolerance}});
    std::fs::write(dir.join("case.json"), json.to_string()).unwrap();
    strata_nn::weights::save(&dir.join("tensors.safetensors"), &[("out.x".into(), want.clone())], &BTreeMap::new()).unwrap();
    let case = Case::read(&dir, root.path()).unwrap();
    (root, case)
}

#[test]
fn golden_comparison_of_infinities_and_nan_is_exact() {
    let tensor = |v: &[f32]| Tensor::new(v, &Device::Cpu).unwrap();
    let near = json!({"rtol": 0.5, "atol": 0.5});
    let check = |want: &[f32], got: &[f32]| {
        let (_root, case) = case_of(&tensor(want), &near);
        mismatches(&case, &Answer::new().with("out.x", tensor(got))).is_empty()
    };
    assert!(check(&[f32::INFINITY, f32::NAN, 1.0], &[f32::INFINITY, f32::NAN, 1.9]));
    assert!(!check(&[f32::INFINITY], &[1.0]));
    assert!(!check(&[f32::INFINITY], &[f32::NEG_INFINITY]));
    assert!(!check(&[1.0], &[f32::NAN]));
    assert!(!check(&[1.0], &[f32::INFINITY]));
    assert!(!check(&[f32::NAN], &[1.0]));
    assert!(!check(&[1.0], &[2.1]));
}

#[test]
fn golden_comparison_of_integers_is_exact_unless_the_case_says_otherwise() {
    let tensor = |v: &[i64]| Tensor::new(v, &Device::Cpu).unwrap();
    let check = |tolerance: &Value, want: i64, got: i64| {
        let (_root, case) = case_of(&tensor(&[want]), tolerance);
        mismatches(&case, &Answer::new().with("out.x", tensor(&[got]))).is_empty()
    };
    let large = (1i64 << 53) + 1;
    assert!(check(&json!("exact"), large, large));
    assert!(!check(&json!("exact"), large, large - 1), "integers beyond float64's");
    assert!(check(&json!({"rtol": 0.0, "atol": 1.0}), 7, 8));
    assert!(!check(&json!({"rtol": 0.0, "atol": 1.0}), 7, 9));
}

#[test]
fn golden_files_are_found_in_the_case_then_its_root_then_the_project() {
    let (root, case) = case_of(&Tensor::new(&[1f32], &Device::Cpu).unwrap(), &json!("exact"));
    let own = case.file("conditioning/vocab/bert_uncased_vocab.txt").unwrap();
    assert!(own.starts_with(Golden::own().root()));
    for folder in ["conditioning/vocab", "optim/case/conditioning/vocab"] {
        let folder: &Path = &root.path().join(folder);
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("bert_uncased_vocab.txt"), "").unwrap();
        let found = case.file("conditioning/vocab/bert_uncased_vocab.txt").unwrap();
        assert_eq!(found.parent(), Some(folder));
    }
    assert!(case.file("conditioning/vocab/absent.txt").unwrap_err().to_string().contains("absent.txt"));
}

//! Downloads from a hub that fails in every way there is, into the cache that Python's libraries share.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{fs, path::Path, time::Duration};

use common::hub::{COMMIT, Fault, Hub, TOKEN};
use strata_hub::{Client, Error, Kind, Settings, Silent, Spec, Upload, Wanted, pull, pull_file, push};

/// Bytes that no part of repeats.
fn noise(n: usize) -> Vec<u8> {
    let mut x = 1u64;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 56) as u8
    };
    (0..n).map(|_| next()).collect()
}

fn hub() -> Hub {
    Hub::new(&[
        ("config.json", b"{}\n".to_vec(), false),
        ("empty.txt", Vec::new(), false),
        ("unet/model weights.bin", noise(1000), false),
        ("weights.safetensors", noise(700_000), true),
    ])
}

fn client(hub: &Hub, cache: &Path, token: Option<&str>) -> Client {
    Client::new(Settings {
        cache: cache.to_path_buf(),
        endpoint: Some(hub.endpoint()),
        token: token.map(ToString::to_string),
        offline: false,
        attempts: 3,
        first_wait: Duration::ZERO,
        silence: Duration::from_millis(300),
        workers: 2,
    })
    .unwrap()
}

fn repo() -> strata_hub::Repository {
    Spec::parse("owner/name", Kind::Model).unwrap().repo
}

/// Everything below a folder, links as what they point to.
fn listing(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        match fs::read_link(&path) {
            Ok(target) => all.push(format!("{name} -> {}", target.display())),
            Err(_) if path.is_dir() => all.extend(listing(&path).into_iter().map(|inner| format!("{name}/{inner}"))),
            Err(_) => all.push(name),
        }
    }
    all.sort();
    all
}

#[test]
fn hub_files_lie_where_python_looks_for_them() {
    for bare_list in [false, true] {
        let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
        hub.state().bare_list = bare_list;
        let client = client(&hub, dir.path(), Some(TOKEN));
        let pulled = pull(&client, &repo(), &Wanted::All, &Silent).unwrap();
        let folder = dir.path().join("models--owner--name");
        assert_eq!(pulled.folder, folder.join("snapshots").join(COMMIT));
        assert_eq!(pulled.bytes, 701_003);
        assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
        let files = hub.state().files.clone();
        let mut expected: Vec<String> = files.values().map(|file| format!("blobs/{}", file.id())).collect();
        for (path, file) in &files {
            let up = "../".repeat(path.split('/').count() + 1);
            expected.push(format!("snapshots/{COMMIT}/{path} -> {up}blobs/{}", file.id()));
            assert_eq!(fs::read(pulled.folder.join(path)).unwrap(), file.content, "{path}");
        }
        expected.push("refs/main".into());
        expected.sort();
        assert_eq!(listing(&folder), expected);
        // The storage is another host, and not to know the token.
        let storage = hub.seen("/cdn/");
        assert!(storage.len() == 1 && storage[0].header("authorization").is_none(), "{storage:?}");
        let own = hub.seen("/owner/name/resolve");
        assert!(own.iter().all(|request| request.header("authorization") == Some(&format!("Bearer {TOKEN}"))), "{own:?}");
        // What is there is not fetched again.
        hub.state().log.clear();
        pull(&client, &repo(), &Wanted::All, &Silent).unwrap();
        assert!(hub.state().log.iter().all(|request| request.method == "HEAD" || request.path.starts_with("/api/")));
    }
}

#[test]
fn hub_failures_on_the_way_are_mended_and_the_file_is_the_same() {
    use Fault::{Corrupt, Cut, Stall, Status, Whole};
    const FILE: &str = "/cdn/weights.safetensors";
    let again = |status| Status(status, vec![("Retry-After", "0")]);
    for (faults, ranges) in [
        (vec![again(500), again(429)], vec![0, 0, 0]),
        (vec![Cut(0), Cut(300_000)], vec![0, 0, 300_000]),
        (vec![Cut(100_000), Cut(100_000), Cut(100_000), Cut(100_000)], vec![0, 100_000, 200_000, 300_000, 400_000]),
        (vec![Stall(300_000)], vec![0, 300_000]),
        (vec![Cut(300_000), Whole], vec![0, 300_000]),
        (vec![Corrupt], vec![0, 0]),
        (vec![Cut(300_000), Corrupt], vec![0, 300_000, 0]),
    ] {
        let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
        hub.fail(FILE, &faults);
        let path = pull_file(&client(&hub, dir.path(), None), &repo(), "weights.safetensors", &Silent).unwrap();
        assert!(fs::read(path).unwrap() == noise(700_000), "{faults:?}");
        let range = |request: &common::hub::Request| {
            request.header("range").map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap())
        };
        assert_eq!(hub.seen(FILE).iter().map(range).collect::<Vec<u64>>(), ranges, "{faults:?}");
    }
}

#[test]
fn hub_what_is_not_whole_does_not_look_so() {
    use Fault::{Corrupt, Cut, Instead, Status};
    for (faults, expected) in [
        (vec![Cut(0); 3], "after 0 of 700000 bytes (3 attempts)"),
        (vec![Status(503, vec![]); 3], "503"),
        (vec![Corrupt; 2], "what arrived has 700000 bytes and the hash"),
        (vec![Instead("version https://git-lfs.github.com/spec/v1\noid")], "the pointer that git keeps"),
    ] {
        let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
        hub.fail("/cdn/weights.safetensors", &faults);
        let client = client(&hub, dir.path(), None);
        let error = pull(&client, &repo(), &Wanted::Matching(vec!["w*".into()]), &Silent).unwrap_err();
        assert!(error.to_string().contains(expected) && error.to_string().contains("owner/name/weights"), "{error}");
        let folder = dir.path().join("models--owner--name");
        assert!(listing(&folder).iter().all(|file| file.ends_with(".incomplete")), "{:?}", listing(&folder));
        // It goes on from there, and is right in the end.
        let path = pull_file(&client, &repo(), "weights.safetensors", &Silent).unwrap();
        assert!(fs::read(path).unwrap() == noise(700_000));
    }
}

#[test]
fn hub_refusals_say_what_to_do() {
    for (status, code, token, message, remedy) in [
        (401, "RepoNotFound", None, "does not exist, or is private", "HF_TOKEN"),
        (401, "GatedRepo", None, "is gated", "agree there"),
        (403, "GatedRepo", Some("hf_other"), "is gated", "agree there"),
        (403, "", Some("hf_other"), "may not be read with this token", "HF_TOKEN"),
        (404, "RepoNotFound", Some("hf_other"), "does not exist", "check the name"),
    ] {
        let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
        hub.state().refuses = Some((status, code));
        let error = pull(&client(&hub, dir.path(), token), &repo(), &Wanted::All, &Silent).unwrap_err();
        assert!(error.to_string().starts_with("owner/name: ") && error.to_string().contains(message), "{error}");
        assert!(error.remedy().unwrap().contains(remedy), "{error}");
        pull(&client(&hub, dir.path(), Some(TOKEN)), &repo(), &Wanted::All, &Silent).unwrap();
    }
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let client = client(&hub, dir.path(), None);
    let elsewhere = Spec::parse("owner/name@v9", Kind::Model).unwrap().repo;
    let error = pull(&client, &elsewhere, &Wanted::All, &Silent).unwrap_err();
    assert!(error.to_string().contains("owner/name@v9: has no such revision"), "{error}");
    let error = pull_file(&client, &repo(), "none.bin", &Silent).unwrap_err();
    assert!(error.to_string().contains("owner/name/none.bin: has no such file"), "{error}");
    let error = pull(&client, &repo(), &Wanted::Matching(vec!["*.onnx".into()]), &Silent).unwrap_err();
    assert!(error.to_string().contains("there are config.json"), "{error}");
    hub.state().files.insert("../../evil".into(), common::hub::Stored { content: b"x".to_vec(), large: false });
    let error = pull(&client, &repo(), &Wanted::All, &Silent).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }) && !dir.path().join("evil").exists(), "{error}");
}

#[test]
fn hub_offline_uses_what_is_there() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    pull_file(&client(&hub, dir.path(), None), &repo(), "config.json", &Silent).unwrap();
    hub.state().log.clear();
    let settings = Settings { offline: true, cache: dir.path().to_path_buf(), ..Settings::from_env(true) };
    let offline = Client::new(settings).unwrap();
    assert_eq!(fs::read(pull_file(&offline, &repo(), "config.json", &Silent).unwrap()).unwrap(), b"{}\n");
    assert_eq!(pull(&offline, &repo(), &Wanted::All, &Silent).unwrap().files, ["config.json"]);
    assert!(matches!(pull_file(&offline, &repo(), "empty.txt", &Silent), Err(Error::Offline(_))));
    assert!(hub.state().log.is_empty());
}

#[test]
fn hub_is_written_in_one_commit() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let file = |name: &str, content: &[u8]| {
        fs::write(dir.path().join(name), content).unwrap();
        Upload { file: dir.path().join(name), path: name.into() }
    };
    let files = [file("model.safetensors", &noise(5000)), file("README.md", b"# hello\n")];
    let stop = || false;
    let refused = push(&client(&hub, dir.path(), None), &repo(), &files, ("first", false), &stop).unwrap_err();
    assert!(refused.remedy().unwrap().contains("HF_TOKEN"), "{refused}");
    hub.fail("/api/repos/create", &[Fault::Status(409, vec![])]);
    let pushed = push(&client(&hub, dir.path(), Some(TOKEN)), &repo(), &files, ("first", false), &stop).unwrap();
    assert_eq!(pushed.sent, 5008);
    let large = common::hub::Stored { content: noise(5000), large: true };
    let uploaded = hub.state().uploaded.clone();
    assert!(uploaded[&large.id()] == large.content);
    let commit: Vec<serde_json::Value> =
        std::str::from_utf8(&uploaded["commit"]).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(commit[0]["value"]["summary"], "first");
    assert_eq!(commit[1]["value"]["oid"], large.id());
    assert_eq!(commit[2]["value"]["content"], "IyBoZWxsbwo=");
    let again = push(&client(&hub, dir.path(), Some(TOKEN)), &repo(), &files, ("second", false), &stop).unwrap();
    assert_eq!(again.sent, 8, "the large file is there already");
}

#[test]
fn hub_takes_a_large_file_in_parts() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let file = dir.path().join("model.safetensors");
    fs::write(&file, noise(5000)).unwrap();
    let files = [Upload { file, path: "model.safetensors".into() }];
    let large = common::hub::Stored { content: noise(5000), large: true };
    hub.state().chunk = Some(2048);
    // A part that fails is sent again.
    hub.fail(&format!("/put/{}/2", large.id()), &[Fault::Status(503, vec![])]);
    let pushed = push(&client(&hub, dir.path(), Some(TOKEN)), &repo(), &files, ("first", false), &|| false).unwrap();
    assert_eq!(pushed.sent, 5000);
    assert!(hub.state().uploaded[&large.id()] == large.content);
    assert_eq!(hub.seen(&format!("/put/{}", large.id())).len(), 4);
}

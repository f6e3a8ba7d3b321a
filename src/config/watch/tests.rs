use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// Far longer than anything here takes; reached only on failure.
const DEADLINE: Duration = Duration::from_secs(20);

struct Scene {
    directory: tempfile::TempDir,
    path: PathBuf,
    watch: Watch,
}

impl Scene {
    /// A file in a directory, watched. The poll is too rare to help: events alone must do.
    async fn start(make: impl FnOnce(&Path) -> PathBuf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = make(directory.path());
        let seen = fingerprint(&path);
        let mut watch = Watch::with_poll_interval(&path, seen, Duration::from_hours(1));
        // The look at the start finds nothing new.
        assert!(timeout(Duration::from_millis(10), watch.changed()).await.is_err());
        Self { directory, path, watch }
    }

    async fn plain() -> Self {
        Self::start(|directory| {
            let path = directory.join("quoit.toml");
            fs::write(&path, "0").unwrap();
            path
        })
        .await
    }

    /// Waits until the watch reports the content that the file has now.
    #[track_caller]
    fn expect_edited(&mut self) -> impl Future<Output = ()> {
        let want = hash(&self.path);
        async move {
            loop {
                let change = timeout(DEADLINE, self.watch.changed()).await.expect("the change is noticed");
                assert_eq!(change, Change::Edited);
                if self.watch.seen == want {
                    return;
                }
            }
        }
    }

    fn rename_over(&self, content: &str) {
        let temporary = self.directory.path().join(".quoit.toml.swp");
        fs::write(&temporary, content).unwrap();
        fs::rename(&temporary, &self.path).unwrap();
    }
}

#[tokio::test]
async fn renamed_over_again_and_again() {
    let mut scene = Scene::plain().await;
    for round in 1..4 {
        scene.rename_over(&round.to_string());
        scene.expect_edited().await;
    }
}

#[tokio::test]
async fn truncated_and_written() {
    let mut scene = Scene::plain().await;
    for round in 1..4 {
        fs::write(&scene.path, round.to_string()).unwrap();
        scene.expect_edited().await;
    }
}

#[tokio::test]
async fn deleted_and_made_again() {
    let mut scene = Scene::plain().await;
    fs::remove_file(&scene.path).unwrap();
    scene.expect_edited().await;
    assert_eq!(scene.watch.seen, None);
    fs::write(&scene.path, "0").unwrap();
    scene.expect_edited().await;
}

#[tokio::test]
async fn directory_deleted_and_made_again() {
    let mut scene = Scene::start(|directory| {
        let path = directory.join("inner/quoit.toml");
        fs::create_dir(directory.join("inner")).unwrap();
        fs::write(&path, "0").unwrap();
        path
    })
    .await;
    fs::remove_dir_all(scene.path.parent().unwrap()).unwrap();
    scene.expect_edited().await;
    // Its directory cannot be watched before it is there: this is what the poll is for.
    fs::create_dir(scene.path.parent().unwrap()).unwrap();
    fs::write(&scene.path, "1").unwrap();
    scene.watch.poll_at = Instant::now();
    scene.expect_edited().await;
    fs::write(&scene.path, "2").unwrap();
    scene.expect_edited().await;
}

/// What the kubelet does: `quoit.toml` → `..data/quoit.toml`, `..data` → `..2026_1`, and `..data` is renamed over.
#[tokio::test]
async fn config_map_swapped() {
    let mut scene = Scene::start(|directory| {
        fs::create_dir(directory.join("..0")).unwrap();
        fs::write(directory.join("..0/quoit.toml"), "0").unwrap();
        symlink("..0", directory.join("..data")).unwrap();
        symlink("..data/quoit.toml", directory.join("quoit.toml")).unwrap();
        directory.join("quoit.toml")
    })
    .await;
    let root = scene.directory.path().to_owned();
    for round in 1..4 {
        let version = format!("..{round}");
        fs::create_dir(root.join(&version)).unwrap();
        fs::write(root.join(&version).join("quoit.toml"), round.to_string()).unwrap();
        symlink(&version, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        fs::remove_dir_all(root.join(format!("..{}", round - 1))).unwrap();
        scene.expect_edited().await;
    }
}

#[tokio::test]
async fn link_into_another_directory() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.toml");
    fs::write(&target, "0").unwrap();
    let mut scene = Scene::start(|directory| {
        symlink(&target, directory.join("quoit.toml")).unwrap();
        directory.join("quoit.toml")
    })
    .await;
    let temporary = elsewhere.path().join("new");
    fs::write(&temporary, "1").unwrap();
    fs::rename(&temporary, &target).unwrap();
    scene.expect_edited().await;
}

#[tokio::test]
async fn other_files_and_equal_content_are_no_change() {
    let mut scene = Scene::plain().await;
    fs::write(scene.directory.path().join("4913"), "vim tries whether it may write").unwrap();
    fs::write(scene.directory.path().join("quoit.toml~"), "backup").unwrap();
    scene.rename_over("0");
    // Nothing may be reported before the edit that follows.
    scene.rename_over("1");
    scene.expect_edited().await;
    // Once it is quiet, looking leaves nothing behind that would make the watch look again.
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(timeout(QUIET * 2, scene.watch.changed()).await.is_err());
        if !scene.watch.signals.touched.load(Ordering::Acquire) {
            return;
        }
        assert!(Instant::now() < deadline, "the watch wakes itself");
    }
}

#[tokio::test]
async fn pokes_are_reported_and_merged() {
    let mut scene = Scene::plain().await;
    let poke = scene.watch.poke();
    poke.poke();
    poke.poke();
    assert_eq!(timeout(DEADLINE, scene.watch.changed()).await, Ok(Change::Poked));
    assert!(timeout(QUIET, scene.watch.changed()).await.is_err());
}

#[tokio::test]
async fn nothing_is_lost_when_the_wait_is_dropped() {
    let mut scene = Scene::plain().await;
    scene.rename_over("1");
    for _ in 0..5 {
        // Dropped in the middle of the quiet time, except where the machine itself was quiet for longer.
        if timeout(QUIET / 4, scene.watch.changed()).await == Ok(Change::Edited) {
            return;
        }
    }
    scene.expect_edited().await;
}

#[tokio::test]
async fn an_edit_before_the_start_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("quoit.toml");
    fs::write(&path, "1").unwrap();
    let mut watch = Watch::start(&path, Some(content_hash(b"0")));
    assert_eq!(timeout(DEADLINE, watch.changed()).await, Ok(Change::Edited));
}

#[tokio::test]
async fn without_a_watcher_the_poll_finds_it() {
    let mut scene = Scene::plain().await;
    scene.watch.watcher = None;
    scene.watch.poll_interval = Duration::from_millis(20);
    scene.watch.poll_at = Instant::now();
    scene.rename_over("1");
    scene.expect_edited().await;
}

use std::os::fd::AsRawFd;
use std::process::Child;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use super::fake_vmm::fake_vmm;
use super::*;

fn privileges() -> (tempfile::TempDir, Paths, PodPrivileges) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
    for path in [paths.pod_state("pod"), paths.pod_run("pod")] {
        std::fs::create_dir_all(path).unwrap();
    }
    let of_pod = Privileges::new(&paths).of_pod("pod").unwrap();
    (dir, paths, of_pod)
}

fn identity(process: &Child) -> ProcessIdentity {
    ProcessIdentity::of(i32::try_from(process.id()).unwrap()).unwrap()
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn an_invalid_uid_gets_no_privileges() {
    let privileges = Privileges::new(&Paths::new("/nonexistent".into(), "/nonexistent".into()));
    for uid in ["", ".", "..", "a/b", "../a", "a b", "a\0", "ä", &"a".repeat(64)] {
        assert!(privileges.of_pod(uid).is_err(), "{uid:?}");
    }
    assert!(privileges.of_pod("3f0c9d1e-8a7b-4c5d-9e0f-1a2b3c4d5e6f").is_ok());
}

#[tokio::test]
async fn a_scratch_disk_is_created_once_reused_and_released() {
    let (_dir, paths, pod) = privileges();
    let disk = pod.scratch_disk(Lifetime::Boot).await.unwrap();
    std::os::unix::fs::FileExt::write_all_at(&disk, b"a guest's", 0).unwrap();
    let again = pod.scratch_disk(Lifetime::Boot).await.unwrap();
    let mut content = [0; 9];
    std::os::unix::fs::FileExt::read_exact_at(&again, &mut content, 0).unwrap();
    assert_eq!(&content, b"a guest's");
    volume::remove_scratch_disk(&pod.scratch_path()).unwrap();
    assert!(!paths.pod_state("pod").join("scratch.img").exists());
}

#[tokio::test]
async fn symbolic_links_in_the_pods_directory_are_not_followed() {
    let (dir, _paths, pod) = privileges();
    let other = dir.path().join("other");
    std::fs::write(&other, "another's").unwrap();

    std::os::unix::fs::symlink(&other, pod.scratch_path()).unwrap();
    assert!(pod.scratch_disk(Lifetime::Boot).await.is_err());
    std::fs::remove_file(pod.scratch_path()).unwrap();
    // The same under the name of an unfinished disk.
    std::os::unix::fs::symlink(&other, pod.scratch_path().with_extension("new")).unwrap();
    assert!(pod.scratch_disk(Lifetime::Boot).await.is_err());
    assert_eq!(std::fs::read(&other).unwrap(), b"another's");

    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = dir.path().join("listener");
    bind(listener.as_raw_fd(), &UnixAddr::new(&address).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    std::os::unix::fs::symlink(&address, pod.vmm_socket()).unwrap();
    assert!(matches!(pod.connect_vmm().await, Err(VmmError::Connect { .. })));
    std::fs::rename(&address, pod.vmm_socket()).unwrap();
    assert!(pod.connect_vmm().await.is_ok());
}

#[tokio::test]
async fn only_vmms_of_the_pod_are_killed() {
    let (dir, _paths, pod) = privileges();
    let (mut own, mut unnoted, mut others) = (
        fake_vmm("pod", dir.path()),
        fake_vmm("pod", dir.path()),
        fake_vmm("other", dir.path()),
    );
    let other = identity(&others);
    assert!(matches!(
        pod.kill_vmm(other.clone(), PATIENCE).await,
        Err(VmmError::NotOfPod(_))
    ));
    assert!(pod.kill_vmm(identity(&own), PATIENCE).await.unwrap());
    own.wait().unwrap();

    // A wrong record does not prevent the Pod's VMMs from being ended.
    assert!(pod.end_vmms(Some(other.clone()), PATIENCE).await.unwrap());
    unnoted.wait().unwrap();
    assert!(other.is_alive());
    others.kill().unwrap();
    others.wait().unwrap();
    assert!(pod.kill_vmm(other, PATIENCE).await.unwrap(), "it has ended");
}

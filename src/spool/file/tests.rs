use std::os::unix::fs::PermissionsExt;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::session::{Client, LoginMethod};
use gatelog_events::ids::TenantId;
use gatelog_events::seal::SubjectKey;
use uuid::Uuid;

use super::*;
use crate::spool::SpooledLogin;

const ROOMY: Option<SpoolConfig> = Some(SpoolConfig { max_bytes: 1 << 20 });

fn session(n: u128) -> SessionId {
    SessionId(Uuid::from_u128(n))
}

fn body(user: u128, n: u128) -> Vec<u8> {
    let login = SpooledLogin {
        tenant: TenantId::default(),
        user: UserId(Uuid::from_u128(user)),
        session_id: session(n),
        method: LoginMethod::Password,
        credential_version: 1,
        at: Timestamp::EPOCH,
        correlation_id: Uuid::nil(),
        client: Client::default(),
        idempotency: None,
    };
    login.seal(&SubjectKey::new([1; 32]), [2; 12]).unwrap()
}

fn open(dir: &Path) -> Spool {
    Spool::open(dir, ROOMY).unwrap().unwrap()
}

fn keep(spool: &Spool, user: u128, n: u128) -> Result<(), SpoolError> {
    futures::executor::block_on(spool.append(body(user, n), session(n), None))
}

fn window(spool: &Spool) -> Vec<Place> {
    spool.window(0..spool.end(), 10, |_| false).places
}

/// What may be sent first, read from the file.
fn front(spool: &Spool) -> Vec<u128> {
    let read = |place: &Place| spool.read(*place).unwrap().session_id().0.as_u128();
    window(spool).iter().map(read).collect()
}

async fn settle(spool: &Spool, sessions: &[u128]) {
    let mut places = window(spool);
    places.retain(|place| sessions.contains(&place.session.0.as_u128()));
    assert_eq!(places.len(), sessions.len());
    spool.drained(places.iter().map(|place| place.at).collect()).await;
}

#[test]
fn there_is_no_spool_where_none_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Spool::open(dir.path(), None).unwrap().is_none());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn entries_outlive_a_restart_in_their_order_and_leave_when_drained() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let file = dir.path().join(FILE);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    for (user, n) in [(1, 11), (2, 12), (1, 13)] {
        spool.append(body(user, n), session(n), None).await.unwrap();
    }
    // The third is the first one's next.
    assert_eq!(front(&spool), [11, 12]);
    drop(spool);
    // It is drained, too, by a node that spools no more.
    let spool = Spool::open(dir.path(), None).unwrap().unwrap();
    assert_eq!((spool.len(), front(&spool)), (3, vec![11, 12]));
    assert!(matches!(
        spool.append(body(4, 14), session(14), None).await,
        Err(SpoolError::Full)
    ));
    assert!(spool.holds(session(11)) && !spool.holds(session(14)));
    settle(&spool, &[11, 12]).await;
    assert_eq!(front(&spool), [13]);
    assert!(!spool.holds(session(11)));
    settle(&spool, &[13]).await;
    assert!(spool.is_empty() && spool.bytes() == 0);
    assert_eq!(file.metadata().unwrap().len(), HEADER as u64);
}

#[tokio::test]
async fn what_settled_behind_an_obstacle_is_passed_over_until_a_restart_sends_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let one = body(1, 11).len() + format::ENTRY_HEADER;
    for n in [11, 12, 13] {
        spool.append(body(n, n), session(n), None).await.unwrap();
    }
    settle(&spool, &[12]).await;
    assert_eq!((spool.len(), front(&spool)), (2, vec![11, 13]));
    assert!(spool.holds(session(11)) && !spool.holds(session(12)));
    assert_eq!((spool.bytes(), *spool.count().borrow()), (2 * one as u64, 2));
    // Nothing in the file says which is settled, and a session starts once however often it is sent.
    drop(spool);
    let spool = open(dir.path());
    assert_eq!(front(&spool), [11, 12, 13]);
    settle(&spool, &[13]).await;
    let left = window(&spool);
    settle(&spool, &[11, 12]).await;
    assert!(spool.is_empty());
    // Another entry stands where one did that was looked up just before.
    spool.append(body(4, 14), session(14), None).await.unwrap();
    assert!(matches!(spool.read(left[0]), Err(SpoolError::Entry(_))));
}

#[test]
fn a_full_spool_says_so_and_has_room_again_when_it_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let one = (format::ENTRY_HEADER + body(1, 1).len()) as u64;
    let config = Some(SpoolConfig {
        max_bytes: HEADER as u64 + 2 * one,
    });
    let spool = Spool::open(dir.path(), config).unwrap().unwrap();
    keep(&spool, 1, 1).unwrap();
    keep(&spool, 2, 2).unwrap();
    assert_eq!(spool.bytes(), 2 * one);
    assert!(matches!(keep(&spool, 3, 3), Err(SpoolError::Full)));
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(settle(&spool, &[1, 2]));
    keep(&spool, 3, 3).unwrap();
}

#[test]
fn logins_at_once_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    std::thread::scope(|s| {
        for thread in 0..8u128 {
            let spool = &spool;
            s.spawn(move || (0..25).for_each(|n| keep(spool, thread, 100 * thread + n + 1).unwrap()));
        }
    });
    drop(spool);
    assert_eq!(open(dir.path()).len(), 200);
}

#[test]
fn a_torn_tail_is_cut_off_and_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE);
    let spool = open(dir.path());
    keep(&spool, 1, 1).unwrap();
    let first = file.metadata().unwrap().len();
    keep(&spool, 2, 2).unwrap();
    drop(spool);
    let whole = std::fs::read(&file).unwrap();

    std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let spool = open(dir.path());
    assert_eq!(front(&spool), [1]);
    assert_eq!(file.metadata().unwrap().len(), first);
    // What is kept next stands where the torn one stood.
    keep(&spool, 3, 3).unwrap();
    drop(spool);
    assert_eq!(front(&open(dir.path())), [1, 3]);

    let mut damaged = whole.clone();
    damaged[HEADER + format::ENTRY_HEADER + 5] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    let message = Spool::open(dir.path(), ROOMY).err().unwrap().to_string();
    let expected = format!("{} is damaged at byte {HEADER}", file.display());
    assert!(
        message.contains(&expected) && message.contains("truncate -s 16"),
        "{message}"
    );
    assert_eq!(
        std::fs::read(&file).unwrap(),
        damaged,
        "nothing is repaired that is not understood"
    );
    // The remedy works.
    let mut damaged = whole.clone();
    damaged[first as usize + 2] ^= 1;
    std::fs::write(&file, &damaged[..first as usize]).unwrap();
    assert_eq!(front(&open(dir.path())), [1]);
}
